"""What of the definitions both processes know: those that say what is done without the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fiscus.budgets.matching import BudgetIndex, PreparedBudget
from fiscus.budgets.rules import passes_without_store
from fiscus.ledger.apart.outcomes import Fallback
from fiscus.ledger.definitions import TenantDefinitions
from fiscus.operations import Operation


class FallbacksToTell:
    """On the ledger's side: collects what the other side has to be told."""

    def __init__(self) -> None:
        self._to_tell: dict[str, TenantDefinitions] = {}

    def refreshed(self, tenant_id: str, definitions: TenantDefinitions) -> None:
        """A tenant's definitions were read again."""
        self._to_tell[tenant_id] = definitions

    def next(self) -> list[Fallback]:
        """What has to be told now.

        That a tenant's budgets let nothing through is told too: a process before this one may have
        told otherwise.
        """
        if not self._to_tell:
            return []
        found: list[Fallback] = []
        for tenant_id, definitions in self._to_tell.items():
            budgets = definitions.budgets
            some_pass = any(map(passes_without_store, budgets))
            found.append(Fallback(tenant_id, list(budgets) if some_pass else []))
        self._to_tell.clear()
        return found


class ToldFallbacks:
    """On the other side: a `ledger.degraded.LastKnown` of what was told."""

    def __init__(self) -> None:
        self._budgets: dict[str, BudgetIndex] = {}

    def last_known(self, operation: Operation) -> Sequence[PreparedBudget] | None:
        found = self._budgets.get(operation.tenant_id)
        return None if found is None else found.counting(operation)

    def told(self, fallbacks: Iterable[Fallback]) -> None:
        for one in fallbacks:
            if one.budgets:
                self._budgets[one.tenant_id] = BudgetIndex(one.budgets)
            else:
                self._budgets.pop(one.tenant_id, None)

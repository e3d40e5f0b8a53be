"""What of the definitions both processes know: those that say what is done without the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

from msgspec import Raw

from fiscus.budgets.matching import BudgetIndex, PreparedBudget
from fiscus.budgets.model import Budget
from fiscus.budgets.rules import passes_without_store
from fiscus.ledger.apart.outcomes import Fallback
from fiscus.ledger.definitions import TenantDefinitions
from fiscus.operations import Operation
from fiscus.wire import decoder_for, encode

_NONE: Final = encode([])
_read_budgets: Final = decoder_for(list[Budget]).decode


class FallbacksToTell:
    """On the ledger's side: collects what the other side has to be told."""

    def __init__(self) -> None:
        self._to_tell: dict[str, TenantDefinitions] = {}

    def refreshed(self, tenant_id: str, definitions: TenantDefinitions) -> None:
        """Budgets of a tenant were read."""
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
            found.append(Fallback(tenant_id, Raw(encode(list(budgets)) if some_pass else _NONE)))
        self._to_tell.clear()
        return found


class ToldFallbacks:
    """On the other side: a `ledger.degraded.LastKnown` of what was told."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def last_known(self, operation: Operation) -> Sequence[PreparedBudget] | None:
        found = self._told.get(operation.tenant_id)
        return None if found is None else found.budgets.counting(operation)

    def told(self, fallbacks: Iterable[Fallback]) -> None:
        for one in fallbacks:
            as_json = bytes(one.budgets)
            if as_json == _NONE:
                self._told.pop(one.tenant_id, None)
            else:
                self._told[one.tenant_id] = _Told(as_json)


class _Told:
    """A tenant's budgets, which are only read when the store is gone: there may be very many, and
    all are told whenever one changes."""

    def __init__(self, as_json: bytes) -> None:
        self._as_json = as_json

    @cached_property
    def budgets(self) -> BudgetIndex:
        return BudgetIndex(_read_budgets(self._as_json))

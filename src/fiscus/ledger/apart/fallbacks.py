"""What of the definitions both processes know: those that say what is done without the store."""

from __future__ import annotations

import threading
import time
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
_MOST_SILENT: Final = 10_000
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
            as_json = Raw(encode(list(budgets)) if some_pass else _NONE)
            found.append(Fallback(tenant_id, time.monotonic_ns(), as_json))
        self._to_tell.clear()
        return found


class ToldFallbacks:
    """On the other side: a `ledger.degraded.LastKnown` of what was told, over several lines."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}
        self._silent_ns: dict[str, int] = {}
        """When it was told of tenants that their budgets let nothing through, of late: something
        older may be on its way over another line."""
        self._lock = threading.Lock()

    def last_known(self, operation: Operation) -> Sequence[PreparedBudget] | None:
        found = self._told.get(operation.tenant_id)
        return None if found is None else found.budgets.counting(operation)

    def told(self, fallbacks: Iterable[Fallback]) -> None:
        """Take these, but of no tenant of whom later ones came before them."""
        for one in fallbacks:
            with self._lock:
                self._take(one)

    def _take(self, one: Fallback) -> None:
        known = self._told.get(one.tenant_id)
        known_ns = self._silent_ns.get(one.tenant_id, 0) if known is None else known.at_ns
        if one.at_ns < known_ns:
            return
        as_json = bytes(one.budgets)
        if as_json != _NONE:
            self._told[one.tenant_id] = _Told(one.at_ns, as_json)
            return
        self._told.pop(one.tenant_id, None)
        if len(self._silent_ns) >= _MOST_SILENT:
            self._silent_ns.clear()
        self._silent_ns[one.tenant_id] = one.at_ns


class _Told:
    """A tenant's budgets, which are only read when the store is gone: there may be very many, and
    all are told whenever one changes."""

    def __init__(self, at_ns: int, as_json: bytes) -> None:
        self.at_ns = at_ns
        self._as_json = as_json

    @cached_property
    def budgets(self) -> BudgetIndex:
        return BudgetIndex(_read_budgets(self._as_json))

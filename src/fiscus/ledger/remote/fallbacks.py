"""The definitions that both processes know: those that say what is done without the store."""

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
from fiscus.ledger.definitions import TenantDefinitions
from fiscus.ledger.remote.results import Fallback
from fiscus.operations import Operation
from fiscus.wire.encoding import encode
from fiscus.wire.hooks import decoder_for

_NONE: Final = encode([])
_MAX_SILENT: Final = 10_000
_read_budgets: Final = decoder_for(list[Budget]).decode


class FallbackPublisher:
    """On the server's side: collects the fallbacks that have to be sent to the client's side."""

    def __init__(self) -> None:
        self._pending: dict[str, TenantDefinitions] = {}

    def refreshed(self, tenant_id: str, definitions: TenantDefinitions) -> None:
        """Budgets of a tenant were read."""
        self._pending[tenant_id] = definitions

    def next(self) -> list[Fallback]:
        """What has to be sent now.

        That a tenant's budgets let nothing through is sent too: a process before this one may have
        sent otherwise.
        """
        if not self._pending:
            return []
        found: list[Fallback] = []
        for tenant_id, definitions in self._pending.items():
            budgets = definitions.budgets
            some_pass = any(map(passes_without_store, budgets))
            as_json = Raw(encode(list(budgets)) if some_pass else _NONE)
            found.append(Fallback(tenant_id, time.monotonic_ns(), as_json))
        self._pending.clear()
        return found


class FallbackReplica:
    """On the client's side: a `ledger.degraded.LastKnown` of what was received over all lines."""

    def __init__(self) -> None:
        self._known: dict[str, _TenantFallback] = {}
        self._silent_ns: dict[str, int] = {}
        """When it was received of tenants that their budgets let nothing through, of late:
        something older may be on its way over another line."""
        self._lock = threading.Lock()

    def last_known(self, operation: Operation) -> Sequence[PreparedBudget] | None:
        found = self._known.get(operation.tenant_id)
        return None if found is None else found.budgets.counting(operation)

    def update(self, fallbacks: Iterable[Fallback]) -> None:
        """Take these, but of no tenant of whom later ones came before them."""
        for one in fallbacks:
            with self._lock:
                self._take(one)

    def _take(self, one: Fallback) -> None:
        known = self._known.get(one.tenant_id)
        known_ns = self._silent_ns.get(one.tenant_id, 0) if known is None else known.at_ns
        if one.at_ns < known_ns:
            return
        as_json = bytes(one.budgets)
        if as_json != _NONE:
            self._known[one.tenant_id] = _TenantFallback(one.at_ns, as_json)
            return
        self._known.pop(one.tenant_id, None)
        if len(self._silent_ns) >= _MAX_SILENT:
            self._silent_ns.clear()
        self._silent_ns[one.tenant_id] = one.at_ns


class _TenantFallback:
    """A tenant's budgets, which are only decoded when the store is gone: there may be very many,
    and all are sent whenever one changes."""

    def __init__(self, at_ns: int, as_json: bytes) -> None:
        self.at_ns = at_ns
        self._as_json = as_json

    @cached_property
    def budgets(self) -> BudgetIndex:
        return BudgetIndex(_read_budgets(self._as_json))

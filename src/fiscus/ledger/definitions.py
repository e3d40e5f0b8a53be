"""Definitions in memory: what each tenant's budgets, quotas and settings are, of which version.

Every group reads its tenants' versions from the store, so an entry that fell behind is refreshed
before it decides anything; only what changed is read again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from fiscus.budgets.matching import BudgetIndex, PreparedBudget
from fiscus.ledger.port import Definitions
from fiscus.operations import Operation
from fiscus.quotas.matching import QuotaIndex
from fiscus.runtime.cache_stats import CacheStats
from fiscus.tenants import TenantSettings
from fiscus.zones import DAWN

MAX_TENANTS: Final = 20_000


class TenantDefinitions:
    """One tenant's settings, live budgets and quotas that are not over, as of `version`."""

    __slots__ = ("_changing", "budgets", "quotas", "quotas_since", "settings", "version")

    def __init__(self) -> None:
        self.version = 0
        self.quotas_since = DAWN
        """Quotas whose period had ended by then are not among them."""
        self.settings = TenantSettings()
        self.budgets = BudgetIndex()
        self.quotas = QuotaIndex()
        self._changing = threading.Lock()
        """So that nobody who cannot wait for the store decides by the half of a change."""

    def apply(self, changed: Definitions, quotas_since: datetime = DAWN) -> None:
        """Take what changed since `version`, of quotas those that had not ended by a moment."""
        with self._changing:
            self.version = changed.version
            for budget_id in changed.deleted:
                self.budgets.remove(budget_id)
            for budget in changed.budgets:
                self.budgets.put(budget)
        self.settings = changed.settings
        for quota_id in changed.deleted_quotas:
            self.quotas.remove(quota_id)
        for quota in changed.quotas:
            self.quotas.put(quota)
        self.quotas.drop_ended(quotas_since)
        self.quotas_since = max(self.quotas_since, quotas_since)

    def last_known(self, operation: Operation) -> Sequence[PreparedBudget] | None:
        """The budgets that count an operation, for any thread; None when none were ever read."""
        with self._changing:
            return self.budgets.counting(operation) if self.version > 0 else None


class DefinitionCache:
    """The definitions of the tenants used of late; bounded, the least used goes first."""

    def __init__(self) -> None:
        self.lookups: Final = CacheStats()
        self._tenants: OrderedDict[str, TenantDefinitions] = OrderedDict()

    def get(self, tenant_id: str) -> TenantDefinitions:
        """The tenant's definitions as last seen; version 0 when never."""
        found = self._tenants.get(tenant_id)
        if found is None:
            found = self._tenants[tenant_id] = TenantDefinitions()
            if len(self._tenants) > MAX_TENANTS:
                self._tenants.popitem(last=False)
        else:
            self._tenants.move_to_end(tenant_id)
        return found

    def is_behind(self, tenant_id: str, version: int, now: datetime) -> bool:
        """Whether a tenant's definitions have changed, or do not reach back to `now`."""
        known = self.get(tenant_id)
        return known.version != version or now < known.quotas_since

    def reaching_back_to(self, tenant_id: str, now: datetime) -> TenantDefinitions:
        """The tenant's definitions as last seen, or none of them when quotas of `now` are gone.

        Such a clock was far ahead and was put right.
        """
        known = self.get(tenant_id)
        if now < known.quotas_since:
            known = self._tenants[tenant_id] = TenantDefinitions()
        return known

    def last_known(self, operation: Operation) -> Sequence[PreparedBudget] | None:
        """A `degraded.LastKnown`, of the tenants used of late."""
        found = self._tenants.get(operation.tenant_id)
        return None if found is None else found.last_known(operation)

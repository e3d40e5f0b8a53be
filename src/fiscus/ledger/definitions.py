"""Definitions in memory: what each tenant's budgets, quotas and settings are, of which version.

Every group reads its tenants' versions from the store, so an entry that fell behind is refreshed
before it decides anything; only what changed is read again.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import Final

from fiscus.budgets.matching import BudgetIndex
from fiscus.ledger.port import Definitions
from fiscus.lookups import Lookups
from fiscus.quotas.matching import QuotaIndex
from fiscus.tenants import TenantSettings
from fiscus.zones import DAWN

MAX_TENANTS: Final = 20_000


class TenantDefinitions:
    """One tenant's settings, live budgets and quotas that are not over, as of `version`."""

    __slots__ = ("budgets", "quotas", "quotas_since", "settings", "version")

    def __init__(self) -> None:
        self.version = 0
        self.quotas_since = DAWN
        """Quotas whose period had ended by then are not among them."""
        self.settings = TenantSettings()
        self.budgets = BudgetIndex()
        self.quotas = QuotaIndex()

    def apply(self, changed: Definitions, quotas_since: datetime = DAWN) -> None:
        """Take what changed since `version`, of quotas those that had not ended by a moment."""
        self.version = changed.version
        self.settings = changed.settings
        for budget_id in changed.deleted:
            self.budgets.remove(budget_id)
        for budget in changed.budgets:
            self.budgets.put(budget)
        for quota_id in changed.deleted_quotas:
            self.quotas.remove(quota_id)
        for quota in changed.quotas:
            self.quotas.put(quota)
        self.quotas.drop_ended(quotas_since)
        self.quotas_since = quotas_since


class DefinitionCache:
    """The definitions of the tenants used of late; bounded, the least used goes first."""

    def __init__(self, max_tenants: int = MAX_TENANTS) -> None:
        self.lookups: Final = Lookups()
        self._tenants: OrderedDict[str, TenantDefinitions] = OrderedDict()
        self._max_tenants = max_tenants

    def get(self, tenant_id: str) -> TenantDefinitions:
        """The tenant's definitions as last seen; version 0 when never."""
        found = self._tenants.get(tenant_id)
        if found is None:
            found = self._tenants[tenant_id] = TenantDefinitions()
            if len(self._tenants) > self._max_tenants:
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

    def last_known(self, tenant_id: str) -> BudgetIndex | None:
        """The budgets of a tenant that was ever loaded; for decisions without the store."""
        found = self._tenants.get(tenant_id)
        return found.budgets if found is not None and found.version > 0 else None

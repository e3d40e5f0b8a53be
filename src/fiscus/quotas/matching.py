"""Which quotas an operation meets: one look-up per scope the caller gives."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from fiscus.operations import Operation
from fiscus.quotas.model import Quota, QuotaBalance, QuotaKey
from fiscus.scopes import EVERY, ScopeType


class MatchedQuota(NamedTuple):
    """A quota that an operation meets at one moment, for one of its ids."""

    quota: Quota
    scope_id: str

    def blank(self) -> QuotaBalance:
        """The balance if nothing was used yet."""
        return QuotaBalance(QuotaKey(self.quota.quota_id, self.scope_id), self.quota.tenant_id)


_Place = tuple[ScopeType, str, str]
"""Scope type, scope id or `*`, and resource type."""


class QuotaIndex:
    """The quotas of one tenant whose periods are not over."""

    def __init__(self, quotas: Iterable[Quota] = ()) -> None:
        self._by_id: dict[str, Quota] = {}
        self._places: dict[_Place, dict[str, Quota]] = {}
        for quota in quotas:
            self.put(quota)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, quota_id: str) -> Quota | None:
        return self._by_id.get(quota_id)

    def put(self, quota: Quota) -> None:
        """Add a quota, or replace its earlier version."""
        self.remove(quota.quota_id)
        self._by_id[quota.quota_id] = quota
        self._places.setdefault(_place(quota), {})[quota.quota_id] = quota

    def remove(self, quota_id: str) -> None:
        quota = self._by_id.pop(quota_id, None)
        if quota is not None:
            place = _place(quota)
            there = self._places[place]
            del there[quota_id]
            if not there:
                del self._places[place]

    def matches(self, operation: Operation, moment: datetime) -> list[MatchedQuota]:
        """Every quota that counts this operation at `moment`."""
        if not self._places:
            return []
        found: list[MatchedQuota] = []
        for kind, scope_id in (
            (ScopeType.TENANT, operation.tenant_id),
            (ScopeType.PROJECT, operation.project_id),
            (ScopeType.USER, operation.user_id),
            (ScopeType.FEATURE, operation.feature_id),
        ):
            if scope_id is None:
                continue
            for wanted in (scope_id, EVERY):
                there = self._places.get((kind, wanted, operation.resource_type))
                if there is not None:
                    found += [
                        MatchedQuota(quota, scope_id)
                        for quota in there.values()
                        if quota.period_start <= moment < quota.period_end
                    ]
        return found


def _place(quota: Quota) -> _Place:
    return quota.scope_type, quota.scope_id, quota.resource_type

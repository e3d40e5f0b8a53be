"""Which quotas an operation meets: one look-up per scope the caller gives."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from heapq import heappop, heappush
from typing import NamedTuple

from fiscus.operations import Operation
from fiscus.quotas.model import Quota, QuotaBalance, QuotaKey
from fiscus.scopes import EVERY, ScopeType


class MatchedQuota(NamedTuple):
    """A quota that an operation meets at one moment, for one of its ids."""

    quota: Quota
    scope_id: str
    blank: QuotaBalance
    """The balance if nothing was used yet."""


_Place = tuple[str, str]
"""Scope id or `*`, and resource type."""
_Places = dict[_Place, dict[str, MatchedQuota]]
"""By quota id; one for `*` is matched anew for each id."""


class QuotaIndex:
    """The quotas of one tenant whose periods are not over."""

    def __init__(self, quotas: Iterable[Quota] = ()) -> None:
        self._by_id: dict[str, Quota] = {}
        self._ends: list[tuple[datetime, str]] = []
        """A heap of when periods end, which no new version changes; also of what was removed."""
        self._tenant: _Places = {}
        self._project: _Places = {}
        self._user: _Places = {}
        self._feature: _Places = {}
        for quota in quotas:
            self.put(quota)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, quota_id: str) -> Quota | None:
        return self._by_id.get(quota_id)

    def put(self, quota: Quota) -> None:
        """Add a quota, or replace its earlier version."""
        if quota.quota_id in self._by_id:
            self.remove(quota.quota_id)
        else:
            heappush(self._ends, (quota.period_end, quota.quota_id))
        self._by_id[quota.quota_id] = quota
        there = self._places(quota.scope_type).setdefault(_place(quota), {})
        there[quota.quota_id] = _matched(quota, quota.scope_id)

    def remove(self, quota_id: str) -> None:
        quota = self._by_id.pop(quota_id, None)
        if quota is not None:
            places, place = self._places(quota.scope_type), _place(quota)
            there = places[place]
            del there[quota_id]
            if not there:
                del places[place]

    def drop_ended(self, moment: datetime) -> None:
        """Forget the quotas whose period was over at `moment`."""
        while self._ends and self._ends[0][0] <= moment:
            self.remove(heappop(self._ends)[1])

    def following(self, quota: Quota) -> Quota | None:
        """The quota for the same scope and resource whose period begins where this one's ends."""
        there = self._places(quota.scope_type).get(_place(quota), {})
        end = quota.period_end
        return next((one.quota for one in there.values() if one.quota.period_start == end), None)

    def matches(self, operation: Operation, moment: datetime) -> list[MatchedQuota]:
        """Every quota that counts this operation at `moment`."""
        found: list[MatchedQuota] = []
        resource_type = operation.resource_type
        for places, scope_id in (
            (self._tenant, operation.tenant_id),
            (self._project, operation.project_id),
            (self._user, operation.user_id),
            (self._feature, operation.feature_id),
        ):
            if scope_id is None or not places:
                continue
            for wanted in (scope_id, EVERY):
                there = places.get((wanted, resource_type))
                if there is None:
                    continue
                for one in there.values():
                    quota = one.quota
                    if quota.period_start <= moment < quota.period_end:
                        found.append(one if wanted == scope_id else _matched(quota, scope_id))
        return found

    def _places(self, kind: ScopeType) -> _Places:
        match kind:
            case ScopeType.TENANT:
                return self._tenant
            case ScopeType.PROJECT:
                return self._project
            case ScopeType.USER:
                return self._user
            case ScopeType.FEATURE:
                return self._feature


def _place(quota: Quota) -> _Place:
    return quota.scope_id, quota.resource_type


def _matched(quota: Quota, scope_id: str) -> MatchedQuota:
    blank = QuotaBalance(QuotaKey(quota.quota_id, scope_id), quota.tenant_id)
    return MatchedQuota(quota, scope_id, blank)

"""Which quotas an operation meets: one look-up per scope the caller gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from heapq import heappop, heappush
from typing import Final

from msgspec import Struct

from fiscus.operations import ByScopeType, Operation, ScopeIds
from fiscus.periods import DAWN, FAR_FUTURE
from fiscus.quotas.model import Quota, QuotaBalance, QuotaKey
from fiscus.scopes import EVERY


class MatchedQuota(Struct, frozen=True, gc=False):
    """A quota that an operation meets, for one of its ids."""

    quota: Quota
    scope_id: str
    blank: QuotaBalance
    """The balance if nothing was used yet."""
    scope: dict[str, str]
    """The scope as answers show it."""
    label: str
    """What messages call the quota."""


class _Known(Struct, frozen=True, gc=False):
    """Quotas of one scope and resource type, of any time."""

    quotas: list[MatchedQuota]
    since: datetime
    """The last of their periods has begun."""
    until: datetime
    """The first of their periods ends."""


_MAX_KNOWN: Final = 1_000
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
        self._scopes: ByScopeType[_Places] = ByScopeType(dict)
        self._known: dict[tuple[str, ScopeIds], _Known] = {}
        """What was found, by all of an operation that it depends on; until a quota changes."""
        for quota in quotas:
            self.put(quota)

    def __len__(self) -> int:
        return len(self._by_id)

    def put(self, quota: Quota) -> None:
        """Add a quota, or replace its earlier version."""
        if quota.quota_id in self._by_id:
            self.remove(quota.quota_id)
        else:
            heappush(self._ends, (quota.period_end, quota.quota_id))
        self._known.clear()
        self._by_id[quota.quota_id] = quota
        there = self._scopes.of(quota.scope_type).setdefault(_place(quota), {})
        there[quota.quota_id] = matched_quota(quota, quota.scope_id)

    def remove(self, quota_id: str) -> None:
        quota = self._by_id.pop(quota_id, None)
        if quota is not None:
            self._known.clear()
            places, place = self._scopes.of(quota.scope_type), _place(quota)
            there = places[place]
            del there[quota_id]
            if not there:
                del places[place]

    def drop_ended(self, moment: datetime) -> None:
        """Forget the quotas whose period was over at `moment`."""
        while self._ends and self._ends[0][0] <= moment:
            self.remove(heappop(self._ends)[1])

    def matches(self, operation: Operation, moment: datetime) -> Sequence[MatchedQuota]:
        """Every quota that counts this operation at `moment`."""
        wanted = operation.resource_type, self._scopes.ids_of(operation)
        known = self._known.get(wanted)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[wanted] = self._of_any_time(*wanted)
        if known.since <= moment < known.until:
            return known.quotas
        return [
            one for one in known.quotas if one.quota.period_start <= moment < one.quota.period_end
        ]

    def to_come(self, operation: Operation, moment: datetime) -> list[Quota]:
        """Every quota that counts this operation at `moment` or later."""
        wanted = operation.resource_type, self._scopes.ids_of(operation)
        known = self._known.get(wanted) or self._of_any_time(*wanted)
        return [one.quota for one in known.quotas if moment < one.quota.period_end]

    def _of_any_time(self, resource_type: str, ids: ScopeIds) -> _Known:
        found: list[MatchedQuota] = []
        for places, scope_id in self._scopes.at(ids):
            found += places.get((scope_id, resource_type), {}).values()
            for one in places.get((EVERY, resource_type), {}).values():
                found.append(matched_quota(one.quota, scope_id))
        since = max((one.quota.period_start for one in found), default=DAWN)
        until = min((one.quota.period_end for one in found), default=FAR_FUTURE)
        return _Known(found, since, until)


def _place(quota: Quota) -> _Place:
    return quota.scope_id, quota.resource_type


def matched_quota(quota: Quota, scope_id: str) -> MatchedQuota:
    """What operations of `scope_id` meet."""
    kind = quota.scope_type.value
    return MatchedQuota(
        quota,
        scope_id,
        QuotaBalance(QuotaKey(quota.quota_id, scope_id), quota.tenant_id),
        {"type": kind, "id": scope_id},
        f"The {quota.resource_type} quota of {kind} {scope_id}",
    )

"""Policies in memory: what each tenant's are, fresh within seconds wherever they were changed.

A process that changes a policy says so (`changed`), and the next check here reads it again. What
other processes changed is found by asking for the versions of the tenants' definitions, which
`refresh` does about once a second, beside the checks; what is used and older than 300 s it reads
again all the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from typing import Final, Protocol

from fiscus.clock import to_us
from fiscus.errors import ServiceUnavailable
from fiscus.ratelimits.matching import Caller, MatchedPolicy, PolicyIndex
from fiscus.ratelimits.policy_port import TenantPolicies
from fiscus.runtime.cache_stats import CacheStats

KEEP_US: Final = 300_000_000
MAX_TENANTS: Final = 20_000
MAX_CALLERS: Final = 65_536


class PolicySource(Protocol):
    """Where policies come from; a `policy_port.PolicyStore` is one."""

    def live(self, tenant_id: str, now: datetime) -> TenantPolicies:
        """Everything the limiter needs of a tenant; raises `ServiceUnavailable`."""
        ...

    def versions(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        """The versions of the tenants' definitions; raises `ServiceUnavailable`."""
        ...


class _Tenant:
    __slots__ = ("index", "number", "outdated", "read_us", "reading", "stale", "version")

    def __init__(self, number: int, version: int, index: PolicyIndex, read_us: int) -> None:
        self.number = number
        """Of the reading; they are numbered as they begin."""
        self.version = version
        self.index = index
        self.read_us = read_us
        self.reading = object()
        """Tells what callers were found to meet from what they were before: it holds nothing."""
        self.stale = False
        """To be read again before the next check."""
        self.outdated = False
        """To be read again beside the checks."""


class PolicyCache:
    """The policies of the tenants used of late. Safe in any thread."""

    def __init__(self, source: PolicySource) -> None:
        self.lookups: Final = CacheStats()
        self._source = source
        self._tenants: dict[str, _Tenant] = {}
        # ordered: a dict finds its first only past the places of those that were first before
        self._callers: OrderedDict[Caller, tuple[object, tuple[MatchedPolicy, ...]]] = OrderedDict()
        self._changes: OrderedDict[str, object] = OrderedDict()
        """What tells the last change that was told of each tenant from those before it."""
        self._numbers = count()
        self._lock = threading.Lock()

    def is_ready(self, tenant_id: str) -> bool:
        """Whether the tenant's policies are known, and were not changed here since they were."""
        tenant = self._tenants.get(tenant_id)
        return tenant is not None and not tenant.stale

    def make_ready(self, tenant_id: str, now: datetime) -> None:
        """Read the tenant's policies unless they are ready.

        Policies that are known are used on while the database cannot be reached; without any,
        `ServiceUnavailable` is raised.
        """
        if not self.is_ready(tenant_id):
            self.read(tenant_id, now)

    def matching(self, caller: Caller, now: datetime, now_us: int) -> tuple[MatchedPolicy, ...]:
        """Every policy that applies, in the order of their ids, as they were when they were made
        ready for this caller: what changed since is for those who come later.

        Reads them when they are not known at all. Errors as of `make_ready`.
        """
        self.lookups.count += 1
        tenant = self._tenants.get(caller[0])
        if tenant is None:
            tenant = self.read(caller[0], now)
        # a check may have begun just before they were read, and a clock may go back
        elif not -KEEP_US < now_us - tenant.read_us < KEEP_US:
            tenant.outdated = True
        known = self._callers.get(caller)
        if known is not None and known[0] is tenant.reading:
            return known[1]
        found = tenant.index.matching(caller)
        self._remember(caller, tenant, found)
        return found

    def read(self, tenant_id: str, now: datetime) -> _Tenant:
        """Read a tenant's policies from their source, for a check. Errors as of `make_ready`."""
        self.lookups.misses += 1
        try:
            return self._read(tenant_id, now)
        except ServiceUnavailable:
            known = self._tenants.get(tenant_id)
            if known is None:
                raise
            # one check waited in vain: the others need not
            known.stale, known.outdated = False, True
            return known

    def _read(self, tenant_id: str, now: datetime) -> _Tenant:
        number, change = next(self._numbers), self._changes.get(tenant_id)
        live = self._source.live(tenant_id, now)
        tenant = _Tenant(number, live.version, PolicyIndex(live.policies), to_us(now))
        with self._lock:
            # a change that was told while we read may not be in what we read
            tenant.stale = change is not self._changes.get(tenant_id)
            known = self._tenants.get(tenant_id)
            if known is None and len(self._tenants) >= MAX_TENANTS:
                del self._tenants[next(iter(self._tenants))]
            # one that began later may have ended before
            if known is None or known.number < number:
                self._tenants[tenant_id] = tenant
        return tenant

    def changed(self, tenant_id: str) -> None:
        """Read the tenant's policies again before the next check."""
        with self._lock:
            self._changes[tenant_id] = object()
            self._changes.move_to_end(tenant_id)
            if len(self._changes) > MAX_TENANTS:
                self._changes.popitem(last=False)
            tenant = self._tenants.get(tenant_id)
            if tenant is not None:
                tenant.stale = True

    def refresh(self, now: datetime) -> None:
        """Read again the policies of tenants whose definitions changed elsewhere, or are outdated.

        Checks go on with what is known meanwhile. Raises what kept a tenant from being read, after
        the others.
        """
        known = self._tenants.copy()
        if not known:
            return
        versions = self._source.versions(list(known))
        failure: Exception | None = None
        for tenant_id, tenant in known.items():
            if tenant.outdated or versions.get(tenant_id, 0) != tenant.version:
                try:
                    self._read(tenant_id, now)
                except Exception as error:  # noqa: BLE001 - it is raised below
                    failure = error
        if failure is not None:
            raise failure

    def _remember(self, caller: Caller, tenant: _Tenant, found: tuple[MatchedPolicy, ...]) -> None:
        with self._lock:
            while len(self._callers) >= MAX_CALLERS:
                self._callers.popitem(last=False)
            self._callers[caller] = (tenant.reading, found)

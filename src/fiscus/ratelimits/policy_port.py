"""What rate limits need of the database: policies, and the use that was seen of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from fiscus.idempotency import Idempotency
from fiscus.paging import Page, PageRequest
from fiscus.ratelimits.calls import EmergencySpec, UsageWindow
from fiscus.ratelimits.model import Emergency, PolicyScope, PolicySpec, PolicyState
from fiscus.ratelimits.rules import Algorithm
from fiscus.runtime.portions import ShouldContinue, to_the_end


class PolicyFilter(NamedTuple):
    """Which policies a list shows; None shows all."""

    scope_type: PolicyScope | None = None
    scope_id: str | None = None
    resource_type: str | None = None
    """Exactly as the policy has it, with its `*`."""
    algorithm: Algorithm | None = None
    shadow: bool | None = None


class TenantPolicies(NamedTuple):
    """All live policies of a tenant, as of `version` of its definitions."""

    version: int
    policies: Sequence[PolicyState]


class PolicyStore(Protocol):
    """Definitions of policies, with all their versions and emergencies."""

    def create(
        self,
        tenant_id: str,
        spec: PolicySpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> PolicyState:
        """A new policy; with the same idempotency key, the one made before.

        Raises `ValidationError` naming the field, `IdempotencyConflict`.
        """
        ...

    def get(self, tenant_id: str, policy_id: str, version: int | None = None) -> PolicyState:
        """A policy, or one of its earlier versions; raises `NotFound`."""
        ...

    def list(
        self, tenant_id: str, wanted: PolicyFilter, page: PageRequest
    ) -> Page[PolicyState]: ...

    def replace(
        self,
        tenant_id: str,
        policy_id: str,
        spec: PolicySpec,
        *,
        expected_version: int | None,
        by: str,
        now: datetime,
    ) -> PolicyState:
        """A new version. What was used stays used, unless the algorithm changes.

        Raises `NotFound`, `ValidationError`, and `Conflict` for a stale version."""
        ...

    def delete(
        self, tenant_id: str, policy_id: str, *, force: bool, by: str, now: datetime
    ) -> None:
        """End a policy; its versions stay. Raises `NotFound`, and `Conflict` while it is in use
        (checks were counted in its last window, or the last hour if that is longer), unless
        `force`."""
        ...

    def forget_counters(self, tenant_id: str, policy_id: str, *, by: str, now: datetime) -> None:
        """Begin a new generation of all of a policy's counters. Raises `NotFound`."""
        ...

    def add_emergency(
        self,
        tenant_id: str,
        policy_id: str,
        spec: EmergencySpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> Emergency:
        """Raises `NotFound`, `ValidationError`, and `Conflict` while another one holds, and for a
        policy that cannot be counted even without it."""
        ...

    def approve_emergency(
        self, tenant_id: str, policy_id: str, emergency_id: str, *, by: str, now: datetime
    ) -> Emergency:
        """A second person's approval. Raises `NotFound`; `Forbidden` to the one who asked;
        `Conflict` when it was approved already or is over."""
        ...

    def live(self, tenant_id: str, now: datetime) -> TenantPolicies:
        """Everything the limiter needs of a tenant; raises `ServiceUnavailable`."""
        ...

    def versions(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        """The versions of the tenants' definitions; raises `ServiceUnavailable`."""
        ...


class UsageRow(NamedTuple):
    """What this process saw of a policy for one scope in one window; added to what is kept."""

    tenant_id: str
    policy_id: str
    window: UsageWindow


class UsageStore(Protocol):
    """The table `rate_limit_usage`."""

    def add(self, rows: Sequence[UsageRow]) -> None:
        """Add to what is kept, in one transaction.

        Raises `ServiceUnavailable`, as `OutcomeUnknown` when it may have been added.
        """
        ...

    def windows(
        self, tenant_id: str, policy_id: str, page: PageRequest, *, scope_id: str | None
    ) -> Page[UsageWindow]:
        """Windows of a policy, newest first."""
        ...

    def learn(self, now: datetime, goes_on: ShouldContinue = to_the_end) -> int:
        """Work out the hourly load of every policy that follows its usage pattern, from the last
        four whole weeks; how many changed. For the worker, once an hour."""
        ...

    def drop_before(self, moment: datetime, goes_on: ShouldContinue = to_the_end) -> int:
        """Forget windows that ended before; how many rows. For the worker."""
        ...

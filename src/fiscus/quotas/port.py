"""What quotas need of a store, besides the ledger. Every call names its tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol

from fiscus.errors import FiscusError
from fiscus.idempotency import Idempotency
from fiscus.paging import Page, PageRequest
from fiscus.quotas.calls import (
    DistributeAnswer,
    DistributeRequest,
    QuotaHistory,
    QuotaRequestSpec,
)
from fiscus.quotas.model import (
    Quota,
    QuotaBalance,
    QuotaRequest,
    QuotaSpec,
    RequestStatus,
)
from fiscus.runtime.portions import ShouldContinue, to_the_end
from fiscus.scopes import ScopeType


class QuotaFilter(NamedTuple):
    """Which quotas a list shows; None shows all."""

    scope_type: ScopeType | None = None
    scope_id: str | None = None
    resource_type: str | None = None
    active_at: datetime | None = None
    """Only those whose period holds this moment."""


class QuotaRequestFilter(NamedTuple):
    status: RequestStatus | None = None
    quota_id: str | None = None


class DueRenewal(NamedTuple):
    """A quota whose next period should be allocated now."""

    tenant_id: str
    quota_id: str


class QuotaUse(NamedTuple):
    """How far a quota is used: (used + burst_used) / allocated."""

    tenant_id: str
    quota_id: str
    resource_type: str
    utilization_ratio: Decimal


class QuotaStore(Protocol):
    """Quotas with all their versions, how far they are used, and requests for more."""

    def allocate(
        self,
        tenant_id: str,
        spec: QuotaSpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> Quota:
        """A new quota; with the same idempotency key, the one made before.

        Raises `ValidationError` naming the field, `IdempotencyConflict`, and `Conflict` when one
        for the same scope and resource overlaps its period.
        """
        ...

    def allocate_batch(
        self,
        tenant_id: str,
        specs: Sequence[QuotaSpec],
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> list[Quota | FiscusError]:
        """As `allocate` for each, in one transaction; one that fails fails alone."""
        ...

    def distribute(
        self,
        tenant_id: str,
        request: DistributeRequest,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> DistributeAnswer:
        """A quota for every entity, all or none. Errors as of `allocate`."""
        ...

    def get(self, tenant_id: str, quota_id: str, version: int | None = None) -> Quota:
        """A quota, or one of its earlier versions; raises `NotFound`."""
        ...

    def balances(self, tenant_id: str, quota_ids: Sequence[str]) -> dict[str, QuotaBalance]:
        """What is used of quotas for one scope, by quota id; none where nothing was used yet."""
        ...

    def list(self, tenant_id: str, wanted: QuotaFilter, page: PageRequest) -> Page[Quota]: ...

    def replace(
        self,
        tenant_id: str,
        quota_id: str,
        spec: QuotaSpec,
        *,
        expected_version: int | None,
        force: bool,
        by: str,
        now: datetime,
    ) -> Quota:
        """A new version.

        Raises `NotFound`, `ValidationError`, and `Conflict` for a stale version, a change of scope,
        resource or period, and an amount below what is used unless `force`.
        """
        ...

    def delete(self, tenant_id: str, quota_id: str, *, force: bool, by: str, now: datetime) -> None:
        """End a quota; its history stays. Raises `NotFound`, and `Conflict` while its period runs
        and something of it is used, unless `force`."""
        ...

    def history(
        self,
        tenant_id: str,
        quota_id: str,
        page: PageRequest,
        *,
        scope_id: str | None,
        since: datetime | None,
        until: datetime | None,
    ) -> QuotaHistory:
        """Rows newest first, and the totals of the quota's local days. Raises `NotFound`."""
        ...

    def most_used(self, now: datetime, most: int) -> list[QuotaUse]:
        """Those used most whose period runs now, of all tenants; as `BudgetStore.most_used`."""
        ...

    # -- requests for more

    def ask(
        self,
        tenant_id: str,
        spec: QuotaRequestSpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> QuotaRequest:
        """Raises `NotFound` and `ValidationError`."""
        ...

    def requests(
        self, tenant_id: str, wanted: QuotaRequestFilter, page: PageRequest
    ) -> Page[QuotaRequest]: ...

    def decide_request(
        self,
        tenant_id: str,
        request_id: str,
        *,
        approve: bool,
        comment: str | None,
        by: str,
        now: datetime,
    ) -> QuotaRequest:
        """Approve (the quota's allocation grows by the amount, as a new version) or reject.

        Raises `NotFound`; `Forbidden` to the one who asked; `Conflict` when it was decided already
        or the quota's period is over.
        """
        ...

    # -- for the worker

    def due_renewals(self, now: datetime, most: int) -> list[DueRenewal]:
        """Quotas that renew themselves and are due, of all tenants, earliest end first."""
        ...

    def renew(self, tenant_id: str, quota_id: str, now: datetime) -> Quota | None:
        """Allocate the next period, once however often and by how many it is asked.

        None when there is nothing to do (any more): renewed, superseded or ended.
        """
        ...

    def renewal_failed(self, due: DueRenewal, reason: str, now: datetime) -> bool:
        """Put the next try off (1, then 5 minutes); whether this was the last one."""
        ...

    def drop_history_before(self, moment: datetime, goes_on: ShouldContinue = to_the_end) -> int:
        """Forget rows of history from before; how many. For the worker."""
        ...

"""What a Python program reaches Fiscus through: a server over HTTP, or the engine in process.

The methods are coroutines so that what is built on them is written once. A backend that blocks
never suspends in them, so `run_blocking` can run them outside an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, Protocol, TypeVar

from fiscus.budgets.calls import (
    BudgetView,
    CheckAnswer,
    CheckBatchAnswer,
    CheckBatchRequest,
    CheckRequest,
    ExtendRequest,
    ReleaseRequest,
    ReservationView,
    SettleAnswer,
    SettleRequest,
    Utilization,
)
from fiscus.budgets.model import Budget, BudgetSpec
from fiscus.budgets.queries import BudgetQuery, UtilizationQuery
from fiscus.costs.calls import (
    RecordAnswer,
    RecordBatchAnswer,
    RecordBatchRequest,
    RecordRequest,
)
from fiscus.costs.model import CostRecord
from fiscus.costs.queries import CostQuery
from fiscus.costs.report_model import Report, ReportRequest
from fiscus.health import HealthAnswer
from fiscus.paging import Page
from fiscus.quotas.calls import (
    ConsumptionView,
    DistributeAnswer,
    DistributeRequest,
    QuotaCheckAnswer,
    QuotaCheckBatchAnswer,
    QuotaCheckBatchRequest,
    QuotaCheckRequest,
    QuotaHistory,
    QuotaView,
    ReleaseConsumptionRequest,
)
from fiscus.quotas.model import QuotaSpec
from fiscus.quotas.queries import QuotaHistoryQuery, QuotaListQuery
from fiscus.ratelimits.calls import (
    AdjustRequest,
    PolicyView,
    RateLimitBatchAnswer,
    RateLimitBatchRequest,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
    ResetRequest,
)
from fiscus.ratelimits.model import PolicySpec
from fiscus.ratelimits.queries import PolicyListQuery
from fiscus.tenants import Tenant, TenantSpec

T = TypeVar("T")

CLEAN_UP_SECONDS: Final = 5.0
"""How long giving back may hold up the leaving of a block."""
LOST_SECONDS: Final = 1.0
"""How long a block that could not be entered is held up by giving back what it may have taken."""


class Operations(Protocol):
    """The calls that reservations and consumptions are made of.

    `patience_seconds` bounds one call, its retries included; None leaves it to the backend.
    """

    async def check(
        self, request: CheckRequest, *, patience_seconds: float | None = None
    ) -> CheckAnswer: ...

    async def settle(self, reservation_id: str, request: SettleRequest) -> SettleAnswer: ...

    async def release(
        self,
        reservation_id: str,
        request: ReleaseRequest,
        *,
        patience_seconds: float | None = None,
    ) -> ReservationView: ...

    async def extend(self, reservation_id: str, request: ExtendRequest) -> ReservationView: ...

    async def record(self, request: RecordRequest) -> RecordAnswer: ...

    async def check_quota(
        self, request: QuotaCheckRequest, *, patience_seconds: float | None = None
    ) -> QuotaCheckAnswer: ...

    async def release_consumption(
        self,
        consumption_id: str,
        request: ReleaseConsumptionRequest,
        *,
        key: str | None,
        patience_seconds: float | None = None,
    ) -> ConsumptionView: ...

    async def uninterrupted(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `call` to its end, within bounds, also when the caller's task is cancelled.

        It may be called again, so twice must be as once.
        """
        ...


class Backend(Operations, Protocol):
    """Every call of the Python API, with checked requests."""

    async def check_batch(
        self, request: CheckBatchRequest, *, key: str | None
    ) -> CheckBatchAnswer: ...

    async def record_batch(
        self, request: RecordBatchRequest, *, key: str | None
    ) -> RecordBatchAnswer: ...

    async def records(self, query: CostQuery) -> Page[CostRecord]: ...

    async def report(self, request: ReportRequest) -> Report: ...

    async def check_rate_limit(
        self, request: RateLimitCheckRequest, *, patience_seconds: float | None = None
    ) -> RateLimitCheckAnswer: ...

    async def check_rate_limits(self, request: RateLimitBatchRequest) -> RateLimitBatchAnswer: ...

    async def adjust_rate_limit(self, request: AdjustRequest) -> RateLimitCheckAnswer: ...

    async def create_rate_limit(self, spec: PolicySpec, *, key: str | None) -> PolicyView: ...

    async def get_rate_limit(self, tenant_id: str | None, policy_id: str) -> PolicyView: ...

    async def rate_limits(self, query: PolicyListQuery) -> Page[PolicyView]: ...

    async def replace_rate_limit(self, policy_id: str, spec: PolicySpec) -> PolicyView: ...

    async def delete_rate_limit(
        self, tenant_id: str | None, policy_id: str, *, force: bool
    ) -> None: ...

    async def reset_rate_limit(self, policy_id: str, request: ResetRequest) -> None: ...

    async def check_quotas(
        self, request: QuotaCheckBatchRequest, *, key: str | None
    ) -> QuotaCheckBatchAnswer: ...

    async def allocate_quota(self, spec: QuotaSpec, *, key: str | None) -> QuotaView: ...

    async def distribute_quota(
        self, request: DistributeRequest, *, key: str | None
    ) -> DistributeAnswer: ...

    async def get_quota(self, tenant_id: str | None, quota_id: str) -> QuotaView: ...

    async def quotas(self, query: QuotaListQuery) -> Page[QuotaView]: ...

    async def replace_quota(self, quota_id: str, spec: QuotaSpec, *, force: bool) -> QuotaView: ...

    async def delete_quota(self, tenant_id: str | None, quota_id: str, *, force: bool) -> None: ...

    async def quota_history(self, quota_id: str, query: QuotaHistoryQuery) -> QuotaHistory: ...

    async def create_budget(self, spec: BudgetSpec, *, key: str | None) -> BudgetView: ...

    async def get_budget(self, tenant_id: str | None, budget_id: str) -> BudgetView: ...

    async def budgets(self, query: BudgetQuery) -> Page[Budget]: ...

    async def replace_budget(self, budget_id: str, spec: BudgetSpec) -> BudgetView: ...

    async def delete_budget(
        self, tenant_id: str | None, budget_id: str, *, force: bool
    ) -> None: ...

    async def utilization(self, budget_id: str, query: UtilizationQuery) -> Utilization: ...

    async def get_tenant(self, tenant_id: str) -> Tenant: ...

    async def put_tenant(self, tenant_id: str, spec: TenantSpec) -> Tenant: ...

    async def health(self) -> HealthAnswer: ...

    async def close(self) -> None: ...


class NotPicklable:
    """Cannot be pickled or deeply copied: a copy would have to be open as well."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Fiscus, a client and their blocks can be neither pickled nor deeply copied: "
            "open another where you need one"
        )


def run_blocking(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine over a backend that blocks."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    call.close()
    raise AssertionError("a blocking backend suspended")

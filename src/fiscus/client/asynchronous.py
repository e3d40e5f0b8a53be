"""The calls of `AsyncClient`: those of `BlockingApi`, awaited."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from fiscus.budgets.calls import (
    BudgetView,
    CheckAnswer,
    CheckBatchAnswer,
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
from fiscus.client.arguments import given_patience, request, tenant_named
from fiscus.client.backend import Backend
from fiscus.client.consuming import AsyncConsumption, Source, take_request
from fiscus.client.fields import (
    AdjustFields,
    AllocateFields,
    AmountLike,
    BudgetChanges,
    BudgetFields,
    BudgetFilterFields,
    CheckFields,
    CostFilterFields,
    DistributeFields,
    PolicyChanges,
    PolicyFields,
    PolicyFilterFields,
    QuotaChanges,
    QuotaCheckFields,
    QuotaFields,
    QuotaFilterFields,
    QuotaHistoryFields,
    RateLimitFields,
    RecordFields,
    ReportFields,
    ReserveFields,
    SettleFields,
    TenantFields,
    UtilizationFields,
)
from fiscus.client.requests import (
    change_budget,
    change_quota,
    change_rate_limit,
    check_batch_request,
    quota_batch,
    rate_limit_batch,
    record_batch_request,
    report_request,
)
from fiscus.client.reserving import AsyncReservation, OnUnreachable
from fiscus.client.telling import speaks_python
from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer, RecordRequest
from fiscus.costs.model import CostRecord
from fiscus.costs.queries import CostQuery
from fiscus.costs.report_model import Report
from fiscus.health import HealthAnswer
from fiscus.paging import Page
from fiscus.quotas.calls import (
    ConsumptionView,
    DistributeAnswer,
    DistributeRequest,
    QuotaCheckAnswer,
    QuotaCheckBatchAnswer,
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
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
    ResetRequest,
)
from fiscus.ratelimits.model import PolicySpec
from fiscus.ratelimits.queries import PolicyListQuery
from fiscus.tenants import Tenant, TenantSpec


@speaks_python
class AsyncApi:
    """Every call of `BlockingApi`, with the same arguments, answers and errors, as coroutines.

    For the tasks of one event loop. `tenant` stands in where a call names none.
    """

    def __init__(self, backend: Backend, tenant: str | None) -> None:
        self._backend = backend
        self._tenant = tenant

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back what this has open: connections, or the engine."""
        await self._backend.close()

    # -- before the money is spent

    def reserve(
        self, *, on_unreachable: OnUnreachable = "raise", **operation: Unpack[ReserveFields]
    ) -> AsyncReservation:
        """As `BlockingApi.reserve`, for `async with`; a cancelled task gives the money back, too.

        >>> async with client.reserve(project="search", resource_type="llm", estimate="0.02") as r:
        ...     answer = await call_the_model()
        ...     await r.settle(answer.cost)
        """
        return AsyncReservation(
            self._backend, {**operation}, tenant=self._tenant, on_unreachable=on_unreachable
        )

    async def check(self, **operation: Unpack[CheckFields]) -> CheckAnswer:
        """As `BlockingApi.check`."""
        return await self._backend.check(request(CheckRequest, operation, self._tenant))

    async def check_batch(
        self,
        checks: Sequence[CheckFields],
        *,
        all_or_nothing: bool = False,
        idempotency_key: str | None = None,
    ) -> CheckBatchAnswer:
        """As `BlockingApi.check_batch`."""
        body = check_batch_request(checks, all_or_nothing=all_or_nothing, tenant=self._tenant)
        return await self._backend.check_batch(body, key=idempotency_key)

    async def release(self, reservation_id: str, *, tenant: str | None = None) -> ReservationView:
        """As `BlockingApi.release`."""
        body = request(ReleaseRequest, {}, tenant_named(tenant, self._tenant))
        return await self._backend.release(reservation_id, body)

    async def extend(
        self, reservation_id: str, ttl_seconds: int, *, tenant: str | None = None
    ) -> ReservationView:
        """As `BlockingApi.extend`."""
        body = request(
            ExtendRequest, {"ttl_seconds": ttl_seconds}, tenant_named(tenant, self._tenant)
        )
        return await self._backend.extend(reservation_id, body)

    # -- rate limits

    async def check_rate_limit(
        self, *, patience_seconds: float | None = None, **operation: Unpack[RateLimitFields]
    ) -> RateLimitCheckAnswer:
        """As `BlockingApi.check_rate_limit`."""
        body = request(RateLimitCheckRequest, operation, self._tenant)
        patience = given_patience(patience_seconds)
        return await self._backend.check_rate_limit(body, patience_seconds=patience)

    async def check_rate_limits(self, checks: Sequence[RateLimitFields]) -> RateLimitBatchAnswer:
        """As `BlockingApi.check_rate_limits`."""
        return await self._backend.check_rate_limits(rate_limit_batch(checks, self._tenant))

    async def adjust_rate_limit(self, **correction: Unpack[AdjustFields]) -> RateLimitCheckAnswer:
        """As `BlockingApi.adjust_rate_limit`."""
        body = request(AdjustRequest, correction, self._tenant)
        return await self._backend.adjust_rate_limit(body)

    async def create_rate_limit(
        self, *, idempotency_key: str | None = None, **policy: Unpack[PolicyFields]
    ) -> PolicyView:
        """As `BlockingApi.create_rate_limit`."""
        body = request(PolicySpec, policy, self._tenant)
        return await self._backend.create_rate_limit(body, key=idempotency_key)

    async def get_rate_limit(self, policy_id: str, *, tenant: str | None = None) -> PolicyView:
        """As `BlockingApi.get_rate_limit`."""
        return await self._backend.get_rate_limit(tenant_named(tenant, self._tenant), policy_id)

    async def rate_limits(self, **wanted: Unpack[PolicyFilterFields]) -> Page[PolicyView]:
        """As `BlockingApi.rate_limits`."""
        return await self._backend.rate_limits(request(PolicyListQuery, wanted, self._tenant))

    async def update_rate_limit(
        self,
        policy_id: str,
        *,
        version: int | None = None,
        tenant: str | None = None,
        **changes: Unpack[PolicyChanges],
    ) -> PolicyView:
        """As `BlockingApi.update_rate_limit`."""
        return await change_rate_limit(
            self._backend,
            policy_id,
            changes,
            version=version,
            tenant=tenant_named(tenant, self._tenant),
        )

    async def reset_rate_limit(
        self,
        policy_id: str,
        *,
        scope_id: str | None = None,
        resource_key: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """As `BlockingApi.reset_rate_limit`."""
        given = {"scope_id": scope_id, "resource_key": resource_key}
        body = request(ResetRequest, given, tenant_named(tenant, self._tenant))
        await self._backend.reset_rate_limit(policy_id, body)

    async def delete_rate_limit(
        self, policy_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """As `BlockingApi.delete_rate_limit`."""
        await self._backend.delete_rate_limit(
            tenant_named(tenant, self._tenant), policy_id, force=force
        )

    # -- quotas

    def quota(
        self,
        resource_type: str,
        amount: AmountLike | float = 1,
        *,
        give_back_on_error: bool = False,
        **operation: Unpack[QuotaFields],
    ) -> AsyncConsumption:
        """As `BlockingApi.quota`, for `async with` and coroutine functions.

        >>> async with client.quota("gpu_hours", 2.5, project="search"):
        ...     await train()
        """
        wanted = take_request(resource_type, amount, operation)
        source = Source(self._backend, self._tenant)
        return AsyncConsumption(lambda: source, wanted, give_back_on_error=give_back_on_error)

    async def check_quota(self, **operation: Unpack[QuotaCheckFields]) -> QuotaCheckAnswer:
        """As `BlockingApi.check_quota`."""
        body = request(QuotaCheckRequest, operation, self._tenant)
        return await self._backend.check_quota(body)

    async def check_quotas(
        self, checks: Sequence[QuotaCheckFields], *, idempotency_key: str | None = None
    ) -> QuotaCheckBatchAnswer:
        """As `BlockingApi.check_quotas`."""
        body = quota_batch(checks, self._tenant)
        return await self._backend.check_quotas(body, key=idempotency_key)

    async def release_consumption(
        self,
        consumption_id: str,
        amount: AmountLike | None = None,
        *,
        idempotency_key: str | None = None,
        tenant: str | None = None,
    ) -> ConsumptionView:
        """As `BlockingApi.release_consumption`."""
        body = request(
            ReleaseConsumptionRequest, {"amount": amount}, tenant_named(tenant, self._tenant)
        )
        return await self._backend.release_consumption(consumption_id, body, key=idempotency_key)

    async def allocate_quota(
        self, *, idempotency_key: str | None = None, **quota: Unpack[AllocateFields]
    ) -> QuotaView:
        """As `BlockingApi.allocate_quota`."""
        body = request(QuotaSpec, quota, self._tenant)
        return await self._backend.allocate_quota(body, key=idempotency_key)

    async def distribute_quota(
        self, *, idempotency_key: str | None = None, **wanted: Unpack[DistributeFields]
    ) -> DistributeAnswer:
        """As `BlockingApi.distribute_quota`."""
        body = request(DistributeRequest, wanted, self._tenant)
        return await self._backend.distribute_quota(body, key=idempotency_key)

    async def get_quota(self, quota_id: str, *, tenant: str | None = None) -> QuotaView:
        """As `BlockingApi.get_quota`."""
        return await self._backend.get_quota(tenant_named(tenant, self._tenant), quota_id)

    async def quotas(self, **wanted: Unpack[QuotaFilterFields]) -> Page[QuotaView]:
        """As `BlockingApi.quotas`."""
        return await self._backend.quotas(request(QuotaListQuery, wanted, self._tenant))

    async def update_quota(
        self,
        quota_id: str,
        *,
        version: int | None = None,
        force: bool = False,
        tenant: str | None = None,
        **changes: Unpack[QuotaChanges],
    ) -> QuotaView:
        """As `BlockingApi.update_quota`."""
        return await change_quota(
            self._backend,
            quota_id,
            changes,
            version=version,
            force=force,
            tenant=tenant_named(tenant, self._tenant),
        )

    async def delete_quota(
        self, quota_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """As `BlockingApi.delete_quota`."""
        await self._backend.delete_quota(tenant_named(tenant, self._tenant), quota_id, force=force)

    async def quota_history(
        self, quota_id: str, **wanted: Unpack[QuotaHistoryFields]
    ) -> QuotaHistory:
        """As `BlockingApi.quota_history`."""
        query = request(QuotaHistoryQuery, wanted, self._tenant)
        return await self._backend.quota_history(quota_id, query)

    # -- after it was spent

    async def settle(
        self,
        reservation_id: str,
        actual_cost: AmountLike,
        *,
        tenant: str | None = None,
        **details: Unpack[SettleFields],
    ) -> SettleAnswer:
        """As `BlockingApi.settle`."""
        given = {**details, "actual_cost": actual_cost}
        body = request(SettleRequest, given, tenant_named(tenant, self._tenant))
        return await self._backend.settle(reservation_id, body)

    async def record(self, **cost: Unpack[RecordFields]) -> RecordAnswer:
        """As `BlockingApi.record`."""
        return await self._backend.record(request(RecordRequest, cost, self._tenant))

    async def record_batch(
        self, records: Sequence[RecordFields], *, idempotency_key: str | None = None
    ) -> RecordBatchAnswer:
        """As `BlockingApi.record_batch`."""
        body = record_batch_request(records, tenant=self._tenant)
        return await self._backend.record_batch(body, key=idempotency_key)

    # -- where it went

    async def report(self, **wanted: Unpack[ReportFields]) -> Report:
        """As `BlockingApi.report`."""
        return await self._backend.report(report_request(wanted, self._tenant))

    async def records(self, **wanted: Unpack[CostFilterFields]) -> Page[CostRecord]:
        """As `BlockingApi.records`."""
        return await self._backend.records(request(CostQuery, wanted, self._tenant))

    # -- budgets

    async def create_budget(
        self, *, idempotency_key: str | None = None, **budget: Unpack[BudgetFields]
    ) -> BudgetView:
        """As `BlockingApi.create_budget`."""
        body = request(BudgetSpec, budget, self._tenant)
        return await self._backend.create_budget(body, key=idempotency_key)

    async def get_budget(self, budget_id: str, *, tenant: str | None = None) -> BudgetView:
        """As `BlockingApi.get_budget`."""
        return await self._backend.get_budget(tenant_named(tenant, self._tenant), budget_id)

    async def budgets(self, **wanted: Unpack[BudgetFilterFields]) -> Page[Budget]:
        """As `BlockingApi.budgets`."""
        return await self._backend.budgets(request(BudgetQuery, wanted, self._tenant))

    async def update_budget(
        self,
        budget_id: str,
        *,
        version: int | None = None,
        tenant: str | None = None,
        **changes: Unpack[BudgetChanges],
    ) -> BudgetView:
        """As `BlockingApi.update_budget`."""
        return await change_budget(
            self._backend,
            budget_id,
            changes,
            version=version,
            tenant=tenant_named(tenant, self._tenant),
        )

    async def delete_budget(
        self, budget_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """As `BlockingApi.delete_budget`."""
        await self._backend.delete_budget(
            tenant_named(tenant, self._tenant), budget_id, force=force
        )

    async def utilization(self, budget_id: str, **wanted: Unpack[UtilizationFields]) -> Utilization:
        """As `BlockingApi.utilization`."""
        query = request(UtilizationQuery, wanted, self._tenant)
        return await self._backend.utilization(budget_id, query)

    # -- tenants, and how Fiscus is

    async def get_tenant(self, tenant: str) -> Tenant:
        """As `BlockingApi.get_tenant`."""
        return await self._backend.get_tenant(tenant)

    async def put_tenant(self, tenant: str, **settings: Unpack[TenantFields]) -> Tenant:
        """As `BlockingApi.put_tenant`."""
        return await self._backend.put_tenant(tenant, request(TenantSpec, settings))

    async def health(self) -> HealthAnswer:
        """As `BlockingApi.health`."""
        return await self._backend.health()

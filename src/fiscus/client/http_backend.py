"""The calls of the Python API over HTTP: which path each has, and what it sends and answers."""

from __future__ import annotations

import httpx

from fiscus.budgets.calls import (
    BudgetPage,
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
from fiscus.client.arguments import given_id, given_tenant_id
from fiscus.client.problems import error_of, unreachable
from fiscus.client.sender import Sender, answer_of, require_done
from fiscus.client.transports import Request
from fiscus.costs.calls import (
    RecordAnswer,
    RecordBatchAnswer,
    RecordBatchRequest,
    RecordPage,
    RecordRequest,
)
from fiscus.costs.model import CostRecord
from fiscus.costs.queries import CostQuery
from fiscus.costs.report_model import Report, ReportRequest
from fiscus.errors import ValidationError
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
    QuotaPage,
    QuotaView,
    ReleaseConsumptionRequest,
)
from fiscus.quotas.model import QuotaSpec
from fiscus.quotas.queries import QuotaHistoryQuery, QuotaListQuery
from fiscus.ratelimits.calls import (
    AdjustRequest,
    PolicyPage,
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
from fiscus.wire.decoding import decode
from fiscus.wire.paths import BASE_PATH


class HttpBackend(Sender):
    """Every call of one server; see `client.backend.Backend`."""

    # -- decisions and costs

    async def check(
        self, request: CheckRequest, *, patience_seconds: float | None = None
    ) -> CheckAnswer:
        return await self._post(
            "/budgets/check",
            request,
            CheckAnswer,
            key=request.idempotency_key,
            patience_seconds=patience_seconds,
        )

    async def check_batch(self, request: CheckBatchRequest, *, key: str | None) -> CheckBatchAnswer:
        return await self._post("/budgets/check/batch", request, CheckBatchAnswer, key=key)

    async def settle(self, reservation_id: str, request: SettleRequest) -> SettleAnswer:
        return await self._post(_reservation(reservation_id, "settle"), request, SettleAnswer)

    async def release(
        self,
        reservation_id: str,
        request: ReleaseRequest,
        *,
        patience_seconds: float | None = None,
    ) -> ReservationView:
        return await self._post(
            _reservation(reservation_id, "release"),
            request,
            ReservationView,
            patience_seconds=patience_seconds,
        )

    async def extend(self, reservation_id: str, request: ExtendRequest) -> ReservationView:
        return await self._post(_reservation(reservation_id, "extend"), request, ReservationView)

    async def record(self, request: RecordRequest) -> RecordAnswer:
        return await self._post(
            "/cost-tracking/record", request, RecordAnswer, key=request.idempotency_key
        )

    async def record_batch(
        self, request: RecordBatchRequest, *, key: str | None
    ) -> RecordBatchAnswer:
        return await self._post("/cost-tracking/record/batch", request, RecordBatchAnswer, key=key)

    async def check_rate_limit(
        self, request: RateLimitCheckRequest, *, patience_seconds: float | None = None
    ) -> RateLimitCheckAnswer:
        # not sent again when it may have been counted: rate limits know no idempotency keys
        reply = await self.call(
            "POST",
            "/rate-limits/check",
            body=request,
            repeatable=False,
            patience_seconds=patience_seconds,
        )
        return answer_of(reply, RateLimitCheckAnswer)

    async def check_rate_limits(self, request: RateLimitBatchRequest) -> RateLimitBatchAnswer:
        reply = await self.call("POST", "/rate-limits/check/batch", body=request, repeatable=False)
        return answer_of(reply, RateLimitBatchAnswer)

    async def adjust_rate_limit(self, request: AdjustRequest) -> RateLimitCheckAnswer:
        reply = await self.call("POST", "/rate-limits/adjust", body=request, repeatable=False)
        return answer_of(reply, RateLimitCheckAnswer)

    async def check_quota(
        self, request: QuotaCheckRequest, *, patience_seconds: float | None = None
    ) -> QuotaCheckAnswer:
        return await self._post(
            "/quotas/check",
            request,
            QuotaCheckAnswer,
            key=request.idempotency_key,
            patience_seconds=patience_seconds,
        )

    async def check_quotas(
        self, request: QuotaCheckBatchRequest, *, key: str | None
    ) -> QuotaCheckBatchAnswer:
        return await self._post("/quotas/check/batch", request, QuotaCheckBatchAnswer, key=key)

    async def release_consumption(
        self,
        consumption_id: str,
        request: ReleaseConsumptionRequest,
        *,
        key: str | None,
        patience_seconds: float | None = None,
    ) -> ConsumptionView:
        return await self._post(
            f"/quotas/consumptions/{given_id(consumption_id, 'consumption')}/release",
            request,
            ConsumptionView,
            key=key,
            patience_seconds=patience_seconds,
        )

    async def records(self, query: CostQuery) -> Page[CostRecord]:
        page = await self._get("/cost-tracking/records", RecordPage, query)
        return Page(page.records, page.pagination)

    async def report(self, request: ReportRequest) -> Report:
        # a report changes nothing, so it needs no key
        reply = await self.call("POST", "/cost-tracking/reports", body=request)
        return answer_of(reply, Report)

    # -- definitions

    async def create_rate_limit(self, spec: PolicySpec, *, key: str | None) -> PolicyView:
        return await self._post("/rate-limits", spec, PolicyView, key=key)

    async def get_rate_limit(self, tenant_id: str | None, policy_id: str) -> PolicyView:
        reply = await self.call("GET", _policy(policy_id), query=_tenant(tenant_id))
        return answer_of(reply, PolicyView)

    async def rate_limits(self, query: PolicyListQuery) -> Page[PolicyView]:
        page = await self._get("/rate-limits", PolicyPage, query)
        return Page(page.policies, page.pagination)

    async def replace_rate_limit(self, policy_id: str, spec: PolicySpec) -> PolicyView:
        reply = await self.call(
            "PUT", _policy(policy_id), body=spec, repeatable=spec.version is None
        )
        return answer_of(reply, PolicyView)

    async def delete_rate_limit(
        self, tenant_id: str | None, policy_id: str, *, force: bool
    ) -> None:
        query = [*_tenant(tenant_id), _force(force=force)]
        require_done(await self.call("DELETE", _policy(policy_id), query=query, repeatable=False))

    async def reset_rate_limit(self, policy_id: str, request: ResetRequest) -> None:
        require_done(
            await self.call("POST", f"{_policy(policy_id)}/reset", body=request, repeatable=False)
        )

    async def allocate_quota(self, spec: QuotaSpec, *, key: str | None) -> QuotaView:
        return await self._post("/quotas", spec, QuotaView, key=key)

    async def distribute_quota(
        self, request: DistributeRequest, *, key: str | None
    ) -> DistributeAnswer:
        return await self._post("/quotas/distribute", request, DistributeAnswer, key=key)

    async def get_quota(self, tenant_id: str | None, quota_id: str) -> QuotaView:
        reply = await self.call("GET", _quota(quota_id), query=_tenant(tenant_id))
        return answer_of(reply, QuotaView)

    async def quotas(self, query: QuotaListQuery) -> Page[QuotaView]:
        page = await self._get("/quotas", QuotaPage, query)
        return Page(page.quotas, page.pagination)

    async def replace_quota(self, quota_id: str, spec: QuotaSpec, *, force: bool) -> QuotaView:
        reply = await self.call(
            "PUT",
            _quota(quota_id),
            body=spec,
            query=[_force(force=force)],
            repeatable=spec.version is None,
        )
        return answer_of(reply, QuotaView)

    async def delete_quota(self, tenant_id: str | None, quota_id: str, *, force: bool) -> None:
        query = [*_tenant(tenant_id), _force(force=force)]
        require_done(await self.call("DELETE", _quota(quota_id), query=query, repeatable=False))

    async def quota_history(self, quota_id: str, query: QuotaHistoryQuery) -> QuotaHistory:
        return await self._get(f"{_quota(quota_id)}/history", QuotaHistory, query)

    async def create_budget(self, spec: BudgetSpec, *, key: str | None) -> BudgetView:
        return await self._post("/budgets", spec, BudgetView, key=key)

    async def get_budget(self, tenant_id: str | None, budget_id: str) -> BudgetView:
        reply = await self.call("GET", _budget(budget_id), query=_tenant(tenant_id))
        return answer_of(reply, BudgetView)

    async def budgets(self, query: BudgetQuery) -> Page[Budget]:
        page = await self._get("/budgets", BudgetPage, query)
        return Page(page.budgets, page.pagination)

    async def replace_budget(self, budget_id: str, spec: BudgetSpec) -> BudgetView:
        reply = await self.call(
            "PUT", _budget(budget_id), body=spec, repeatable=spec.version is None
        )
        return answer_of(reply, BudgetView)

    async def delete_budget(self, tenant_id: str | None, budget_id: str, *, force: bool) -> None:
        query = [*_tenant(tenant_id), _force(force=force)]
        require_done(await self.call("DELETE", _budget(budget_id), query=query, repeatable=False))

    async def utilization(self, budget_id: str, query: UtilizationQuery) -> Utilization:
        return await self._get(f"{_budget(budget_id)}/utilization", Utilization, query)

    async def get_tenant(self, tenant_id: str) -> Tenant:
        return answer_of(await self.call("GET", _tenant_path(tenant_id)), Tenant)

    async def put_tenant(self, tenant_id: str, spec: TenantSpec) -> Tenant:
        reply = await self.call(
            "PUT", _tenant_path(tenant_id), body=spec, repeatable=spec.version is None
        )
        return answer_of(reply, Tenant)

    # -- the server

    async def health(self) -> HealthAnswer:
        """One try; a server that says that it is down has answered."""
        timeout_seconds = min(self._policy.timeout_seconds, self._policy.total_seconds)
        try:
            reply = await self._transport.send(
                Request("GET", f"{BASE_PATH}/health", None, [], {}), timeout_seconds
            )
        except httpx.RequestError as failure:
            raise unreachable(self.url, failure) from failure
        if reply.status in {200, 503}:
            try:
                return decode(reply.body, HealthAnswer)
            except ValidationError:
                pass  # something in between answered
        raise error_of(reply.status, reply.headers, reply.body)


def _reservation(reservation_id: str, verb: str) -> str:
    return f"/budgets/reservations/{given_id(reservation_id, 'reservation')}/{verb}"


def _budget(budget_id: str) -> str:
    return f"/budgets/{given_id(budget_id, 'budget')}"


def _policy(policy_id: str) -> str:
    return f"/rate-limits/{given_id(policy_id, 'policy')}"


def _quota(quota_id: str) -> str:
    return f"/quotas/{given_id(quota_id, 'quota')}"


def _tenant_path(tenant_id: str) -> str:
    return f"/tenants/{given_tenant_id(tenant_id)}"


def _tenant(tenant_id: str | None) -> list[tuple[str, str]]:
    return [] if tenant_id is None else [("tenant_id", tenant_id)]


def _force(*, force: bool) -> tuple[str, str]:
    return "force", "true" if force else "false"

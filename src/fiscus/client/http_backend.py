"""The calls of the Python API over HTTP: paths, keys, retries, errors."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Final, TypeVar, cast

import httpx
from msgspec import Struct
from msgspec.structs import asdict

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
from fiscus.client.arguments import given_id, given_key, given_tenant_id
from fiscus.client.backend import NotPicklable
from fiscus.client.problems import error_of, not_an_answer, unreachable
from fiscus.client.retries import (
    NOTHING_DONE_STATUSES,
    RETRIED_STATUSES,
    Attempts,
    RetryPolicy,
)
from fiscus.client.transports import Reply, Request, Transport
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
from fiscus.errors import FiscusError, ValidationError
from fiscus.health import HealthAnswer
from fiscus.ids import uuid7
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
from fiscus.wire.encoding import encode
from fiscus.wire.paths import BASE_PATH

T = TypeVar("T")

# nothing of such a request has reached the server
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class HttpBackend(NotPicklable):
    """One server. Calls with an effect carry an idempotency key, the same in every try."""

    def __init__(self, url: str, transport: Transport, policy: RetryPolicy) -> None:
        self.url: Final = url
        self._transport = transport
        self._policy = policy

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
        await self.call("DELETE", _policy(policy_id), query=query, repeatable=False)

    async def reset_rate_limit(self, policy_id: str, request: ResetRequest) -> None:
        await self.call("POST", f"{_policy(policy_id)}/reset", body=request, repeatable=False)

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
        await self.call("DELETE", _quota(quota_id), query=query, repeatable=False)

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
        await self.call("DELETE", _budget(budget_id), query=query, repeatable=False)

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

    async def uninterrupted(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._transport.uninterrupted(call)

    async def close(self) -> None:
        await self._transport.close()

    # -- how a call goes

    async def _get(self, path: str, kind: type[T], query: Struct) -> T:
        return answer_of(await self.call("GET", path, query=_parameters(asdict(query))), kind)

    async def _post(
        self,
        path: str,
        body: Struct,
        kind: type[T],
        *,
        key: str | None = None,
        patience_seconds: float | None = None,
    ) -> T:
        key = uuid7() if key is None else given_key(key)
        reply = await self.call(
            "POST",
            path,
            body=body,
            headers={"Idempotency-Key": key},
            patience_seconds=patience_seconds,
        )
        return answer_of(reply, kind)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: list[tuple[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        patience_seconds: float | None = None,
    ) -> Reply:
        """Any call, by its path below the base path: sent, and sent again within the policy.

        One that is not repeatable is sent again only when it surely had no effect.
        """
        request = Request(
            method,
            BASE_PATH + path,
            None if body is None else encode(body),
            query or [],
            {"Content-Type": "application/json", **(headers or {})},
        )
        policy = self._policy
        if patience_seconds is not None:
            policy = policy._replace(total_seconds=min(patience_seconds, policy.total_seconds))
        attempts = Attempts(policy, monotonic())
        while True:
            reply = await self._try(request, attempts.timeout_seconds(monotonic()))
            if isinstance(reply, Reply):
                return reply
            error, may_repeat, nothing_done = reply
            pause = attempts.pause_seconds(monotonic(), error.retry_after_seconds)
            if pause is None or not may_repeat or not (repeatable or nothing_done):
                raise error
            await self._transport.pause(pause)

    async def _try(
        self, request: Request, timeout_seconds: float
    ) -> Reply | tuple[FiscusError, bool, bool]:
        """The answer; or the error, whether to try again, and whether it surely had no effect."""
        try:
            reply = await self._transport.send(request, timeout_seconds)
        except httpx.RequestError as failure:
            error = unreachable(self.url, failure)
            error.__cause__ = failure
            return error, True, isinstance(failure, _NOT_SENT)
        if 200 <= reply.status < 300:
            return reply
        error = error_of(reply.status, reply.headers, reply.body)
        return (
            error,
            reply.status in RETRIED_STATUSES,
            reply.status in NOTHING_DONE_STATUSES and error.retriable,
        )


def answer_of(reply: Reply, kind: type[T]) -> T:
    """A success as what the call answers; raises `InternalError` when it is none of Fiscus."""
    try:
        return decode(reply.body, kind)
    except ValidationError as error:
        raise not_an_answer(error) from None


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


def _parameters(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A query as its parameters; a mapping is one for each key."""
    parameters: list[tuple[str, str]] = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, dict):
            pairs = cast("dict[str, str]", value)
            parameters.extend((name, _pair(key, text)) for key, text in pairs.items())
        elif isinstance(value, datetime):
            parameters.append((name, value.isoformat()))
        else:
            parameters.append((name, str(value)))
    return parameters


def _pair(key: str, text: str) -> str:
    """`key:text`, or JSON where that would be read as another key."""
    if ":" in key or key.startswith("{"):
        return encode({key: text}).decode()
    return f"{key}:{text}"

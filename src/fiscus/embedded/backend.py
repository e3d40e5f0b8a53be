"""The calls of the Python API over an engine in this process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from msgspec.structs import asdict, replace

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
from fiscus.client.arguments import given_id, given_key, given_tenant_id
from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer, RecordBatchRequest, RecordRequest
from fiscus.costs.model import CostRecord
from fiscus.costs.queries import CostQuery
from fiscus.costs.report_model import Report, ReportRequest
from fiscus.costs.reports import build_report
from fiscus.embedded.opened import OpenedEngine
from fiscus.engine import Engine
from fiscus.health import HealthAnswer, health_of
from fiscus.idempotency import (
    ALLOCATE_QUOTA,
    CREATE_BUDGET,
    CREATE_POLICY,
    DISTRIBUTE_QUOTAS,
    if_keyed,
)
from fiscus.ids import uuid7
from fiscus.ledger.commands import Command
from fiscus.ledger.loop import answer_or_raise
from fiscus.ledger.requests.budgets import (
    check_batch_command,
    check_command,
    extend_command,
    release_command,
    settle_command,
)
from fiscus.ledger.requests.common import tenant_of_checks
from fiscus.ledger.requests.costs import record_batch_command, record_command
from fiscus.ledger.requests.quotas import (
    quota_check_batch_command,
    quota_check_command,
    release_consumption_command,
)
from fiscus.paging import Page
from fiscus.priorities import Priority
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
from fiscus.quotas.views import views_with_use
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
from fiscus.ratelimits.resets import reset
from fiscus.ratelimits.views import policy_view
from fiscus.tenants import Tenant, TenantSpec

T = TypeVar("T")

ACTOR: Final = "embedded"
"""Who changed a definition, in its history: a program with the engine in it has no credential."""


class EngineBackend(OpenedEngine):
    """Every call, blocking; see `client.backend.Backend`."""

    def __init__(self, engine: Engine, tenant: str) -> None:
        super().__init__(engine)
        self._default_tenant = tenant

    # -- decisions and costs

    async def check(
        self, request: CheckRequest, *, patience_seconds: float | None = None
    ) -> CheckAnswer:
        return self._run(check_command(request, self._tenant(request.tenant_id), self._now()))

    async def check_batch(self, request: CheckBatchRequest, *, key: str | None) -> CheckBatchAnswer:
        key = _key(key)
        tenant_id = tenant_of_checks(request.checks, self._tenant)
        return self._run(check_batch_command(request, tenant_id, self._now(), key))

    async def settle(self, reservation_id: str, request: SettleRequest) -> SettleAnswer:
        tenant_id = self._tenant(request.tenant_id)
        found = given_id(reservation_id, "reservation")
        return self._run(settle_command(found, request, tenant_id, self._now()))

    async def release(
        self,
        reservation_id: str,
        request: ReleaseRequest,
        *,
        patience_seconds: float | None = None,
    ) -> ReservationView:
        tenant_id = self._tenant(request.tenant_id)
        found = given_id(reservation_id, "reservation")
        return self._run(release_command(found, tenant_id, self._now()))

    async def extend(self, reservation_id: str, request: ExtendRequest) -> ReservationView:
        tenant_id = self._tenant(request.tenant_id)
        found = given_id(reservation_id, "reservation")
        return self._run(extend_command(found, request.ttl_seconds, tenant_id, self._now()))

    async def record(self, request: RecordRequest) -> RecordAnswer:
        return self._run(record_command(request, self._tenant(request.tenant_id), self._now()))

    async def record_batch(
        self, request: RecordBatchRequest, *, key: str | None
    ) -> RecordBatchAnswer:
        tenant_id = self._tenant(request.tenant_id)
        return self._run(record_batch_command(request, tenant_id, self._now(), _key(key)))

    async def check_rate_limit(
        self, request: RateLimitCheckRequest, *, patience_seconds: float | None = None
    ) -> RateLimitCheckAnswer:
        return self._limiter().check(
            _with_priority(request),
            self._tenant(request.tenant_id),
            self._now(),
            priority=Priority.CRITICAL,
        )

    async def check_rate_limits(self, request: RateLimitBatchRequest) -> RateLimitBatchAnswer:
        checks = [_with_priority(one) for one in request.checks]
        return self._limiter().check_batch(
            RateLimitBatchRequest(checks=checks),
            [self._tenant(one.tenant_id) for one in checks],
            self._now(),
            priority=Priority.CRITICAL,
        )

    async def adjust_rate_limit(self, request: AdjustRequest) -> RateLimitCheckAnswer:
        return self._limiter().adjust(request, self._tenant(request.tenant_id), self._now())

    async def check_quota(
        self, request: QuotaCheckRequest, *, patience_seconds: float | None = None
    ) -> QuotaCheckAnswer:
        return self._run(quota_check_command(request, self._tenant(request.tenant_id), self._now()))

    async def check_quotas(
        self, request: QuotaCheckBatchRequest, *, key: str | None
    ) -> QuotaCheckBatchAnswer:
        key = _key(key)
        tenant_id = tenant_of_checks(request.checks, self._tenant)
        return self._run(quota_check_batch_command(request, tenant_id, self._now(), key))

    async def release_consumption(
        self,
        consumption_id: str,
        request: ReleaseConsumptionRequest,
        *,
        key: str | None,
        patience_seconds: float | None = None,
    ) -> ConsumptionView:
        found = given_id(consumption_id, "consumption")
        tenant_id = self._tenant(request.tenant_id)
        return self._run(
            release_consumption_command(found, request, tenant_id, self._now(), _key(key))
        )

    async def records(self, query: CostQuery) -> Page[CostRecord]:
        return self._engine.costs.list(
            self._tenant(query.tenant_id), query.wanted(), query.wanted_page()
        )

    async def report(self, request: ReportRequest) -> Report:
        engine, tenant_id = self._engine, self._tenant(request.tenant_id)
        settings = engine.tenants.settings(tenant_id)
        return build_report(request, engine.costs, engine.rates, settings, tenant_id, self._now())

    # -- definitions

    async def create_rate_limit(self, spec: PolicySpec, *, key: str | None) -> PolicyView:
        tenant_id, now = self._tenant(spec.tenant_id), self._now()
        once = if_keyed(tenant_id, CREATE_POLICY, _key(key), spec, now)
        state = self._engine.policies.create(tenant_id, spec, by=ACTOR, now=now, idempotency=once)
        self._engine.limiter.changed(tenant_id)
        return policy_view(state, now)

    async def get_rate_limit(self, tenant_id: str | None, policy_id: str) -> PolicyView:
        found = given_id(policy_id, "policy")
        return policy_view(self._engine.policies.get(self._tenant(tenant_id), found), self._now())

    async def rate_limits(self, query: PolicyListQuery) -> Page[PolicyView]:
        tenant_id, now = self._tenant(query.tenant_id), self._now()
        page = self._engine.policies.list(tenant_id, query.wanted(), query.wanted_page())
        return Page([policy_view(state, now) for state in page.items], page.pagination)

    async def replace_rate_limit(self, policy_id: str, spec: PolicySpec) -> PolicyView:
        tenant_id, now = self._tenant(spec.tenant_id), self._now()
        state = self._engine.policies.replace(
            tenant_id,
            given_id(policy_id, "policy"),
            spec,
            expected_version=spec.version,
            by=ACTOR,
            now=now,
        )
        self._engine.limiter.changed(tenant_id)
        return policy_view(state, now)

    async def delete_rate_limit(
        self, tenant_id: str | None, policy_id: str, *, force: bool
    ) -> None:
        engine, tenant, found = self._engine, self._tenant(tenant_id), given_id(policy_id, "policy")
        if not force:
            # whether it is in use is told from what was written
            engine.limiter.flush_usage(found)
        engine.policies.delete(tenant, found, force=force, by=ACTOR, now=self._now())
        engine.limiter.changed(tenant)

    async def reset_rate_limit(self, policy_id: str, request: ResetRequest) -> None:
        found = given_id(policy_id, "policy")
        tenant_id, now = self._tenant(request.tenant_id), self._now()
        policies, limiter = self._engine.policies, self._limiter()
        reset(policies, limiter, tenant_id, found, request, by=ACTOR, now=now)

    async def allocate_quota(self, spec: QuotaSpec, *, key: str | None) -> QuotaView:
        tenant_id, now = self._tenant(spec.tenant_id), self._now()
        quotas = self._engine.quotas
        once = if_keyed(tenant_id, ALLOCATE_QUOTA, _key(key), spec, now)
        quota = quotas.allocate(tenant_id, spec, by=ACTOR, now=now, idempotency=once)
        return views_with_use(quotas, tenant_id, [quota])[0]

    async def distribute_quota(
        self, request: DistributeRequest, *, key: str | None
    ) -> DistributeAnswer:
        tenant_id, now = self._tenant(request.tenant_id), self._now()
        once = if_keyed(tenant_id, DISTRIBUTE_QUOTAS, _key(key), request, now)
        return self._engine.quotas.distribute(
            tenant_id, request, by=ACTOR, now=now, idempotency=once
        )

    async def get_quota(self, tenant_id: str | None, quota_id: str) -> QuotaView:
        tenant, quotas = self._tenant(tenant_id), self._engine.quotas
        quota = quotas.get(tenant, given_id(quota_id, "quota"))
        return views_with_use(quotas, tenant, [quota])[0]

    async def quotas(self, query: QuotaListQuery) -> Page[QuotaView]:
        tenant_id, quotas = self._tenant(query.tenant_id), self._engine.quotas
        page = quotas.list(tenant_id, query.wanted(self._now()), query.wanted_page())
        return Page(views_with_use(quotas, tenant_id, page.items), page.pagination)

    async def replace_quota(self, quota_id: str, spec: QuotaSpec, *, force: bool) -> QuotaView:
        tenant_id, quotas = self._tenant(spec.tenant_id), self._engine.quotas
        replaced = quotas.replace(
            tenant_id,
            given_id(quota_id, "quota"),
            spec,
            expected_version=spec.version,
            force=force,
            by=ACTOR,
            now=self._now(),
        )
        return views_with_use(quotas, tenant_id, [replaced])[0]

    async def delete_quota(self, tenant_id: str | None, quota_id: str, *, force: bool) -> None:
        self._engine.quotas.delete(
            self._tenant(tenant_id),
            given_id(quota_id, "quota"),
            force=force,
            by=ACTOR,
            now=self._now(),
        )

    async def quota_history(self, quota_id: str, query: QuotaHistoryQuery) -> QuotaHistory:
        found = given_id(quota_id, "quota")
        query.check()
        return self._engine.quotas.history(
            self._tenant(query.tenant_id),
            found,
            query.wanted_page(),
            scope_id=query.scope_id,
            since=query.since,
            until=query.until,
        )

    async def create_budget(self, spec: BudgetSpec, *, key: str | None) -> BudgetView:
        tenant_id, now = self._tenant(spec.tenant_id), self._now()
        once = if_keyed(tenant_id, CREATE_BUDGET, _key(key), spec, now)
        return _view(
            self._engine.budgets.create(tenant_id, spec, by=ACTOR, now=now, idempotency=once)
        )

    async def get_budget(self, tenant_id: str | None, budget_id: str) -> BudgetView:
        found = given_id(budget_id, "budget")
        return _view(self._engine.budgets.get(self._tenant(tenant_id), found))

    async def budgets(self, query: BudgetQuery) -> Page[Budget]:
        return self._engine.budgets.list(
            self._tenant(query.tenant_id), query.wanted(), query.wanted_page()
        )

    async def replace_budget(self, budget_id: str, spec: BudgetSpec) -> BudgetView:
        replaced = self._engine.budgets.replace(
            self._tenant(spec.tenant_id),
            given_id(budget_id, "budget"),
            spec,
            expected_version=spec.version,
            by=ACTOR,
            now=self._now(),
        )
        return _view(replaced)

    async def delete_budget(self, tenant_id: str | None, budget_id: str, *, force: bool) -> None:
        self._engine.budgets.delete(
            self._tenant(tenant_id),
            given_id(budget_id, "budget"),
            force=force,
            by=ACTOR,
            now=self._now(),
        )

    async def utilization(self, budget_id: str, query: UtilizationQuery) -> Utilization:
        return self._engine.budgets.utilization(
            self._tenant(query.tenant_id),
            given_id(budget_id, "budget"),
            query.wanted_page(),
            scope_id=query.scope_id,
            now=self._now(),
        )

    async def get_tenant(self, tenant_id: str) -> Tenant:
        return self._engine.tenants.get(given_tenant_id(tenant_id))

    async def put_tenant(self, tenant_id: str, spec: TenantSpec) -> Tenant:
        return self._engine.tenants.put(
            given_tenant_id(tenant_id),
            spec,
            expected_version=spec.version,
            now=self._now(),
        )

    # -- the engine

    async def health(self) -> HealthAnswer:
        return health_of(self._engine, uuid7())

    async def uninterrupted(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await call()

    def _run(self, command: Command) -> Any:
        return answer_or_raise(self._engine.ledger.execute(command))

    def _tenant(self, named: str | None) -> str:
        return self._default_tenant if named is None else named


def _key(key: str | None) -> str | None:
    return None if key is None else given_key(key)


def _view(budget: Budget) -> BudgetView:
    return BudgetView(**asdict(budget))


def _with_priority(request: RateLimitCheckRequest) -> RateLimitCheckRequest:
    """The program may claim every priority; `normal` is what it has when it claims none."""
    if request.priority is not None:
        return request
    return replace(request, priority=Priority.NORMAL)

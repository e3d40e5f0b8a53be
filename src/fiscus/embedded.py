"""`Fiscus`: the Python API in process, with no server."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import pydantic
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
from fiscus.client.arguments import given_id, given_key, given_tenant_id, given_text
from fiscus.client.backend import NotPicklable
from fiscus.client.blocking.api import BlockingApi
from fiscus.client.problems import closed
from fiscus.clock import Clock
from fiscus.costs.calls import (
    RecordAnswer,
    RecordBatchAnswer,
    RecordBatchRequest,
    RecordRequest,
)
from fiscus.costs.model import CostRecord
from fiscus.costs.queries import CostQuery
from fiscus.costs.report_model import Report, ReportRequest
from fiscus.costs.reports import build_report
from fiscus.engine import Engine
from fiscus.errors import Conflict, ValidationError
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
from fiscus.ledger.requests import (
    check_batch_command,
    check_command,
    extend_command,
    quota_check_batch_command,
    quota_check_command,
    record_batch_command,
    record_command,
    release_command,
    release_consumption_command,
    settle_command,
    tenant_of_checks,
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
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.model import PolicySpec
from fiscus.ratelimits.queries import PolicyListQuery
from fiscus.ratelimits.resets import reset
from fiscus.ratelimits.views import policy_view
from fiscus.scopes import parse_id
from fiscus.settings import Settings, wrong_setting
from fiscus.tenants import Tenant, TenantSpec
from fiscus.wiring.engine import open_engine

T = TypeVar("T")

ACTOR: Final = "embedded"
"""Who changed a definition, in its history: a program with the engine in it has no credential."""


class Fiscus(BlockingApi):
    """Fiscus inside this process: the same calls as `Client`, straight to the engine.

    The program is trusted with every tenant. Safe to share among threads; calls block, so in an
    event loop run them by `asyncio.to_thread`. Close it when done, or use it in a `with`; a call on
    a closed one raises `ServiceUnavailable`, one in a forked process `Conflict`.

    >>> with Fiscus.open(data_dir="fiscus-data", tenant="acme") as fiscus:
    ...     with fiscus.reserve(project="search", resource_type="llm", estimate="0.02") as r:
    ...         r.settle("0.0187")
    """

    if not TYPE_CHECKING:  # type checkers tell of what is missing themselves

        def __init__(self, *opened: object, **named: object) -> None:
            match opened:
                case (_EngineBackend() as backend, tenant) if not named:
                    super().__init__(backend, tenant)
                case _:
                    raise TypeError("use Fiscus.open(data_dir=…): it opens the stores first")

    @classmethod
    def open(
        cls,
        *,
        data_dir: str | Path | None = None,
        database_url: str | None = None,
        clock: Clock | None = None,
        tenant: str | None = None,
        **settings: Any,
    ) -> Self:
        """Open the stores, making or updating their tables.

        Without `database_url` that is SQLite in `data_dir`. Any other setting can be given by its
        name (see `fiscus.settings.Settings`); what is not given comes from the environment.
        `tenant` stands in where a call names none; it is the setting `default_tenant` by default.
        Raises `ValidationError` for a wrong setting, `ServiceUnavailable` when the database cannot
        be reached, and `Conflict` when its SQLite file was open here before a fork.
        """
        given = {"data_dir": data_dir, "database_url": database_url, **settings}
        checked = _settings(given)
        tenant = checked.default_tenant if tenant is None else given_text(tenant, "tenant")
        tenant = parse_id(tenant, "tenant")
        return cls(_EngineBackend(open_engine(checked, clock=clock), tenant), tenant)


def _settings(given: Mapping[str, Any]) -> Settings:
    named = {name: one for name, one in given.items() if one is not None}
    for name in named:
        if name not in Settings.model_fields:
            raise ValidationError(
                f"{name} is not a setting",
                field=name,
                suggested_action="Known: " + ", ".join(sorted(Settings.model_fields)) + ".",
            )
    try:
        return Settings(**named)
    except pydantic.ValidationError as error:
        name, what = wrong_setting(error)
        raise ValidationError(
            f"{name} {what}", field=name, suggested_action=f"Correct {name}."
        ) from None


class _EngineBackend(NotPicklable):
    """Every call, blocking; see `client.backend.Backend`."""

    def __init__(self, engine: Engine, tenant: str) -> None:
        self._opened = engine
        self._default_tenant = tenant
        self._pid = os.getpid()
        self._closed = False
        self._counting = threading.Lock()
        self._counts = False

    def __del__(self) -> None:
        # Not closed here: that waits for threads, and this may be one of them.
        if not self._closed and os.getpid() == self._pid:
            warnings.warn(
                "unclosed Fiscus: call its close(), or use it in a with",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

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

    async def close(self) -> None:
        # What is open in the process that this one was forked from is that one's to close.
        if not self._closed and os.getpid() == self._pid:
            self._closed = True
            self._opened.close()

    @property
    def _engine(self) -> Engine:
        """The engine, for one call. Raises when it can do nothing here any more."""
        if self._closed:
            raise closed("This Fiscus")
        if os.getpid() != self._pid:
            # the engine's threads and its turns to write are in the other process
            raise Conflict(
                "Fiscus was opened in another process",
                suggested_action="Open it after the fork, in the process that uses it; on SQLite "
                "in no other before.",
            )
        return self._opened

    def _run(self, command: Command) -> Any:
        return answer_or_raise(self._engine.ledger.execute(command))

    def _now(self) -> datetime:
        return self._opened.clock.now()  # the clock can do that anywhere and at any time

    def _limiter(self) -> Limiter:
        """The limiter, which only one process may count with unless counters are in Redis.

        Raises `Conflict` at the first use when another `Fiscus`, in this or another process, counts
        on the same data.
        """
        engine = self._engine
        with self._counting:
            if not self._counts:
                engine.claim_counters()
                engine.limiter.start()
                self._counts = True
        return engine.limiter

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

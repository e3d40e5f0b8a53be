"""The calls of `Fiscus` and `Client`, which block until they are answered."""

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
from fiscus.client.backend import Backend, run_blocking
from fiscus.client.consuming import Consumption, Source, take_request
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
from fiscus.client.reserving import OnUnreachable, Reservation
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
class BlockingApi:
    """Every call. Errors are those of `fiscus.errors`; amounts are `Decimal`, `int` or text.

    Safe to share among threads. `tenant` stands in where a call names none.
    """

    def __init__(self, backend: Backend, tenant: str | None) -> None:
        self._backend = backend
        self._tenant = tenant

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what this has open: connections, or the engine."""
        run_blocking(self._backend.close())

    @property
    def source(self) -> Source:
        """Where this takes amounts of quotas, for blocks that look it up late."""
        return Source(self._backend, self._tenant)

    # -- before the money is spent

    def reserve(
        self, *, on_unreachable: OnUnreachable = "raise", **operation: Unpack[ReserveFields]
    ) -> Reservation:
        """Hold an operation's estimate while a block runs.

        >>> with client.reserve(project="search", resource_type="llm", estimate="0.02") as r:
        ...     answer = call_the_model()
        ...     r.settle(answer.cost)

        It takes the fields of `POST /budgets/check`, of which `tenant`, `project`, `user`,
        `feature` and `estimate` are short for `tenant_id`, …, `estimated_cost`.

        Entering raises `BudgetExceeded` or, of a throttled budget, `RateLimitViolated`; their
        `answer` explains the refusal. With `on_unreachable="allow"` the block runs, without a hold,
        also when Fiscus cannot be reached; its cost is recorded all the same.
        """
        return Reservation(
            self._backend, {**operation}, tenant=self._tenant, on_unreachable=on_unreachable
        )

    def check(self, **operation: Unpack[CheckFields]) -> CheckAnswer:
        """May this operation be afforded? Reserves its estimate unless `reserve=False`.

        >>> answer = client.check(project="search", resource_type="llm", estimate="0.02")
        >>> if not answer.allowed:
        ...     print(answer.message, answer.max_allowed_cost, answer.fits_at)
        """
        return run_blocking(self._backend.check(request(CheckRequest, operation, self._tenant)))

    def check_batch(
        self,
        checks: Sequence[CheckFields],
        *,
        all_or_nothing: bool = False,
        idempotency_key: str | None = None,
    ) -> CheckBatchAnswer:
        """Up to 500 checks of one tenant, decided in order in one transaction.

        >>> client.check_batch([{"resource_type": "llm", "estimate": 1, "user": "u-17"}])
        """
        body = check_batch_request(checks, all_or_nothing=all_or_nothing, tenant=self._tenant)
        return run_blocking(self._backend.check_batch(body, key=idempotency_key))

    def release(self, reservation_id: str, *, tenant: str | None = None) -> ReservationView:
        """Give a reservation's money back: nothing was spent.

        >>> client.release(answer.reservation_id)
        """
        body = request(ReleaseRequest, {}, tenant_named(tenant, self._tenant))
        return run_blocking(self._backend.release(reservation_id, body))

    def extend(
        self, reservation_id: str, ttl_seconds: int, *, tenant: str | None = None
    ) -> ReservationView:
        """Hold a reservation's money until `ttl_seconds` from now.

        >>> client.extend(answer.reservation_id, ttl_seconds=600)
        """
        body = request(
            ExtendRequest, {"ttl_seconds": ttl_seconds}, tenant_named(tenant, self._tenant)
        )
        return run_blocking(self._backend.extend(reservation_id, body))

    # -- rate limits

    def check_rate_limit(
        self, *, patience_seconds: float | None = None, **operation: Unpack[RateLimitFields]
    ) -> RateLimitCheckAnswer:
        """May so many requests be made now? Taken from every policy that applies, or from none.

        A denial is an answer (`allowed` is false), not an error. `patience_seconds` bounds a call
        of a server, its retries included; an answer that was lost is not asked for again.

        >>> answer = client.check_rate_limit(resource_type="api", resource_key="203.0.113.7")
        >>> if not answer.allowed:
        ...     print(answer.message, answer.retry_after)
        """
        body = request(RateLimitCheckRequest, operation, self._tenant)
        patience = given_patience(patience_seconds)
        return run_blocking(self._backend.check_rate_limit(body, patience_seconds=patience))

    def check_rate_limits(self, checks: Sequence[RateLimitFields]) -> RateLimitBatchAnswer:
        """Up to 500 checks, decided in order, each for itself.

        >>> client.check_rate_limits([{"resource_type": "api"}, {"resource_type": "export"}])
        """
        return run_blocking(self._backend.check_rate_limits(rate_limit_batch(checks, self._tenant)))

    def adjust_rate_limit(self, **correction: Unpack[AdjustFields]) -> RateLimitCheckAnswer:
        """Correct a charge after the fact; never below zero use. What is left afterwards.

        A `ServiceUnavailable` that is not `retriable` may have been corrected all the same.

        >>> client.adjust_rate_limit(resource_type="tokens", request_count=actual - estimated)
        """
        body = request(AdjustRequest, correction, self._tenant)
        return run_blocking(self._backend.adjust_rate_limit(body))

    def create_rate_limit(
        self, *, idempotency_key: str | None = None, **policy: Unpack[PolicyFields]
    ) -> PolicyView:
        """A new rate limit.

        >>> client.create_rate_limit(
        ...     scope_type="user",
        ...     scope_id="*",
        ...     resource_type="api",
        ...     limit_value=100,
        ...     time_window_seconds=60,
        ... )
        """
        body = request(PolicySpec, policy, self._tenant)
        return run_blocking(self._backend.create_rate_limit(body, key=idempotency_key))

    def get_rate_limit(self, policy_id: str, *, tenant: str | None = None) -> PolicyView:
        """A rate limit as it stands; raises `NotFound`.

        >>> client.get_rate_limit(policy.policy_id).effective_limit
        """
        return run_blocking(
            self._backend.get_rate_limit(tenant_named(tenant, self._tenant), policy_id)
        )

    def rate_limits(self, **wanted: Unpack[PolicyFilterFields]) -> Page[PolicyView]:
        """A page of rate limits, newest first.

        >>> client.rate_limits(resource_type="api").items
        """
        return run_blocking(
            self._backend.rate_limits(request(PolicyListQuery, wanted, self._tenant))
        )

    def update_rate_limit(
        self,
        policy_id: str,
        *,
        version: int | None = None,
        tenant: str | None = None,
        **changes: Unpack[PolicyChanges],
    ) -> PolicyView:
        """Change some fields of a rate limit.

        What was used of it stays used, unless its algorithm or the type of its scope changes.
        Raises `Conflict` when somebody else changed it meanwhile, or since `version`.

        >>> client.update_rate_limit(policy.policy_id, limit_value=200)
        """
        return run_blocking(
            change_rate_limit(
                self._backend,
                policy_id,
                changes,
                version=version,
                tenant=tenant_named(tenant, self._tenant),
            )
        )

    def reset_rate_limit(
        self,
        policy_id: str,
        *,
        scope_id: str | None = None,
        resource_key: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """Make one counter of a rate limit unused, or all of them when none is named.

        One of a rate limit for `*` is named by its `scope_id`.

        >>> client.reset_rate_limit(policy.policy_id, scope_id="u-17")
        """
        given = {"scope_id": scope_id, "resource_key": resource_key}
        body = request(ResetRequest, given, tenant_named(tenant, self._tenant))
        run_blocking(self._backend.reset_rate_limit(policy_id, body))

    def delete_rate_limit(
        self, policy_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """End a rate limit; its versions stay. One in use only with `force`, else `Conflict`.

        It is in use when it was checked in its last window, or in the last hour if that is longer.

        >>> client.delete_rate_limit(policy.policy_id, force=True)
        """
        run_blocking(
            self._backend.delete_rate_limit(
                tenant_named(tenant, self._tenant), policy_id, force=force
            )
        )

    # -- quotas

    def quota(
        self,
        resource_type: str,
        amount: AmountLike | float = 1,
        *,
        give_back_on_error: bool = False,
        **operation: Unpack[QuotaFields],
    ) -> Consumption:
        """Take an amount from every matching quota, then run a block or a function.

        >>> with client.quota("gpu_hours", 2.5, project="search"):
        ...     train()

        >>> @client.quota("reports", 1)
        ... def report(): ...

        Entering, or a call of the function, raises `QuotaExhausted` when a quota has too little
        left; its `answer` explains it. With `give_back_on_error` a block that raises, or whose task
        is cancelled, gives back what it took. Here, a float may be given: it is taken by its
        shortest text, 2.5 as "2.5".
        """
        wanted = take_request(resource_type, amount, operation)
        return Consumption(lambda: self.source, wanted, give_back_on_error=give_back_on_error)

    def check_quota(self, **operation: Unpack[QuotaCheckFields]) -> QuotaCheckAnswer:
        """May so much be used? Taken from every quota that matches, or from none.

        A denial is an answer (`allowed` is false), not an error; `consume=False` only looks.

        >>> answer = client.check_quota(resource_type="gpu_hours", required_amount="2.5")
        >>> if not answer.allowed:
        ...     print(answer.message, answer.max_allowed_amount, answer.fits_at)
        """
        body = request(QuotaCheckRequest, operation, self._tenant)
        return run_blocking(self._backend.check_quota(body))

    def check_quotas(
        self, checks: Sequence[QuotaCheckFields], *, idempotency_key: str | None = None
    ) -> QuotaCheckBatchAnswer:
        """Up to 500 checks of one tenant, decided in order in one transaction, each for itself.

        >>> client.check_quotas([{"resource_type": "gpu_hours", "required_amount": 2}])
        """
        body = quota_batch(checks, self._tenant)
        return run_blocking(self._backend.check_quotas(body, key=idempotency_key))

    def release_consumption(
        self,
        consumption_id: str,
        amount: AmountLike | None = None,
        *,
        idempotency_key: str | None = None,
        tenant: str | None = None,
    ) -> ConsumptionView:
        """Give back what a consumption took: `amount`, or all that was not given back yet.

        >>> client.release_consumption(answer.consumption_id, "0.5")
        """
        body = request(
            ReleaseConsumptionRequest, {"amount": amount}, tenant_named(tenant, self._tenant)
        )
        return run_blocking(
            self._backend.release_consumption(consumption_id, body, key=idempotency_key)
        )

    def allocate_quota(
        self, *, idempotency_key: str | None = None, **quota: Unpack[AllocateFields]
    ) -> QuotaView:
        """A new quota, for one period. Raises `Conflict` when there is one for part of it.

        >>> client.allocate_quota(
        ...     scope_type="project",
        ...     scope_id="search",
        ...     resource_type="gpu_hours",
        ...     allocated_amount=1000,
        ...     auto_renew=True,
        ... )
        """
        body = request(QuotaSpec, quota, self._tenant)
        return run_blocking(self._backend.allocate_quota(body, key=idempotency_key))

    def distribute_quota(
        self, *, idempotency_key: str | None = None, **wanted: Unpack[DistributeFields]
    ) -> DistributeAnswer:
        """Share a total out over entities: a quota for each, all or none.

        With `dry_run=True` only say who would get what.

        >>> client.distribute_quota(
        ...     resource_type="gpu_hours",
        ...     total_amount=1000,
        ...     strategy="fair_share",
        ...     entities=[
        ...         {"scope_type": "project", "scope_id": "search"},
        ...         {"scope_type": "project", "scope_id": "ads"},
        ...     ],
        ... )
        """
        body = request(DistributeRequest, wanted, self._tenant)
        return run_blocking(self._backend.distribute_quota(body, key=idempotency_key))

    def get_quota(self, quota_id: str, *, tenant: str | None = None) -> QuotaView:
        """A quota as it stands, with what is used of it; raises `NotFound`.

        >>> client.get_quota(quota.quota_id).remaining_amount
        """
        return run_blocking(self._backend.get_quota(tenant_named(tenant, self._tenant), quota_id))

    def quotas(self, **wanted: Unpack[QuotaFilterFields]) -> Page[QuotaView]:
        """A page of quotas, newest first.

        >>> client.quotas(resource_type="gpu_hours", active_only=True).items
        """
        return run_blocking(self._backend.quotas(request(QuotaListQuery, wanted, self._tenant)))

    def update_quota(
        self,
        quota_id: str,
        *,
        version: int | None = None,
        force: bool = False,
        tenant: str | None = None,
        **changes: Unpack[QuotaChanges],
    ) -> QuotaView:
        """Change some fields of a quota; its scope, resource and period stay.

        Raises `Conflict` when somebody else changed it meanwhile, or since `version`; and when it
        would be less than what is used of it, unless `force`.

        >>> client.update_quota(quota.quota_id, allocated_amount=1500)
        """
        return run_blocking(
            change_quota(
                self._backend,
                quota_id,
                changes,
                version=version,
                force=force,
                tenant=tenant_named(tenant, self._tenant),
            )
        )

    def delete_quota(
        self, quota_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """End a quota; its history stays. One in use only with `force`, else `Conflict`.

        >>> client.delete_quota(quota.quota_id, force=True)
        """
        run_blocking(
            self._backend.delete_quota(tenant_named(tenant, self._tenant), quota_id, force=force)
        )

    def quota_history(self, quota_id: str, **wanted: Unpack[QuotaHistoryFields]) -> QuotaHistory:
        """What was taken from a quota and given back, newest first, and the totals of its days.

        >>> for day in client.quota_history(quota.quota_id).days:
        ...     print(day.day, day.consumed, day.released)
        """
        query = request(QuotaHistoryQuery, wanted, self._tenant)
        return run_blocking(self._backend.quota_history(quota_id, query))

    # -- after it was spent

    def settle(
        self,
        reservation_id: str,
        actual_cost: AmountLike,
        *,
        tenant: str | None = None,
        **details: Unpack[SettleFields],
    ) -> SettleAnswer:
        """Record what a reserved operation did cost; again with the same amount is the same.

        >>> client.settle(answer.reservation_id, "0.0187", usage={"output_tokens": 164})
        """
        given = {**details, "actual_cost": actual_cost}
        body = request(SettleRequest, given, tenant_named(tenant, self._tenant))
        return run_blocking(self._backend.settle(reservation_id, body))

    def record(self, **cost: Unpack[RecordFields]) -> RecordAnswer:
        """Record a cost that arose; never refused for lack of budget.

        >>> client.record(resource_type="llm", project="search", cost_amount="0.0187")
        """
        return run_blocking(self._backend.record(request(RecordRequest, cost, self._tenant)))

    def record_batch(
        self, records: Sequence[RecordFields], *, idempotency_key: str | None = None
    ) -> RecordBatchAnswer:
        """Up to 1000 costs of one tenant; each stands or falls alone, see `results`.

        >>> client.record_batch([{"resource_type": "llm", "cost_amount": "0.0187"}])
        """
        body = record_batch_request(records, tenant=self._tenant)
        return run_blocking(self._backend.record_batch(body, key=idempotency_key))

    # -- where it went

    def report(self, **wanted: Unpack[ReportFields]) -> Report:
        """Costs of a range, added up and grouped; by default of the present month.

        >>> for group in client.report(group_by=["project"]).groups:
        ...     print(group.key["project"], group.cost)
        """
        return run_blocking(self._backend.report(report_request(wanted, self._tenant)))

    def records(self, **wanted: Unpack[CostFilterFields]) -> Page[CostRecord]:
        """A page of cost records, newest first.

        >>> page = client.records(project="search")
        >>> while token := page.pagination.next_page_token:
        ...     page = client.records(project="search", page_token=token)
        """
        return run_blocking(self._backend.records(request(CostQuery, wanted, self._tenant)))

    # -- budgets

    def create_budget(
        self, *, idempotency_key: str | None = None, **budget: Unpack[BudgetFields]
    ) -> BudgetView:
        """A new budget.

        >>> client.create_budget(
        ...     budget_name="Search, monthly",
        ...     budget_amount=500,
        ...     period_type="monthly",
        ...     allocated_to_type="project",
        ...     allocated_to_id="search",
        ... )
        """
        body = request(BudgetSpec, budget, self._tenant)
        return run_blocking(self._backend.create_budget(body, key=idempotency_key))

    def get_budget(self, budget_id: str, *, tenant: str | None = None) -> BudgetView:
        """A budget as it stands; raises `NotFound`.

        >>> client.get_budget(budget.budget_id).budget_amount
        """
        return run_blocking(self._backend.get_budget(tenant_named(tenant, self._tenant), budget_id))

    def budgets(self, **wanted: Unpack[BudgetFilterFields]) -> Page[Budget]:
        """A page of budgets, newest first.

        >>> client.budgets(allocated_to_type="project").items
        """
        return run_blocking(self._backend.budgets(request(BudgetQuery, wanted, self._tenant)))

    def update_budget(
        self,
        budget_id: str,
        *,
        version: int | None = None,
        tenant: str | None = None,
        **changes: Unpack[BudgetChanges],
    ) -> BudgetView:
        """Change some fields of a budget.

        Raises `Conflict` when somebody else changed it meanwhile, or since `version`.

        >>> client.update_budget(budget.budget_id, budget_amount=750)
        """
        return run_blocking(
            change_budget(
                self._backend,
                budget_id,
                changes,
                version=version,
                tenant=tenant_named(tenant, self._tenant),
            )
        )

    def delete_budget(
        self, budget_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """End a budget; its history stays. One in use only with `force`, else `Conflict`.

        >>> client.delete_budget(budget.budget_id, force=True)
        """
        run_blocking(
            self._backend.delete_budget(tenant_named(tenant, self._tenant), budget_id, force=force)
        )

    def utilization(self, budget_id: str, **wanted: Unpack[UtilizationFields]) -> Utilization:
        """How far a budget is used: the current period first, then past ones.

        >>> client.utilization(budget.budget_id).periods[0].remaining
        """
        query = request(UtilizationQuery, wanted, self._tenant)
        return run_blocking(self._backend.utilization(budget_id, query))

    # -- tenants, and how Fiscus is

    def get_tenant(self, tenant: str) -> Tenant:
        """A tenant's settings; raises `NotFound` when nothing was ever set.

        >>> client.get_tenant("acme").currency
        """
        return run_blocking(self._backend.get_tenant(tenant))

    def put_tenant(self, tenant: str, **settings: Unpack[TenantFields]) -> Tenant:
        """Set a tenant's settings, making the tenant where there is none.

        What is left out takes its default.

        >>> client.put_tenant("acme", currency="EUR", timezone="Europe/Vienna")
        """
        return run_blocking(self._backend.put_tenant(tenant, request(TenantSpec, settings)))

    def health(self) -> HealthAnswer:
        """How Fiscus is: `UP`, `DEGRADED` or `DOWN`, with what it needs and why.

        >>> client.health().status
        """
        return run_blocking(self._backend.health())

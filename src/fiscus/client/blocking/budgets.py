"""Budgets, and what operations hold and spend of them: the calls that block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

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
from fiscus.client.arguments import request, tenant_named
from fiscus.client.backend import run_blocking
from fiscus.client.calls import Calls
from fiscus.client.fields import (
    AmountLike,
    BudgetChanges,
    BudgetFields,
    BudgetFilterFields,
    CheckFields,
    ReserveFields,
    SettleFields,
    UtilizationFields,
)
from fiscus.client.requests import change_budget, check_batch_request
from fiscus.client.reserving import OnUnreachable, Reservation
from fiscus.paging import Page


class BudgetCalls(Calls):
    """Before an operation, after it, and the budgets themselves."""

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

    # -- definitions

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

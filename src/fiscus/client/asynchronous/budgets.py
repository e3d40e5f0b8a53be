"""Budgets, and what operations hold and spend of them: the calls to await."""

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
from fiscus.client.reserving import AsyncReservation, OnUnreachable
from fiscus.paging import Page


class AsyncBudgetCalls(Calls):
    """As `BudgetCalls`, awaited."""

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

    # -- definitions

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

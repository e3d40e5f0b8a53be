"""What budgets need of a store, besides the ledger. Every call names its tenant."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol

from fiscus.budgets.calls import ReservationView, Utilization
from fiscus.budgets.model import Budget, BudgetSpec, EnforcementAction, ReservationStatus
from fiscus.idempotency import Idempotency
from fiscus.paging import Page, PageRequest
from fiscus.periods import PeriodType
from fiscus.scopes import ScopeType


class BudgetFilter(NamedTuple):
    """Which budgets a list shows; None shows all."""

    allocated_to_type: ScopeType | None = None
    allocated_to_id: str | None = None
    period_type: PeriodType | None = None
    enforcement_action: EnforcementAction | None = None
    currency: str | None = None
    name_contains: str | None = None


class ReservationFilter(NamedTuple):
    """Which reservations a list shows; None shows all."""

    status: ReservationStatus | None = None
    budget_id: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    feature_id: str | None = None
    operation_id: str | None = None


class BudgetUse(NamedTuple):
    """How far the current period of a budget is used: (spent + reserved) / amount."""

    tenant_id: str
    budget_id: str
    utilization_ratio: Decimal


class BudgetStore(Protocol):
    """Definitions of budgets, with all their versions, and how far they are used."""

    def create(
        self,
        tenant_id: str,
        spec: BudgetSpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> Budget:
        """A new budget; with the same idempotency key, the one made before.

        Raises `ValidationError` naming the field, `IdempotencyConflict`.
        """
        ...

    def get(self, tenant_id: str, budget_id: str, version: int | None = None) -> Budget:
        """A budget, or one of its earlier versions; raises `NotFound`."""
        ...

    def list(self, tenant_id: str, wanted: BudgetFilter, page: PageRequest) -> Page[Budget]: ...

    def replace(
        self,
        tenant_id: str,
        budget_id: str,
        spec: BudgetSpec,
        *,
        expected_version: int | None,
        by: str,
        now: datetime,
    ) -> Budget:
        """A new version.

        Raises `NotFound`, `ValidationError`, and `Conflict` for a stale version or a change of
        period, zone or currency of a budget that has usage."""
        ...

    def delete(
        self, tenant_id: str, budget_id: str, *, force: bool, by: str, now: datetime
    ) -> None:
        """End a budget; its history stays. Raises `NotFound`, and `Conflict` while it has open
        reservations or usage in the current period, unless `force`."""
        ...

    def utilization(
        self,
        tenant_id: str,
        budget_id: str,
        page: PageRequest,
        *,
        scope_id: str | None,
        now: datetime,
    ) -> Utilization:
        """Use per period: the current one first, then past ones, newest first."""
        ...

    def most_used(self, now: datetime, most: int) -> list[BudgetUse]:
        """Those used most now, of all tenants, at most so many; the most used first.

        A budget for `*` is as used as it is by the id that used most. What is not used is not among
        them. Raises `ServiceUnavailable`, also when it takes too long.
        """
        ...


class ReservationStore(Protocol):
    def list(
        self, tenant_id: str, wanted: ReservationFilter, page: PageRequest, now: datetime
    ) -> Page[ReservationView]:
        """Reservations as they stand at `now`, newest first."""
        ...

    def get(self, tenant_id: str, reservation_id: str, now: datetime) -> ReservationView:
        """Raises `NotFound`."""
        ...

    def tenants_with_due(self, now: datetime) -> list[str]:
        """Tenants that have pending reservations past their expiry; for the worker."""
        ...

"""Query parameters of the calls about budgets and reservations."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fiscus.budgets.model import EnforcementAction, ReservationStatus
from fiscus.budgets.port import BudgetFilter, ReservationFilter
from fiscus.periods import PeriodType
from fiscus.scopes import ScopeType
from fiscus.wire.queries import PageQuery, ScopeId, TenantQuery
from fiscus.wire.texts import Currency, Id, Name


class BudgetQuery(PageQuery, frozen=True, kw_only=True):
    allocated_to_type: Annotated[
        ScopeType | None, Meta(description="Only budgets of this type of scope.")
    ] = None
    allocated_to_id: Annotated[
        ScopeId | None, Meta(description="Only budgets of this scope; `*`: templates.")
    ] = None
    period_type: Annotated[
        PeriodType | None, Meta(description="Only budgets of this type of period.")
    ] = None
    enforcement_action: Annotated[
        EnforcementAction | None, Meta(description="Only budgets with this action.")
    ] = None
    currency: Annotated[Currency | None, Meta(description="Only budgets in this currency.")] = None
    name_contains: Annotated[
        Name | None, Meta(description="Only budgets whose name contains this.")
    ] = None

    def wanted(self) -> BudgetFilter:
        return BudgetFilter(
            allocated_to_type=self.allocated_to_type,
            allocated_to_id=self.allocated_to_id,
            period_type=self.period_type,
            enforcement_action=self.enforcement_action,
            currency=self.currency,
            name_contains=self.name_contains,
        )


class DeleteBudgetQuery(TenantQuery, frozen=True, kw_only=True):
    force: Annotated[
        bool, Meta(description="Also with open reservations or use in the current period.")
    ] = False


class UtilizationQuery(PageQuery, frozen=True, kw_only=True):
    scope_id: Annotated[
        Id | None, Meta(description="Of a budget for `*`: only the use of this scope.")
    ] = None


class ReservationQuery(PageQuery, frozen=True, kw_only=True):
    status: Annotated[
        ReservationStatus | None, Meta(description="Only reservations in this status.")
    ] = None
    budget_id: Annotated[Id | None, Meta(description="Only those that hold of this budget.")] = None
    project_id: Annotated[Id | None, Meta(description="Only of this project.")] = None
    user_id: Annotated[Id | None, Meta(description="Only of this user.")] = None
    feature_id: Annotated[Id | None, Meta(description="Only of this feature.")] = None
    operation_id: Annotated[Id | None, Meta(description="Only of this operation.")] = None

    def wanted(self) -> ReservationFilter:
        return ReservationFilter(
            status=self.status,
            budget_id=self.budget_id,
            project_id=self.project_id,
            user_id=self.user_id,
            feature_id=self.feature_id,
            operation_id=self.operation_id,
        )

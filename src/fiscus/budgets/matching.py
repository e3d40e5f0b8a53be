"""Which budgets an operation meets: one look-up per scope the caller gives, however many exist."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime

from fiscus.budgets.model import BalanceKey, Budget, BudgetBalance
from fiscus.budgets.periods import (
    Period,
    PeriodType,
    Schedule,
    first_anchor,
    period_after,
    period_at,
)
from fiscus.operations import Operation
from fiscus.scopes import EVERY, ScopeType


class PreparedBudget:
    """A budget with what matching and period look-ups need worked out once.

    A rolling budget without a start date has an anchor per scope id: the local date of the first
    hold or charge, stored for good. `anchors` caches those known to be stored.
    """

    __slots__ = (
        "_period",
        "_resource_types",
        "_schedule",
        "_scopes",
        "_service_names",
        "_tags",
        "anchors",
        "budget",
        "floats",
    )

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.floats = budget.period_type is PeriodType.ROLLING and budget.start_date is None
        self.anchors: dict[str, date] = {}
        self._schedule = schedule_of(budget)
        self._period: Period | None = None
        self._resource_types = frozenset(budget.filters.resource_types)
        self._service_names = frozenset(budget.filters.service_names)
        self._tags = budget.filters.tags
        self._scopes: dict[str, dict[str, str]] = {}

    def counts(self, operation: Operation) -> bool:
        """Whether the budget's filters let this operation in."""
        if self._resource_types and operation.resource_type not in self._resource_types:
            return False
        if self._service_names and operation.service_name not in self._service_names:
            return False
        return not self._tags or all(
            operation.tags.get(name) == value for name, value in self._tags.items()
        )

    def period_at(self, moment: datetime, anchor: date | None = None) -> Period | None:
        """The period `moment` falls in; None outside the budget's dates.

        `anchor` is needed by a floating budget only.
        """
        if self.floats:
            return period_at(schedule_of(self.budget, anchor), moment)
        last = self._period
        if last is not None and last.start <= moment < last.end:
            return last
        period = period_at(self._schedule, moment)
        if period is not None:
            self._period = period
        return period

    def period_after(self, period: Period, anchor: date | None = None) -> Period | None:
        """The period in which use starts again at nothing; None when it never does."""
        schedule = schedule_of(self.budget, anchor) if self.floats else self._schedule
        return period_after(schedule, period)

    def anchor_for(self, moment: datetime) -> date:
        """The anchor a first hold or charge at `moment` gives a floating budget."""
        return first_anchor(self.budget.timezone, moment)

    def blank(self, scope_id: str, period: Period) -> BudgetBalance:
        """The balance of a period nothing was used in."""
        budget = self.budget
        return BudgetBalance(
            BalanceKey(budget.budget_id, scope_id, period.start), budget.tenant_id, period.end
        )

    def scope(self, scope_id: str) -> dict[str, str]:
        """The scope as answers show it."""
        shown = self._scopes.get(scope_id)
        if shown is None:
            if len(self._scopes) > 10_000:
                self._scopes.clear()
            shown = {"type": str(self.budget.allocated_to_type), "id": scope_id}
            self._scopes[scope_id] = shown
        return shown


def schedule_of(budget: Budget, anchor: date | None = None) -> Schedule:
    return Schedule(
        period_type=budget.period_type,
        timezone=budget.timezone,
        start_date=budget.start_date,
        end_date=budget.end_date,
        rolling_days=budget.rolling_days,
        anchor=anchor,
    )


class BudgetIndex:
    """The live budgets of one tenant, found by scope."""

    def __init__(self, budgets: Iterable[Budget] = ()) -> None:
        self._by_id: dict[str, PreparedBudget] = {}
        self._by_scope: dict[tuple[ScopeType, str], dict[str, PreparedBudget]] = {}
        for budget in budgets:
            self.put(budget)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, budget_id: str) -> PreparedBudget | None:
        return self._by_id.get(budget_id)

    def put(self, budget: Budget) -> None:
        """Add a budget, or replace its earlier version."""
        self.remove(budget.budget_id)
        prepared = PreparedBudget(budget)
        self._by_id[budget.budget_id] = prepared
        scope = (budget.allocated_to_type, budget.allocated_to_id)
        self._by_scope.setdefault(scope, {})[budget.budget_id] = prepared

    def remove(self, budget_id: str) -> None:
        prepared = self._by_id.pop(budget_id, None)
        if prepared is not None:
            scope = (prepared.budget.allocated_to_type, prepared.budget.allocated_to_id)
            del self._by_scope[scope][budget_id]
            if not self._by_scope[scope]:
                del self._by_scope[scope]

    def matches(self, operation: Operation) -> Iterator[tuple[PreparedBudget, str]]:
        """Every budget that counts this operation, with the scope id it is charged under."""
        by_scope = self._by_scope
        for kind, scope_id in (
            (ScopeType.TENANT, operation.tenant_id),
            (ScopeType.PROJECT, operation.project_id),
            (ScopeType.USER, operation.user_id),
            (ScopeType.FEATURE, operation.feature_id),
        ):
            if scope_id is None:
                continue
            for wanted in (scope_id, EVERY):
                found = by_scope.get((kind, wanted))
                if found is not None:
                    for prepared in found.values():
                        if prepared.counts(operation):
                            yield prepared, scope_id

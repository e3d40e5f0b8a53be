"""Which budgets an operation matches: one look-up per scope given, however many exist."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from fiscus.budgets.model import BalanceKey, Budget, BudgetBalance
from fiscus.operations import ByScopeType, Operation, ScopeIds
from fiscus.periods import (
    DAWN,
    FAR_FUTURE,
    Period,
    PeriodType,
    Schedule,
    bounds,
    first_anchor,
    period_after,
    period_at,
)
from fiscus.scopes import EVERY

if TYPE_CHECKING:
    from fiscus.budgets.answer_templates import AnswerTemplate


class MatchedBudget(Struct):
    """A budget that operations of one scope match, in one of its periods."""

    prepared: PreparedBudget
    budget: Budget
    scope_id: str
    period: Period
    blank: BudgetBalance
    """The balance of that period if nothing was used in it yet."""
    scope: dict[str, str]
    """The scope as answers show it."""
    label: str
    """What messages call the budget."""
    template: AnswerTemplate | None = None
    """What answers say of it, once one has said it."""


class _Known(Struct, frozen=True, gc=False):
    """What operations of some ids match, for as long as no budget changes and no period ends."""

    matched: list[MatchedBudget]
    since: datetime
    until: datetime


_MAX_SCOPE_IDS: Final = 10_000
"""Of so many a budget for all ids remembers something; who sends ids can make up any number."""
_MAX_KNOWN: Final = 1_000
_ByScopeId = dict[str, dict[str, "PreparedBudget"]]


class PreparedBudget:
    """A budget with what matching and period look-ups need worked out once.

    A rolling budget without a start date has an anchor per scope id: the local date of the first
    hold or charge, stored for good. `anchors` caches those last known to be stored.
    """

    __slots__ = (
        "_matched",
        "_period",
        "_resource_types",
        "_schedule",
        "_service_names",
        "_tags",
        "anchors",
        "budget",
        "counts_all",
        "is_floating",
    )

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.is_floating = budget.period_type is PeriodType.ROLLING and budget.start_date is None
        self.anchors: dict[str, date] = {}
        self._schedule = schedule_of(budget)
        self._period: Period | None = None
        self._resource_types = frozenset(budget.filters.resource_types)
        self._service_names = frozenset(budget.filters.service_names)
        self._tags = budget.filters.tags
        self.counts_all = not (self._resource_types or self._service_names or self._tags)
        self._matched: dict[str, MatchedBudget] = {}

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
        if self.is_floating:
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
        schedule = schedule_of(self.budget, anchor) if self.is_floating else self._schedule
        return period_after(schedule, period)

    def bounds(self) -> Period:
        """From when until when the budget counts anything."""
        return bounds(self._schedule)

    def anchor_for(self, moment: datetime) -> date:
        """The anchor a first hold or charge at `moment` gives a floating budget."""
        return first_anchor(self.budget.timezone, moment)

    def know_anchor(self, scope_id: str, anchor: date) -> None:
        """Cache an anchor that is stored."""
        if len(self.anchors) >= _MAX_SCOPE_IDS:
            self.anchors.clear()
        self.anchors[scope_id] = anchor

    def blank(self, scope_id: str, period: Period) -> BudgetBalance:
        """The balance of a period nothing was used in."""
        budget = self.budget
        return BudgetBalance(
            BalanceKey(budget.budget_id, scope_id, period.start), budget.tenant_id, period.end
        )

    def matched_at(
        self, scope_id: str, moment: datetime, anchor: date | None = None
    ) -> MatchedBudget | None:
        """What operations of `scope_id` match at `moment`; None outside the budget's dates.

        `anchor` is needed by a floating budget only.
        """
        last = self._matched.get(scope_id)
        if last is not None and last.period.start <= moment < last.period.end:
            return last
        period = self.period_at(moment, anchor)
        if period is None:
            return None
        matched = self.in_period(scope_id, period)
        # before its anchor is stored, it may be another
        if not self.is_floating or scope_id in self.anchors:
            if len(self._matched) >= _MAX_SCOPE_IDS:
                self._matched.clear()
            self._matched[scope_id] = matched
        return matched

    def in_period(self, scope_id: str, period: Period) -> MatchedBudget:
        """What operations of `scope_id` match in one of the budget's periods."""
        budget = self.budget
        kind = str(budget.allocated_to_type)
        return MatchedBudget(
            self,
            budget,
            scope_id,
            period,
            self.blank(scope_id, period),
            {"type": kind, "id": scope_id},
            f"Budget {budget.budget_name!r} ({kind} {scope_id})",
        )


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
        self._scopes: ByScopeType[_ByScopeId] = ByScopeType(dict)
        self._picky: set[str] = set()
        """Budgets that do not count every operation of their scope."""
        self._floating: set[str] = set()
        """Budgets whose periods begin with their first use."""
        self._known: dict[ScopeIds, list[tuple[PreparedBudget, str]]] = {}
        """What was found, by those of an operation's ids that it depends on; until a budget
        changes."""
        self._matched: dict[ScopeIds, _Known] = {}
        """What was matched, by the same, while it is as simple as that."""
        for budget in budgets:
            self.put(budget)

    def get(self, budget_id: str) -> PreparedBudget | None:
        return self._by_id.get(budget_id)

    def __iter__(self) -> Iterator[Budget]:
        return (prepared.budget for prepared in self._by_id.values())

    def put(self, budget: Budget) -> None:
        """Add a budget, or replace its earlier version."""
        self.remove(budget.budget_id)
        self._forget()
        prepared = PreparedBudget(budget)
        self._by_id[budget.budget_id] = prepared
        if not prepared.counts_all:
            self._picky.add(budget.budget_id)
        if prepared.is_floating:
            self._floating.add(budget.budget_id)
        scopes = self._scopes.of(budget.allocated_to_type)
        scopes.setdefault(budget.allocated_to_id, {})[budget.budget_id] = prepared

    def remove(self, budget_id: str) -> None:
        prepared = self._by_id.pop(budget_id, None)
        if prepared is not None:
            self._forget()
            self._picky.discard(budget_id)
            self._floating.discard(budget_id)
            budget = prepared.budget
            scopes = self._scopes.of(budget.allocated_to_type)
            of_scope = scopes[budget.allocated_to_id]
            del of_scope[budget_id]
            if not of_scope:
                del scopes[budget.allocated_to_id]

    def matched_at(self, operation: Operation, moment: datetime) -> Sequence[MatchedBudget] | None:
        """Every budget that counts this operation, with its period at `moment`.

        None when an anchor may be needed to know that; then `matches` says which there are.
        """
        if self._floating:
            return None
        if self._picky:
            return self._matched_now(operation, moment)
        ids = self._scopes.ids_of(operation)
        known = self._matched.get(ids)
        if known is not None and known.since <= moment < known.until:
            return known.matched
        matched = self._matched_now(operation, moment)
        if len(matched) == len(self.matches(operation)):  # else one begins or ends by its dates
            if len(self._matched) >= _MAX_KNOWN:
                self._matched.clear()
            since = max((one.period.start for one in matched), default=DAWN)
            until = min((one.period.end for one in matched), default=FAR_FUTURE)
            self._matched[ids] = _Known(matched, since, until)
        return matched

    def _matched_now(self, operation: Operation, moment: datetime) -> list[MatchedBudget]:
        found = (
            prepared.matched_at(scope_id, moment) for prepared, scope_id in self.matches(operation)
        )
        return [one for one in found if one is not None]

    def _forget(self) -> None:
        self._known.clear()
        self._matched.clear()

    def matches(self, operation: Operation) -> Sequence[tuple[PreparedBudget, str]]:
        """Every budget that counts this operation, with the scope id it is charged under."""
        ids = self._scopes.ids_of(operation)
        known = self._known.get(ids)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[ids] = self._of_scopes(ids)
        if self._picky:
            return [one for one in known if one[0].counts_all or one[0].counts(operation)]
        return known

    def counting(self, operation: Operation) -> list[PreparedBudget]:
        """As `matches`, but nothing is remembered: for other threads than the one that decides."""
        found = self._of_scopes(self._scopes.ids_of(operation))
        return [prepared for prepared, _ in found if prepared.counts(operation)]

    def _of_scopes(self, ids: ScopeIds) -> list[tuple[PreparedBudget, str]]:
        found: list[tuple[PreparedBudget, str]] = []
        for by_id, scope_id in self._scopes.at(ids):
            for wanted in (scope_id, EVERY):
                found += [(prepared, scope_id) for prepared in by_id.get(wanted, {}).values()]
        return found

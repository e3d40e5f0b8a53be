"""When a denied check would pass if nobody else came, as far as the ledger can know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Final, NamedTuple

from msgspec.structs import replace

from fiscus.budgets.intervals import (
    FuturePeriod,
    Interval,
    first_in_all,
    has_room_for_good,
    intersection,
    may_deny,
    passing_intervals,
    union,
    waits_for_holds,
)
from fiscus.budgets.matching import MatchedBudget, PreparedBudget
from fiscus.budgets.model import Budget, BudgetBalance, EnforcementAction
from fiscus.budgets.rules import THROTTLE, advanced
from fiscus.costs.calls import MAX_CLOCK_SKEW
from fiscus.costs.fx import convert
from fiscus.ledger.commands import Check
from fiscus.ledger.workspace import Workspace
from fiscus.money import ZERO, add
from fiscus.periods import Period


class MatchedCheck(NamedTuple):
    """A check with the budgets that it matches, and what each said."""

    check: Check
    matched: Sequence[MatchedBudget] = ()
    verdicts: Sequence[str] = ()


class _Ahead(NamedTuple):
    """What checks want of a budget that are to pass at the same moment, but first."""

    amount: Decimal
    """To hold, in each of its periods."""
    checks: int


_NONE_AHEAD: Final = _Ahead(ZERO, 0)


class _Want(NamedTuple):
    """What a check wants of a budget that may deny it."""

    prepared: PreparedBudget
    scope_id: str
    estimate: Decimal | None
    ahead: _Ahead
    matched: MatchedBudget | None
    """The budget's period, unless it has yet to begin."""
    is_throttled: bool
    reserve: bool

    def needs_more_than(self, other: _Want) -> bool:
        """Whether `other`, of the same budget, passes whenever this does."""
        if self.estimate is None or other.estimate is None:
            return self.estimate is None
        return add(self.ahead.amount, self.estimate) > add(other.ahead.amount, other.estimate)


class _Course(NamedTuple):
    """What a budget that may deny is going to be like."""

    budget: Budget
    estimate: Decimal | None
    ahead: _Ahead
    current: FuturePeriod | None
    """What is left of its period, unless it has yet to begin."""
    later: list[BudgetBalance]
    """Of the periods that follow, up to the first of which nothing can be spent yet, as all after
    it: as if nothing were."""
    ends_at: datetime


class _Outlook(NamedTuple):
    """What checks are going to match."""

    courses: list[_Course]
    in_force: set[tuple[Interval, ...]]
    """When any budget counts them."""


def fits_at(workspace: Workspace, asked: MatchedCheck) -> datetime | None:
    """The first moment at which no budget would deny a check; None when there is none."""
    (moment,) = fit_in_turn(workspace, [[asked]])
    return moment


def fit_in_turn(
    workspace: Workspace, portions: Sequence[Sequence[MatchedCheck]]
) -> list[datetime | None]:
    """For each portion of a tenant's batch the first moment at which its checks would pass, and
    those of the portions before it too."""
    ahead: dict[tuple[str, str], _Ahead] = {}
    outlooks = [_outlook(workspace, portion, ahead) for portion in portions]
    first = portions[0][0].check
    tenant_id, now = first.tenant_id, first.now
    courses = [course for one in outlooks for course in one.courses]
    each = iter(_passing_intervals(workspace, tenant_id, courses, now))
    require_budget = workspace.tenant(tenant_id).settings.require_budget
    moments: list[datetime | None] = []
    before: list[list[Interval]] = []
    for one in outlooks:
        passing = [*before, *islice(each, len(one.courses))]
        if require_budget:
            passing += [union(counted) for counted in one.in_force]
        moments.append(first_in_all(passing, now))
        if one is not outlooks[-1]:
            before = [intersection(passing)]
    return moments


def _outlook(
    workspace: Workspace, portion: Sequence[MatchedCheck], ahead: dict[tuple[str, str], _Ahead]
) -> _Outlook:
    """What checks are going to meet; adds what they want to what those before them want.

    Of what they want of one budget only the most counts. A throttle is asked by each.
    """
    now = portion[0].check.now
    in_force: set[tuple[Interval, ...]] = set()
    wants: dict[tuple[str, str, int], _Want] = {}
    for turn, (check, matched, verdicts) in enumerate(portion):
        places = {one.budget.budget_id: index for index, one in enumerate(matched)}
        counted: list[Interval] = []
        tenant = workspace.tenant(check.tenant_id)
        for prepared, scope_id in tenant.budgets.matches(check.operation):
            budget = prepared.budget
            begins_at, ends_at = prepared.bounds()
            if ends_at <= now:
                continue
            estimate = _estimate(workspace, check, budget)
            if estimate is None and budget.shadow:
                continue  # such a budget is left out, as of a cost
            counted.append(Interval(begins_at, ends_at))
            if estimate is not None and not may_deny(budget):
                continue
            place = (budget.budget_id, scope_id)
            first = ahead.get(place, _NONE_AHEAD)
            index = places.get(budget.budget_id)
            is_throttle = budget.enforcement_action is EnforcementAction.THROTTLE
            want = _Want(
                prepared,
                scope_id,
                estimate,
                first,
                None if index is None else matched[index],
                index is not None and verdicts[index] == THROTTLE,
                check.reserve,
            )
            at = (*place, turn if is_throttle else 0)
            if (other := wants.get(at)) is None or want.needs_more_than(other):
                wants[at] = want
            if check.reserve and estimate is not None:
                ahead[place] = _Ahead(add(first.amount, estimate), first.checks + 1)
        in_force.add(tuple(counted))
    courses = [_course(workspace, want, now) for want in wants.values()]
    return _Outlook([one for one in courses if one is not None], in_force)


def _course(workspace: Workspace, want: _Want, now: datetime) -> _Course | None:
    """None for a budget that is never going to stand in the way."""
    prepared, scope_id, estimate, ahead, matched, is_throttled, reserve = want
    budget = prepared.budget
    begins_at, ends_at = prepared.bounds()
    current = None
    if matched is None:
        following = prepared.period_at(begins_at)
    else:
        balance = workspace.balance(matched.blank.key)
        if is_throttled and not reserve:
            balance = advanced(budget, balance)
        balance = replace(balance, reserved=add(balance.reserved, ahead.amount))
        current = FuturePeriod(
            now, matched.period.end, balance, throttled=is_throttled, ahead=ahead.checks
        )
        if (
            estimate is not None
            and not _may_be_used(matched.period.end, now)
            and has_room_for_good(budget, estimate, balance)
        ):
            return None
        following = prepared.period_after(matched.period, prepared.anchors.get(scope_id))
    later = _later(prepared, scope_id, following, now)
    return _Course(budget, estimate, ahead, current, later, ends_at)


def _later(
    prepared: PreparedBudget, scope_id: str, period: Period | None, now: datetime
) -> list[BudgetBalance]:
    """A period and those after it, as `_Course.later`."""
    found: list[BudgetBalance] = []
    while period is not None:
        found.append(prepared.blank(scope_id, period))
        if not _may_be_used(period.start, now):
            break
        period = prepared.period_after(period, prepared.anchors.get(scope_id))
    return found


def _may_be_used(start: datetime, now: datetime) -> bool:
    return start <= now + MAX_CLOCK_SKEW  # costs may be stamped so far ahead


def _estimate(workspace: Workspace, check: Check, budget: Budget) -> Decimal | None:
    """The estimate in the budget's currency, as of today; None without a rate."""
    currency = check.currency or workspace.tenant(check.tenant_id).settings.currency
    if budget.currency == currency:
        return check.estimate
    rate = workspace.rates.rate(currency, budget.currency, check.now.date())
    return None if rate is None else convert(check.estimate, rate)


def _passing_intervals(
    workspace: Workspace, tenant_id: str, courses: Sequence[_Course], now: datetime
) -> list[list[Interval]]:
    """Of each course; what has to be known for that is read at once."""
    waiting = [
        one.current is not None
        and one.estimate is not None
        and waits_for_holds(one.budget, one.estimate, one.current)
        for one in courses
    ]
    used = [
        blank.key
        for one in courses
        for blank in one.later
        if _may_be_used(blank.key.period_start, now)
    ]
    workspace.look_ahead(tenant_id, used, holds=any(waiting))
    found: list[list[Interval]] = []
    for one, waits in zip(courses, waiting, strict=True):
        periods: list[FuturePeriod] = []
        if one.current is not None:
            current = one.current
            if waits:
                freed = workspace.freed_on(current.balance.key, tenant_id)
                current = current._replace(freed=freed)
            periods.append(current)
        for blank in one.later:
            start = blank.key.period_start
            is_used = _may_be_used(start, now)
            spent = workspace.spent_of(blank.key) if is_used else ZERO
            balance = replace(blank, spent=spent, reserved=one.ahead.amount)
            end = blank.period_end if is_used else one.ends_at
            periods.append(FuturePeriod(start, end, balance, ahead=one.ahead.checks))
        found.append(passing_intervals(one.budget, one.estimate, periods))
    return found

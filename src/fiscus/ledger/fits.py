"""When a denied check would pass if nobody else came, as far as the ledger can know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Final, NamedTuple

from msgspec.structs import replace

from fiscus.budgets.matching import Matched, PreparedBudget
from fiscus.budgets.model import Budget, BudgetBalance
from fiscus.budgets.openings import (
    Opening,
    Stretch,
    any_of,
    common,
    first_common,
    may_deny,
    openings,
    waits_for_holds,
)
from fiscus.budgets.rules import THROTTLE, advanced
from fiscus.costs.calls import MAX_CLOCK_SKEW
from fiscus.costs.fx import convert
from fiscus.ledger.commands import Check
from fiscus.ledger.workspace import Workspace
from fiscus.money import ZERO, add
from fiscus.periods import Period


class Asked(NamedTuple):
    """A check with the budgets it met, and what each said."""

    check: Check
    matched: Sequence[Matched] = ()
    verdicts: Sequence[str] = ()


class _Ahead(NamedTuple):
    """What checks want of a budget that are to pass at the same moment, but first."""

    amount: Decimal
    """To hold, in each of its periods."""
    checks: int


_NONE_AHEAD: Final = _Ahead(ZERO, 0)


class _Course(NamedTuple):
    """What a budget that may deny is going to be like."""

    budget: Budget
    estimate: Decimal | None
    ahead: _Ahead
    current: Stretch | None
    """What is left of its period, unless it has yet to begin."""
    later: list[BudgetBalance]
    """Of the periods that follow, up to the first of which nothing can be spent yet, as all after
    it: as if nothing were."""
    ends_at: datetime


class _Outlook(NamedTuple):
    """What a check is going to meet."""

    courses: list[_Course]
    in_force: list[Opening]
    """When any budget counts it."""


def fits_at(workspace: Workspace, asked: Asked) -> datetime | None:
    """The first moment at which no budget would deny a check; None when there is none."""
    (moment,) = fit_in_turn(workspace, [asked])
    return moment


def fit_in_turn(workspace: Workspace, batch: Sequence[Asked]) -> list[datetime | None]:
    """For each check of a tenant's batch the first moment at which it would pass, and those before
    it too."""
    ahead: dict[tuple[str, str], _Ahead] = {}
    outlooks = [_outlook(workspace, asked, ahead) for asked in batch]
    first = batch[0].check
    tenant_id, now = first.tenant_id, first.now
    courses = [course for one in outlooks for course in one.courses]
    each = iter(_openings(workspace, tenant_id, courses, now))
    require_budget = workspace.tenant(tenant_id).settings.require_budget
    moments: list[datetime | None] = []
    before: list[list[Opening]] = []
    for one in outlooks:
        passing = [*before, *islice(each, len(one.courses))]
        if require_budget:
            passing.append(any_of(one.in_force))
        moments.append(first_common(passing, now))
        if one is not outlooks[-1]:
            before = [common(passing)]
    return moments


def _outlook(workspace: Workspace, asked: Asked, ahead: dict[tuple[str, str], _Ahead]) -> _Outlook:
    """What a check is going to meet; adds what it wants to what those before it want."""
    check, matched, verdicts = asked
    now = check.now
    met = {one.budget.budget_id: index for index, one in enumerate(matched)}
    in_force: list[Opening] = []
    courses: list[_Course] = []
    for prepared, scope_id in workspace.tenant(check.tenant_id).budgets.matches(check.operation):
        budget = prepared.budget
        begins_at, ends_at = prepared.bounds()
        if ends_at <= now:
            continue
        estimate = _estimate(workspace, check, budget)
        if estimate is None and budget.shadow:
            continue  # such a budget is left out, as of a cost
        in_force.append(Opening(begins_at, ends_at))
        if estimate is not None and not may_deny(budget):
            continue
        place = (budget.budget_id, scope_id)
        first = ahead.get(place, _NONE_AHEAD)
        current = None
        index = met.get(budget.budget_id)
        if index is None:
            following = prepared.period_at(begins_at)
        else:
            one = matched[index]
            balance = workspace.balance(one.blank)
            is_throttled = verdicts[index] == THROTTLE
            if is_throttled and not check.reserve:
                balance = advanced(budget, balance)
            balance = replace(balance, reserved=add(balance.reserved, first.amount))
            current = Stretch(
                now, one.period.end, balance, throttled=is_throttled, ahead=first.checks
            )
            following = prepared.period_after(one.period, prepared.anchors.get(scope_id))
        later = _later(prepared, scope_id, following, now)
        courses.append(_Course(budget, estimate, first, current, later, ends_at))
        if check.reserve and estimate is not None:
            ahead[place] = _Ahead(add(first.amount, estimate), first.checks + 1)
    return _Outlook(courses, in_force)


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


def _openings(
    workspace: Workspace, tenant_id: str, courses: Sequence[_Course], now: datetime
) -> list[list[Opening]]:
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
    found: list[list[Opening]] = []
    for one, waits in zip(courses, waiting, strict=True):
        stretches: list[Stretch] = []
        if one.current is not None:
            current = one.current
            if waits:
                freed = workspace.freed_on(current.balance.key, tenant_id)
                current = current._replace(freed=freed)
            stretches.append(current)
        for blank in one.later:
            start = blank.key.period_start
            is_used = _may_be_used(start, now)
            spent = workspace.spent_of(blank.key) if is_used else ZERO
            balance = replace(blank, spent=spent, reserved=one.ahead.amount)
            end = blank.period_end if is_used else one.ends_at
            stretches.append(Stretch(start, end, balance, ahead=one.ahead.checks))
        found.append(openings(one.budget, one.estimate, stretches))
    return found

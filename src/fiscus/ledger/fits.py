"""When a denied check would pass if nobody else came, as far as the ledger can know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec.structs import replace

from fiscus.budgets.matching import Matched, PreparedBudget
from fiscus.budgets.model import BalanceKey, Budget, BudgetBalance
from fiscus.budgets.openings import (
    Opening,
    Stretch,
    first_common,
    may_deny,
    openings,
    waits_for_holds,
)
from fiscus.budgets.rules import THROTTLE, advanced
from fiscus.costs.fx import convert
from fiscus.ledger.commands import Check
from fiscus.ledger.requests import MAX_CLOCK_SKEW
from fiscus.ledger.workspace import Workspace
from fiscus.money import ZERO, add
from fiscus.periods import Period

_NOTHING: Final[Mapping[BalanceKey, Decimal]] = MappingProxyType({})


class _Course(NamedTuple):
    """What a budget that may deny is going to be like."""

    budget: Budget
    estimate: Decimal | None
    before: Decimal
    """What others want to hold of it at the same moment, in each of its periods."""
    current: Stretch | None
    """What is left of its period, unless it has yet to begin."""
    later: list[BudgetBalance]
    """Of the periods that follow, up to the first of which nothing can be spent yet, as all after
    it: as if nothing were."""
    ends_at: datetime


def fits_at(
    workspace: Workspace,
    check: Check,
    matched: Sequence[Matched] = (),
    verdicts: Sequence[str] = (),
    before: Mapping[BalanceKey, Decimal] = _NOTHING,
) -> datetime | None:
    """The first moment at which no budget would deny a check; None when there is none.

    `matched` and `verdicts` are the budgets it met, and what each said. `before` is what others
    want to hold of their balances at the same moment.
    """
    now, tenant = check.now, workspace.tenant(check.tenant_id)
    met = {one.budget.budget_id: index for index, one in enumerate(matched)}
    in_force: list[Opening] = []
    courses: list[_Course] = []
    for prepared, scope_id in tenant.budgets.matches(check.operation):
        budget = prepared.budget
        begins_at, ends_at = prepared.bounds()
        if ends_at <= now:
            continue
        in_force.append(Opening(begins_at, ends_at))
        if not may_deny(budget):
            continue
        current, others = None, ZERO
        index = met.get(budget.budget_id)
        if index is None:
            following = prepared.period_at(begins_at)
        else:
            one = matched[index]
            balance = workspace.balance(one.blank)
            is_throttled = verdicts[index] == THROTTLE
            if is_throttled and not check.reserve:
                balance = advanced(budget, balance)
            others = before.get(balance.key, ZERO)
            balance = replace(balance, reserved=add(balance.reserved, others))
            current = Stretch(now, one.period.end, balance, throttled=is_throttled)
            following = prepared.period_after(one.period, prepared.anchors.get(scope_id))
        later = _later(prepared, scope_id, following, now)
        estimate = _estimate(workspace, check, budget)
        courses.append(_Course(budget, estimate, others, current, later, ends_at))
    each = _openings(workspace, check.tenant_id, courses, now)
    if tenant.settings.require_budget:
        each.append(in_force)
    return first_common(each, now)


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
            balance = replace(blank, spent=spent, reserved=one.before)
            stretches.append(Stretch(start, blank.period_end if is_used else one.ends_at, balance))
        found.append(openings(one.budget, one.estimate, stretches))
    return found

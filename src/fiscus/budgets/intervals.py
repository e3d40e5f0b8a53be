"""When an operation that was denied would pass, if nobody else came: pure functions.

In each of its periods a budget lets an operation pass in one interval at most: from the moment at
which enough holds have expired, or from its start, until the period ends. So a few intervals say
all about a budget, and an operation passes at the first moment that is in one interval of each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Final, NamedTuple

from fiscus.budgets.model import Budget, BudgetBalance, EnforcementAction
from fiscus.budgets.rules import free, throttle_passes, throttle_wait_ms
from fiscus.money import ZERO, add
from fiscus.zones import DAWN, FAR_FUTURE


class Hold(NamedTuple):
    """Money that reservations hold on a balance, and until when."""

    expires_at: datetime
    amount: Decimal


class Freed(NamedTuple):
    """What comes free on a balance as holds expire."""

    moments: Sequence[datetime]
    """In order."""
    amounts: Sequence[Decimal]
    """How much has come free by each."""


NOTHING_FREED: Final = Freed((), ())


class FuturePeriod(NamedTuple):
    """A period of a budget as it will be found, or what is left of one."""

    start: datetime
    end: datetime
    balance: BudgetBalance
    """At the start."""
    freed: Freed = NOTHING_FREED
    throttled: bool = False
    """The budget throttled the operation at the start, by which its accumulator advanced."""
    ahead: int = 0
    """How many other operations are to pass first, at the same moment."""


class Interval(NamedTuple):
    """A half-open interval of time, in which a budget does not stand in the way."""

    start: datetime
    end: datetime


def may_deny(budget: Budget) -> bool:
    """Whether a budget denies any operation, however it is used."""
    if budget.shadow:
        return False
    return budget.frozen or budget.enforcement_action is not EnforcementAction.SOFT_LIMIT


def has_room_for_good(budget: Budget, estimate: Decimal, balance: BudgetBalance) -> bool:
    """Whether a budget has room now, and so in every period in which nothing is spent, too."""
    if budget.frozen or budget.enforcement_action is EnforcementAction.THROTTLE:
        return False
    return balance.spent >= ZERO and _passes(budget, estimate, balance, ahead=0)


def passing_intervals(
    budget: Budget, estimate: Decimal | None, periods: Sequence[FuturePeriod]
) -> list[Interval]:
    """When a budget that may deny does not: before it begins, as it has room, after it has ended.

    `periods` follow one another. Without an estimate, which needs an exchange rate, it never has
    room.
    """
    found = [Interval(DAWN, periods[0].start), Interval(periods[-1].end, FAR_FUTURE)]
    if estimate is not None and not budget.frozen:
        for period in periods:
            passes_from = _passes_from(budget, estimate, period)
            if passes_from is not None:
                found.append(Interval(passes_from, period.end))
    return [one for one in found if one.start < one.end]


def first_in_all(budgets: Sequence[Sequence[Interval]], now: datetime) -> datetime | None:
    """The first moment from `now` on that lies in an interval of each; None when there is none."""
    moment, earlier = now, None
    while moment != earlier:
        earlier = moment
        for each in budgets:
            reached = [max(one.start, moment) for one in each if moment < one.end]
            if not reached:
                return None
            moment = min(reached)
    return moment


def intersection(budgets: Iterable[Sequence[Interval]]) -> list[Interval]:
    """The time in intervals of each; those of each do not overlap."""
    found = [Interval(DAWN, FAR_FUTURE)]
    for each in budgets:
        found = [
            Interval(start, end)
            for one in found
            for other in each
            if (start := max(one.start, other.start)) < (end := min(one.end, other.end))
        ]
    return found


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The time in any of `intervals`, as some that do not overlap."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1].end:
            found[-1] = Interval(found[-1].start, max(found[-1].end, end))
        else:
            found.append(Interval(start, end))
    return found


def freed_by(holds: Iterable[Hold]) -> Freed:
    """What comes free as `holds` expire."""
    in_order = sorted(holds)
    return Freed(
        [hold.expires_at for hold in in_order],
        list(accumulate([hold.amount for hold in in_order], add)),
    )


def waits_for_holds(budget: Budget, estimate: Decimal, period: FuturePeriod) -> bool:
    """Whether holds that expire make a difference to when an operation passes."""
    balance = period.balance
    if budget.frozen or not balance.reserved:
        return False
    if _passes(budget, estimate, balance, period.ahead) and not period.throttled:
        return False
    return _passes(budget, estimate, free(balance, balance.reserved), period.ahead)


def _passes_from(budget: Budget, estimate: Decimal, period: FuturePeriod) -> datetime | None:
    balance, freed, ahead = period.balance, period.freed, period.ahead
    if _passes(budget, estimate, balance, ahead) and not period.throttled:
        return period.start
    enough = bisect_left(
        freed.amounts,
        True,
        key=lambda amount: _passes(budget, estimate, free(balance, amount), ahead),
    )
    moments = list(freed.moments[enough : enough + 1])
    if budget.enforcement_action is EnforcementAction.THROTTLE:
        wait_ms = throttle_wait_ms(budget, balance, ahead)
        if wait_ms is not None:
            moments.append(period.start + timedelta(milliseconds=wait_ms))
    return min(moments, default=None)


def _passes(budget: Budget, estimate: Decimal, balance: BudgetBalance, ahead: int) -> bool:
    """Whether a budget that is not frozen lets an operation pass with such a balance."""
    if budget.enforcement_action is EnforcementAction.THROTTLE:
        return throttle_passes(budget, balance, ahead)
    return add(add(balance.spent, balance.reserved), estimate) <= budget.budget_amount

"""When an operation that was denied would pass, if nobody else came: pure functions.

In each of its periods a budget opens but once: from the moment at which enough holds have expired,
or at its start, the operation passes until the period ends. So few stretches of time tell all about
a budget, and an operation passes at the first moment that is in one of each.
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


class Stretch(NamedTuple):
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


class Opening(NamedTuple):
    """A half-open stretch of time in which a budget does not stand in the way."""

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


def openings(
    budget: Budget, estimate: Decimal | None, stretches: Sequence[Stretch]
) -> list[Opening]:
    """When a budget that may deny does not: before it begins, as it has room, after it has ended.

    `stretches` follow one another. Without an estimate, which needs an exchange rate, it never has
    room.
    """
    found = [Opening(DAWN, stretches[0].start), Opening(stretches[-1].end, FAR_FUTURE)]
    if estimate is not None and not budget.frozen:
        for stretch in stretches:
            opens_at = _opens_at(budget, estimate, stretch)
            if opens_at is not None:
                found.append(Opening(opens_at, stretch.end))
    return [one for one in found if one.start < one.end]


def first_common(budgets: Sequence[Sequence[Opening]], now: datetime) -> datetime | None:
    """The first moment from `now` on that lies in an opening of each; None when there is none."""
    moment, earlier = now, None
    while moment != earlier:
        earlier = moment
        for each in budgets:
            reached = [max(one.start, moment) for one in each if moment < one.end]
            if not reached:
                return None
            moment = min(reached)
    return moment


def common(budgets: Iterable[Sequence[Opening]]) -> list[Opening]:
    """The openings that they have in common; those of each lie apart."""
    found = [Opening(DAWN, FAR_FUTURE)]
    for each in budgets:
        found = [
            Opening(start, end)
            for one in found
            for other in each
            if (start := max(one.start, other.start)) < (end := min(one.end, other.end))
        ]
    return found


def any_of(stretches: Iterable[Opening]) -> list[Opening]:
    """The time in any of `stretches`, as openings that lie apart."""
    found: list[Opening] = []
    for start, end in sorted(stretches):
        if found and start <= found[-1].end:
            found[-1] = Opening(found[-1].start, max(found[-1].end, end))
        else:
            found.append(Opening(start, end))
    return found


def freed_by(holds: Iterable[Hold]) -> Freed:
    """What comes free as `holds` expire."""
    in_order = sorted(holds)
    return Freed(
        [hold.expires_at for hold in in_order],
        list(accumulate([hold.amount for hold in in_order], add)),
    )


def waits_for_holds(budget: Budget, estimate: Decimal, stretch: Stretch) -> bool:
    """Whether holds that expire make a difference to when a budget opens."""
    balance = stretch.balance
    if budget.frozen or not balance.reserved:
        return False
    if _passes(budget, estimate, balance, stretch.ahead) and not stretch.throttled:
        return False
    return _passes(budget, estimate, free(balance, balance.reserved), stretch.ahead)


def _opens_at(budget: Budget, estimate: Decimal, stretch: Stretch) -> datetime | None:
    balance, freed, ahead = stretch.balance, stretch.freed, stretch.ahead
    if _passes(budget, estimate, balance, ahead) and not stretch.throttled:
        return stretch.start
    enough = bisect_left(
        freed.amounts,
        True,
        key=lambda amount: _passes(budget, estimate, free(balance, amount), ahead),
    )
    moments = list(freed.moments[enough : enough + 1])
    if budget.enforcement_action is EnforcementAction.THROTTLE:
        wait_ms = throttle_wait_ms(budget, balance, ahead)
        if wait_ms is not None:
            moments.append(stretch.start + timedelta(milliseconds=wait_ms))
    return min(moments, default=None)


def _passes(budget: Budget, estimate: Decimal, balance: BudgetBalance, ahead: int) -> bool:
    """Whether a budget that is not frozen lets an operation pass with such a balance."""
    if budget.enforcement_action is EnforcementAction.THROTTLE:
        return throttle_passes(budget, balance, ahead)
    return add(add(balance.spent, balance.reserved), estimate) <= budget.budget_amount

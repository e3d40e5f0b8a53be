"""What was decided on a check of budgets, and how it is answered; see `quotas.answers`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Final, Protocol

from msgspec import Struct

from fiscus.budgets.calls import BudgetLine, CheckAnswer, ThrottleAnswer
from fiscus.budgets.matching import MatchedBudget
from fiscus.budgets.model import Converted, ReservationStatus
from fiscus.budgets.rules import (
    ALLOW,
    DENIALS,
    DENY,
    ESCALATE,
    FROZEN,
    SHADOW,
    THROTTLE,
    WARN,
    ThrottleShare,
    largest_cost,
)
from fiscus.money import ONE, ZERO, add, plain, ratio, subtract
from fiscus.periods import FAR_FUTURE

_PENDING: Final = ReservationStatus.PENDING
NO_BUDGET: Final = "No budget matches this operation."
_WATCHED: Final = {
    SHADOW + DENY: "refused",
    SHADOW + ESCALATE: "refused",
    SHADOW + FROZEN: "refused, as it is frozen",
    SHADOW + THROTTLE: "throttled this",
}


class BudgetStanding(Struct, frozen=True, array_like=True, gc=False):
    """How a budget stands after the decision, and what it said; a word of `budgets.rules`."""

    spent: Decimal
    reserved: Decimal
    decision: str
    converted: Converted | None = None


class BudgetsDecided(Struct, frozen=True, gc=False):
    """A decision over every budget that an operation meets, of which there may be none."""

    matched: Sequence[MatchedBudget]
    allowed: bool
    deciding: int
    """Which of them the answer is about."""
    throttle: ThrottleShare | None
    fits_at: datetime | None
    """When a denied operation would fit; None for never."""
    standings: list[BudgetStanding]
    """In the order of `matched`."""
    held_back: bool = False
    """Nothing is reserved, as a check of its batch was denied: another one, or this, whose figures
    then count what the checks before it would have held."""
    throttled: bool = False
    """A throttle budget refuses an operation of any cost now, whichever budget denied this one."""


class CheckAsked(Protocol):
    """What of a check its answer shows."""

    @property
    def estimate(self) -> Decimal: ...
    @property
    def now(self) -> datetime: ...
    @property
    def reserve(self) -> bool: ...
    @property
    def reservation_id(self) -> str: ...
    @property
    def ttl_seconds(self) -> int: ...
    def holds_until(self) -> datetime: ...


def answer(decided: BudgetsDecided, asked: CheckAsked) -> CheckAnswer:
    """The answer to a check."""
    allowed, deciding, throttle = decided.allowed, decided.deciding, decided.throttle
    if throttle is not None and decided.fits_at is not None:
        throttle = throttle.no_later_than(decided.fits_at - asked.now)
    held = allowed and asked.reserve and not decided.held_back
    matched, standings = decided.matched, decided.standings
    estimate, day = asked.estimate, asked.now.date()
    lines: list[BudgetLine] = []
    most = ZERO if decided.throttled or not (matched or allowed) else None
    for index, one in enumerate(matched):
        line = _line(one, standings[index], estimate, day)
        lines.append(line)
        largest = largest_cost(one.budget, line.exchange_rate, line.remaining)
        if largest is not None and (most is None or largest < most):
            most = largest
    shown = lines[deciding] if lines else None
    return CheckAnswer(  # by position: with names it takes six times as long
        allowed,
        shown.budget_id if shown else None,
        shown.remaining if shown else None,
        shown.utilization_ratio if shown else None,
        shown.enforcement_action if shown else None,
        _message(decided, shown, held=held),
        asked.reservation_id if held else None,
        _PENDING if held else None,
        asked.holds_until() if held else None,
        not allowed
        and bool(lines)
        and all(line.decision == ESCALATE for line in lines if line.decision in DENIALS),
        None,  # approval_id
        ThrottleAnswer(multiplier=throttle.multiplier, retry_after_ms=throttle.retry_after_ms)
        if throttle
        else None,
        most,
        decided.fits_at,
        lines,
        None,  # receipt_id
        False,  # degraded
    )


def _line(
    matched: MatchedBudget, standing: BudgetStanding, estimate: Decimal, day: date
) -> BudgetLine:
    budget = matched.budget
    amount = budget.budget_amount
    spent, reserved, converted = standing.spent, standing.reserved, standing.converted
    used = add(spent, reserved)
    start, end = matched.period
    return BudgetLine(  # by position, as above
        budget.budget_id,
        budget.budget_name,
        matched.scope,
        budget.currency,
        amount,
        spent,
        reserved,
        plain(subtract(amount, used)),
        ratio(used, amount),
        budget.enforcement_action,
        standing.decision,
        estimate if converted is None else converted.amount,
        ONE if converted is None else converted.rate,
        day if converted is None else converted.as_of,
        start,
        None if end == FAR_FUTURE else end,
    )


def _message(decided: BudgetsDecided, shown: BudgetLine | None, *, held: bool) -> str:
    if decided.held_back and decided.allowed:
        return "Would be allowed; nothing is reserved because another check of the batch is not."
    if shown is None:
        return NO_BUDGET if decided.allowed else NO_BUDGET + " This tenant requires one."
    label = decided.matched[decided.deciding].label
    word, estimate = shown.decision, shown.estimated_cost
    # the line is of after the decision, what is said of before
    room = add(shown.remaining, estimate) if held else shown.remaining
    if word == ALLOW and estimate <= room:
        return f"{label} has room."
    left = f"{plain(room)} of {plain(shown.amount)} {shown.currency} left"
    if decided.held_back:
        left += " after the checks before it in the batch, of which none is reserved"
    needed = f"{plain(estimate)} needed"
    if word == ALLOW:
        return f"{label} is throttled and lets this pass its amount: {left}, {needed}."
    if word == WARN:
        return f"{label} is a soft limit and allows this past its amount: {left}, {needed}."
    if word == FROZEN:
        return f"{label} is frozen: every operation is refused until it is unfrozen."
    if word == THROTTLE and decided.throttle is not None:
        share = plain(decided.throttle.multiplier)
        return f"{label} is throttled: a share of {share} of operations is admitted, {left}."
    if word == ESCALATE:
        return (
            f"{label} has no room: {left}, {needed}. It escalates, but approvals are not "
            "available in this version, so the operation is denied."
        )
    if word in _WATCHED:
        return f"{label} only watches and would have {_WATCHED[word]}: {left}, {needed}."
    return f"{label} has no room: {left}, {needed}."

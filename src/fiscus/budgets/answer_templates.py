"""Answers to checks as JSON; those to admitted checks are templates that are filled in.

When every budget has room, an answer differs from the one before by its figures alone. So a budget
has a template: what such an answer says of it, in pieces between the figures, from the very structs
that `answers` makes. All else is answered by those (docs/decisions/0036).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Final, NamedTuple

from msgspec.structs import replace

from fiscus.budgets.answers import BudgetsDecided, BudgetStanding, CheckAsked, answer
from fiscus.budgets.calls import CheckAnswer
from fiscus.budgets.matching import MatchedBudget
from fiscus.budgets.rules import ALLOW, largest_cost
from fiscus.money import ONE, ZERO, add, plain_text, ratio, subtract
from fiscus.runtime.repeated import repeated
from fiscus.wire.encoding import encode, pieces_around


class AnswerTemplate(NamedTuple):
    """What an answer says of a budget that has room, in one of its periods."""

    head: tuple[str, ...]
    """The answer but for its budgets, if this one decides."""
    line: tuple[str, ...]
    """Its own line among the budgets."""
    limits: bool
    """Whether what remains of the budget limits what an operation may cost."""


def answers_as_json(
    decided: Sequence[BudgetsDecided | CheckAnswer], checks: Sequence[CheckAsked]
) -> list[str]:
    """The `answer` to each check, as JSON; some may be answered already."""
    return [
        encode(one).decode() if isinstance(one, CheckAnswer) else answer_as_json(one, asked)
        for one, asked in zip(decided, checks, strict=True)
    ]


def answer_as_json(
    decided: BudgetsDecided, asked: CheckAsked, correlation_id: str | None = None
) -> str:
    """The `answer` to a check, as JSON; the correlation id is safe in JSON."""
    filled = _filled(decided, asked, "null" if correlation_id is None else f'"{correlation_id}"')
    if filled is not None:
        return filled
    return encode(replace(answer(decided, asked), correlation_id=correlation_id)).decode()


def _as_json(value: date) -> str:
    return encode(value).decode()


_moment_as_json: Final[Callable[[datetime], str]] = repeated(_as_json)
_day_as_json: Final[Callable[[date], str]] = repeated(_as_json)


def _filled(decided: BudgetsDecided, asked: CheckAsked, correlation_id: str) -> str | None:
    """The answer by the templates of its budgets; None where it says more than those do."""
    if not (decided.allowed and asked.reserve):
        return None
    if decided.held_back or decided.throttle is not None:
        return None
    estimate, day = str(asked.estimate), _day_as_json(asked.now.date())
    deciding = decided.deciding
    lines = separator = shown_left = shown_share = ""
    head: tuple[str, ...] | None = None
    most, most_text = None, "null"
    for index, standing in enumerate(decided.standings):
        if standing.decision != ALLOW or standing.converted is not None:
            return None
        one = decided.matched[index]
        template = one.template or _template(one, asked)
        whole = one.budget.budget_amount
        spent, reserved = standing.spent, standing.reserved
        used = add(spent, reserved)
        left = subtract(whole, used)
        left_text, share = plain_text(left), str(ratio(used, whole))
        a, b, c, d, e, f, g = template.line
        lines = (
            f"{lines}{separator}{a}{spent!s}{b}{reserved!s}{c}{left_text}{d}{share}{e}{estimate}"
            f"{f}{day}{g}"
        )
        separator = ","
        if index == deciding:
            head, shown_left, shown_share = template.head, left_text, share
        if template.limits:
            if most is None or left < most:
                most, most_text = left, left_text
        elif left < ZERO:  # it is let pass all the same, which the message says
            return None
    if head is None or (most is not None and most < ZERO):  # none is met, or one is overspent
        return None
    a, b, c, d, e, f, g, h = head
    return (
        f'{a}{shown_left}{b}{shown_share}{c}"{asked.reservation_id}"{d}'
        f"{_moment_as_json(asked.holds_until())}{e}{most_text}"
        f"{f}[{lines}]{g}{correlation_id}{h}"
    )


def _template(one: MatchedBudget, asked: CheckAsked) -> AnswerTemplate:
    """Its template, from the answer to a check that meets this budget alone."""
    standing = BudgetStanding(ZERO, ZERO, ALLOW)
    made = answer(BudgetsDecided([one], True, 0, None, None, [standing]), asked)
    template = one.template = AnswerTemplate(
        pieces_around(
            made,
            "remaining_budget",
            "utilization_ratio",
            "reservation_id",
            "expires_at",
            "max_allowed_cost",
            "budgets",
            "correlation_id",
        ),
        pieces_around(
            made.budgets[0],
            "spent",
            "reserved",
            "remaining",
            "utilization_ratio",
            "estimated_cost",
            "exchange_rate_date",
        ),
        largest_cost(one.budget, ONE, ZERO) is not None,
    )
    return template

"""Answers to checks as JSON; those to admitted checks are templates that are filled in.

When every budget has room, an answer differs from the one before by its figures alone. So a budget
has a template: what such an answer says of it, in pieces between the figures, from the very structs
that `answers` makes. All else is answered by those (docs/decisions/0036).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fiscus.budgets.answers import BudgetsDecided, BudgetStanding, CheckAsked, answer
from fiscus.budgets.calls import CheckAnswer
from fiscus.budgets.matching import MatchedBudget
from fiscus.budgets.rules import ALLOW, largest_cost
from fiscus.money import ONE, ZERO, add, plain_text, ratio, subtract
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
    answers: list[str] = []
    now, ttl_seconds = None, 0
    expires_at = day = ""
    for one, asked in zip(decided, checks, strict=True):
        if asked.now is not now or asked.ttl_seconds != ttl_seconds:
            now, ttl_seconds = asked.now, asked.ttl_seconds
            expires_at, day = encode(asked.holds_until()).decode(), encode(now.date()).decode()
        if isinstance(one, CheckAnswer):
            answers.append(encode(one).decode())
            continue
        filled = _filled(one, asked, expires_at, day)
        answers.append(encode(answer(one, asked)).decode() if filled is None else filled)
    return answers


def _filled(decided: BudgetsDecided, asked: CheckAsked, expires_at: str, day: str) -> str | None:
    """The answer by the templates of its budgets; None where it says more than those do."""
    if not (decided.allowed and asked.reserve):
        return None
    if decided.held_back or decided.throttle is not None:
        return None
    estimate = str(asked.estimate)
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
    a, b, c, d, e, f, g = head
    return (
        f'{a}{shown_left}{b}{shown_share}{c}"{asked.reservation_id}"{d}{expires_at}{e}{most_text}'
        f"{f}[{lines}]{g}"
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

"""What a recorded cost did to its budgets, and how it is answered; see `quotas.answers`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal

from msgspec import Struct

from fiscus.budgets.matching import MatchedBudget
from fiscus.budgets.model import Converted
from fiscus.costs.calls import ChargedLine, RecordAnswer
from fiscus.costs.model import CostFlag
from fiscus.ledger.commands import Cost
from fiscus.money import ONE, add, plain, ratio, subtract


class Charged(Struct, frozen=True, array_like=True, gc=False):
    """How a budget stands after it was charged."""

    spent: Decimal
    reserved: Decimal
    converted: Converted | None


class CostRecorded(Struct, frozen=True, gc=False):
    """A cost that has its record, and every budget it charged."""

    matched: Sequence[MatchedBudget]
    charged: list[Charged]
    """In the order of `matched`."""
    currency: str
    flags: list[CostFlag]


def answer(
    recorded: CostRecorded, cost: Cost, now: datetime, reservation_id: str | None = None
) -> RecordAnswer:
    """The answer to who recorded `cost` at `now`."""
    amount, day = cost.amount, cost.timestamp.date()
    charged = recorded.charged
    lines: list[ChargedLine] = []
    for index, one in enumerate(recorded.matched):
        lines.append(_line(one, charged[index], amount, day))
    kind, scope_id = cost.operation.attributed_to()
    return RecordAnswer(  # by position: with names it takes six times as long
        cost.record_id,
        now,
        cost.timestamp,
        amount,
        recorded.currency,
        kind,
        scope_id,
        recorded.flags,
        lines,
        reservation_id,
    )


def _line(matched: MatchedBudget, charged: Charged, amount: Decimal, day: date) -> ChargedLine:
    budget = matched.budget
    whole = budget.budget_amount
    spent, reserved, converted = charged.spent, charged.reserved, charged.converted
    used = add(spent, reserved)
    return ChargedLine(  # by position, as above
        budget.budget_id,
        matched.scope,
        budget.currency,
        amount if converted is None else converted.amount,
        ONE if converted is None else converted.rate,
        day if converted is None else converted.as_of,
        spent,
        reserved,
        plain(subtract(whole, used)),
        ratio(used, whole),
        matched.period.start,
    )

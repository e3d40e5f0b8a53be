"""What settling a block answers."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from msgspec import Struct

from fiscus.budgets.calls import SettleAnswer
from fiscus.costs.calls import ChargedLine, RecordAnswer
from fiscus.costs.model import CostFlag
from fiscus.money import ZERO


class Settlement(Struct, frozen=True, kw_only=True):
    """What settling a block did at once. Nothing, when an enclosing block will record its cost."""

    record_id: str | None
    """The cost record; None when an enclosing block will make it."""
    charged: Decimal
    """What was recorded, the nested blocks' part included; 0 when nothing was."""
    currency: str | None
    flags: list[CostFlag]
    budgets: list[ChargedLine]
    """What it did to each budget it matches."""


LEFT_TO_PARENT: Final = Settlement(
    record_id=None, charged=ZERO, currency=None, flags=[], budgets=[]
)


def settled_by(answer: SettleAnswer) -> Settlement:
    return Settlement(
        record_id=answer.record_id,
        charged=answer.charged,
        currency=answer.currency,
        flags=answer.flags,
        budgets=answer.budgets,
    )


def recorded_by(answer: RecordAnswer) -> Settlement:
    return Settlement(
        record_id=answer.record_id,
        charged=answer.cost_amount,
        currency=answer.currency,
        flags=answer.flags,
        budgets=answer.budgets,
    )

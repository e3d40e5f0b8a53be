"""The rule of quotas: may an amount be taken, and what is given back where.

Pure: no clock, no store. `decide` is the one decision; consuming changes every balance or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from msgspec.structs import replace

from fiscus.money import ZERO, add, multiply, subtract
from fiscus.quotas.definitions import remaining
from fiscus.quotas.model import ConsumptionLine, Quota, QuotaBalance
from fiscus.scopes import ScopeType

OK: Final = "ok"
LEVELS: Final = (
    (Decimal(1), "exhausted_100"),
    (Decimal("0.9"), "critical_90"),
    (Decimal("0.8"), "warning_80"),
)
"""Shares of the allocation and what they are called, from the fullest."""


class Demand(NamedTuple):
    """A quota that an operation meets, and what is used of it."""

    quota: Quota
    balance: QuotaBalance


class Decision(NamedTuple):
    """Whether the amount is there; balances and lines are those after it was taken."""

    allowed: bool
    deciding: int
    """The quota that denies, or has the least left; see `decide`."""
    remaining: list[Decimal]
    """Of each quota before the decision, allocation and burst together; can be negative."""
    denies: list[bool]
    balances: list[QuotaBalance]
    lines: tuple[ConsumptionLine, ...]
    """What is taken from each; empty when denied."""


def decide(demands: Sequence[Demand], amount: Decimal) -> Decision:
    """May `amount` be taken from every one of `demands`, or else from none?

    used + amount must not pass allocation + burst. The deciding quota is one that denies before one
    that allows, then that of the most specific scope (feature > user > project > tenant), then the
    least remaining, then the least id. An amount of 0 always passes.
    """
    left = [remaining(quota, one.used, one.burst_used) for quota, one in demands]
    denies = [amount > max(ZERO, room) for room in left]
    deciding = min(
        range(len(demands)),
        key=lambda index: (
            not denies[index],
            -_specificity(demands[index].quota.scope_type),
            left[index],
            demands[index].quota.quota_id,
        ),
    )
    if any(denies):
        balances = [balance for _, balance in demands]
        return Decision(False, deciding, left, denies, balances, ())
    taken = [_take(quota, balance, amount) for quota, balance in demands]
    return Decision(
        True,
        deciding,
        left,
        denies,
        [balance for balance, _ in taken],
        tuple([line for _, line in taken]),
    )


def give_back(
    balance: QuotaBalance, line: ConsumptionLine, amount: Decimal
) -> tuple[QuotaBalance, ConsumptionLine]:
    """Balance and line after `amount` of a consumption was given back.

    What came from the burst goes back first, as it was taken last. `amount` is at most what the
    line has not given back yet.
    """
    burst = min(amount, subtract(line.burst, line.burst_released))
    used = subtract(amount, burst)
    return (
        replace(
            balance,
            used=subtract(balance.used, used),
            burst_used=subtract(balance.burst_used, burst),
        ),
        replace(
            line,
            released=add(line.released, amount),
            burst_released=add(line.burst_released, burst),
        ),
    )


def level(quota: Quota, balance: QuotaBalance) -> str:
    """How full a quota is, by what is used of its allocation, burst included."""
    used = add(balance.used, balance.burst_used)
    return next((name for share, name in LEVELS if used >= _of(quota, share)), OK)


def crossed(quota: Quota, before: QuotaBalance, after: QuotaBalance) -> list[str]:
    """The levels that were reached between two balances, from the lowest."""
    old, new = add(before.used, before.burst_used), add(after.used, after.burst_used)
    return [name for share, name in reversed(LEVELS) if old < _of(quota, share) <= new]


def _take(
    quota: Quota, balance: QuotaBalance, amount: Decimal
) -> tuple[QuotaBalance, ConsumptionLine]:
    """Take from the allocation first, from the burst what is left."""
    room = max(ZERO, subtract(quota.allocated_amount, balance.used))
    used = min(amount, room)
    burst = subtract(amount, used)
    return (
        replace(
            balance,
            used=add(balance.used, used),
            burst_used=add(balance.burst_used, burst),
        ),
        ConsumptionLine(balance.key, amount, burst),
    )


def _of(quota: Quota, share: Decimal) -> Decimal:
    return multiply(quota.allocated_amount, share)


def _specificity(kind: ScopeType) -> int:
    return kind.specificity

"""The rule of quotas: may an amount be taken, and what is given back where.

Pure: no clock, no store. `decide` is the one decision; consuming changes every balance or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from fiscus.money import LIMIT, ZERO, add, multiply, plain, round_half_even, subtract
from fiscus.quotas.definitions import remaining
from fiscus.quotas.model import (
    ConsumptionLine,
    Quota,
    QuotaBalance,
)

OK: Final = "ok"
LEVELS: Final = (
    (Decimal("0.8"), "warning_80"),
    (Decimal("0.9"), "critical_90"),
    (Decimal(1), "exhausted_100"),
)
"""Shares of the allocation and what they are called, from the lowest."""


class Demand(Struct, frozen=True, gc=False):
    """A quota that an operation meets, and what is used of it."""

    quota: Quota
    balance: QuotaBalance


class Decision(Struct, frozen=True, gc=False):
    """Whether the amount is there; balances and lines are those after it was taken."""

    allowed: bool
    deciding: int
    """The quota that denies, or has the least left; see `decide`."""
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
    allowed = True
    denies: list[bool] = []
    for demand in demands:
        denied = _denies(demand, amount)
        denies.append(denied)
        if denied:
            allowed = False
    deciding = _deciding(demands, denies)
    balances: list[QuotaBalance] = []
    lines: list[ConsumptionLine] = []
    if not allowed:
        return Decision(False, deciding, denies, [demand.balance for demand in demands], ())
    for demand in demands:
        balance, line = _take(demand.quota, demand.balance, amount)
        balances.append(balance)
        lines.append(line)
    return Decision(True, deciding, denies, balances, tuple(lines))


def _denies(demand: Demand, amount: Decimal) -> bool:
    balance = demand.balance
    if not balance.burst_used and add(balance.used, amount) <= demand.quota.allocated_amount:
        return False  # as it is for most, with less to work out
    return amount > _room(demand) and amount > ZERO


def _room(demand: Demand) -> Decimal:
    balance = demand.balance
    return remaining(demand.quota, balance.used, balance.burst_used)


def _deciding(demands: Sequence[Demand], denies: list[bool]) -> int:
    """See `decide`."""
    first = 0
    for index in range(1, len(demands)):
        one, other = demands[index].quota, demands[first].quota
        if denies[index] is not denies[first]:
            is_before = denies[index]
        elif one.scope_type is not other.scope_type:
            is_before = one.scope_type.specificity > other.scope_type.specificity
        else:
            rooms = _room(demands[index]), _room(demands[first])
            is_before = (rooms[0], one.quota_id) < (rooms[1], other.quota_id)
        if is_before:
            first = index
    return first


def give_back(
    balance: QuotaBalance, line: ConsumptionLine, amount: Decimal
) -> tuple[QuotaBalance, ConsumptionLine]:
    """Balance and line after `amount` of a consumption was given back.

    What came from the burst goes back first, as it was taken last. `amount` is at most what the
    line has not given back yet.
    """
    burst = min(amount, plain(subtract(line.burst, line.burst_released)))
    used = subtract(amount, burst)
    return (
        replace(
            balance,
            used=plain(subtract(balance.used, used)),
            burst_used=plain(subtract(balance.burst_used, burst)),
        ),
        replace(
            line,
            released=plain(add(line.released, amount)),
            burst_released=plain(add(line.burst_released, burst)),
        ),
    )


def premium_owed(line: ConsumptionLine) -> Decimal:
    """The premium of the burst that a line has taken and not given back.

    Rounded as a whole, so that giving back in parts reverses exactly what was charged; what no
    record can hold is left as it is, as it may have too many digits for that.
    """
    if line.premium_rate is None:
        return ZERO
    owed = multiply(line.premium_rate, subtract(line.burst, line.burst_released))
    return owed if owed >= LIMIT else round_half_even(owed)


def reached(quota: Quota, used: Decimal) -> list[str]:
    """The levels that a quota is at or above, from the lowest, which is `ok`.

    They go by what is used of its allocation, burst included.
    """
    names = [OK]
    for share, name in LEVELS:
        if used < multiply(quota.allocated_amount, share):
            break
        names.append(name)
    return names


def _take(
    quota: Quota, balance: QuotaBalance, amount: Decimal
) -> tuple[QuotaBalance, ConsumptionLine]:
    """Take from the allocation first, from the burst what is left."""
    key, tenant_id, burst_used = balance.key, balance.tenant_id, balance.burst_used
    whole = plain(add(balance.used, amount))
    if whole <= quota.allocated_amount:
        return QuotaBalance(key, tenant_id, whole, burst_used), ConsumptionLine(key, amount)
    room = max(ZERO, subtract(quota.allocated_amount, balance.used))
    used = min(amount, room)
    burst = plain(subtract(amount, used))
    taken = QuotaBalance(
        key, tenant_id, plain(add(balance.used, used)), plain(add(burst_used, burst))
    )
    if burst and quota.burst_premium_rate:
        return taken, ConsumptionLine(
            key,
            amount,
            burst,
            premium_rate=quota.burst_premium_rate,
            premium_currency=quota.currency,
        )
    return taken, ConsumptionLine(key, amount, burst)

"""How a check is decided: pure functions over budgets and balances.

`decide` judges one operation against every budget it matches, all or nothing, and gives the
balances as they are afterwards. It reads no clock and no store; a denial is a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from fiscus.budgets.model import (
    Budget,
    BudgetBalance,
    Converted,
    EnforcementAction,
    OnStoreFailure,
)
from fiscus.money import (
    EXACT,
    ONE,
    QUANTUM,
    ZERO,
    add,
    multiply,
    plain,
    ratio,
    round_down,
    round_half_even,
    subtract,
)

_HALF: Final = QUANTUM / 2

ALLOW: Final = "allow"
WARN: Final = "warn"
DENY: Final = "deny"
ESCALATE: Final = "escalate"
THROTTLE: Final = "throttle"
FROZEN: Final = "frozen"
SHADOW: Final = "shadow_"
DENIALS: Final = frozenset({DENY, ESCALATE, THROTTLE, FROZEN})

# A member of an enum takes longer to look up than all else in a comparison.
_HARD_STOP_ACTION: Final = EnforcementAction.HARD_STOP
_ESCALATE_ACTION: Final = EnforcementAction.ESCALATE
_THROTTLE_ACTION: Final = EnforcementAction.THROTTLE


class Demand(Struct, frozen=True, gc=False):
    """One matching budget with its balance, and the estimate in the budget's currency."""

    budget: Budget
    balance: BudgetBalance
    estimate: Decimal
    converted: Converted | None = None
    """How the estimate was come by where the request has another currency."""

    @property
    def rate(self) -> Decimal:
        """Budget currency per one unit of the request's currency."""
        return ONE if self.converted is None else self.converted.rate


class ThrottleShare(NamedTuple):
    """The share of operations a throttle budget admits now and, on a denial, the wait."""

    multiplier: Decimal
    retry_after_ms: int

    def no_later_than(self, wait: timedelta) -> ThrottleShare:
        """With a shorter wait, where it is over by then for another reason."""
        wait_ms = -(-wait // timedelta(milliseconds=1))
        return self._replace(retry_after_ms=min(self.retry_after_ms, wait_ms))


class Decision(Struct, frozen=True, gc=False):
    """The outcome over all demands; `verdicts` and `balances` in the order of the demands."""

    allowed: bool
    deciding: int
    verdicts: list[str]
    """What each budget says: a word above, with `shadow_` before it when it only says so."""
    balances: list[BudgetBalance]
    throttle: ThrottleShare | None
    clear: bool
    """Whether each allows it and throttles nothing, so that holds that are due do not matter."""
    throttled: bool = False
    """Whether a throttle budget refuses an operation of any cost now."""


def headroom(budget: Budget, balance: BudgetBalance) -> Decimal:
    """What is left to reserve: amount - spent - reserved; negative when overspent."""
    return subtract(subtract(budget.budget_amount, balance.spent), balance.reserved)


def decide(demands: Sequence[Demand], *, reserve: bool) -> Decision:
    """Judge one operation against all `demands`; `reserve=False` leaves every balance as it is.

    At least one demand is needed. Throttle budgets are asked last, in order of decision, and only
    when no other budget denies; the first that denies is the only one whose accumulator advances,
    so each makes progress.
    """
    verdicts: list[str] = []
    balances: list[BudgetBalance] = []
    allowed, clear, throttles = True, True, False
    for demand in demands:
        budget, balance = demand.budget, demand.balance
        held = add(balance.reserved, demand.estimate)
        verdict = ALLOW
        if budget.frozen or add(balance.spent, held) > budget.budget_amount:
            verdict = _without_room(budget)
            if verdict is not ALLOW:
                clear = False
                if verdict in DENIALS:
                    allowed = False
        if budget.enforcement_action is _THROTTLE_ACTION:
            throttles = True
        verdicts.append(verdict)
        balances.append(
            BudgetBalance(
                balance.key,
                balance.tenant_id,
                balance.period_end,
                balance.spent,
                plain(held),
                balance.throttle_credit,
            )
        )
    throttle: ThrottleShare | None = None
    throttled = False
    if not allowed:
        balances = [demand.balance for demand in demands]
        throttled = throttles and any(_would_throttle(one.budget, one.balance) for one in demands)
    elif throttles:
        allowed, throttle, is_whole = _throttle(demands, verdicts, balances)
        throttled = not allowed
        clear = clear and is_whole
    if not reserve:
        balances = [demand.balance for demand in demands]
    return Decision(
        allowed,
        _deciding(demands, verdicts, allowed),
        verdicts,
        balances,
        throttle,
        clear,
        throttled,
    )


def _without_room(budget: Budget) -> str:
    """What a budget says that has no room for an operation or is frozen."""
    action = budget.enforcement_action
    if budget.frozen:
        verdict = FROZEN
    elif action is _HARD_STOP_ACTION:
        verdict = DENY
    elif action is _ESCALATE_ACTION:
        verdict = ESCALATE
    else:
        return WARN if action is EnforcementAction.SOFT_LIMIT else ALLOW
    return SHADOW + verdict if budget.shadow else verdict


def passes_without_store(budget: Budget) -> bool:
    """Whether a budget lets operations through that cannot be decided on."""
    if budget.shadow:
        return True
    return budget.on_store_failure is OnStoreFailure.ALLOW and not budget.frozen


def throttle_share(budget: Budget, balance: BudgetBalance) -> Decimal:
    """The share admitted at this use: 1 up to `start_ratio`, then in a line to `floor` at 1."""
    use = ratio(add(balance.spent, balance.reserved), budget.budget_amount)
    start, floor = budget.throttle.start_ratio, budget.throttle.floor
    if use <= start:
        return ONE
    if use >= ONE:
        return floor
    fallen = EXACT.divide(subtract(use, start), subtract(ONE, start))
    return round_half_even(subtract(ONE, multiply(fallen, subtract(ONE, floor))))


def throttle_passes(budget: Budget, balance: BudgetBalance, ahead: int = 0) -> bool:
    """Whether a throttle budget lets the next operation pass, and `ahead` ones before it."""
    in_all = multiply(throttle_share(budget, balance), Decimal(ahead + 1))
    return add(balance.throttle_credit, in_all) >= ahead + 1


def advanced(budget: Budget, balance: BudgetBalance) -> BudgetBalance:
    """`balance` after another operation was throttled."""
    share = throttle_share(budget, balance)
    return replace(balance, throttle_credit=add(balance.throttle_credit, share))


def throttle_wait_ms(budget: Budget, balance: BudgetBalance, ahead: int = 0) -> int | None:
    """How long until so many operations have gone first that one passes, and `ahead` ones before
    it; None when so many never pass in a row."""
    share = throttle_share(budget, balance)
    if multiply(share, Decimal(ahead + 1)) <= ahead:  # credit is always less than 1
        return None
    return _wait_ms(budget, balance.throttle_credit, share, ahead)


def _would_throttle(budget: Budget, balance: BudgetBalance) -> bool:
    if budget.enforcement_action is not _THROTTLE_ACTION or budget.shadow or budget.frozen:
        return False
    return not throttle_passes(budget, balance)


def _throttle(
    demands: Sequence[Demand], verdicts: list[str], balances: list[BudgetBalance]
) -> tuple[bool, ThrottleShare | None, bool]:
    """Advance the accumulators; an operation passes when its budget's reaches 1.

    `balances` are those with the operation; when it does not pass, they become those without. Also
    answers the least share of those that do not only watch, and whether each share is 1.
    """
    tightest: ThrottleShare | None = None
    is_whole = True
    for index in _by_precedence(demands, verdicts):
        budget, balance = demands[index].budget, demands[index].balance
        if budget.enforcement_action is not _THROTTLE_ACTION or budget.frozen:
            continue
        share = throttle_share(budget, balance)
        credit = add(balance.throttle_credit, share)
        is_whole = is_whole and share == ONE
        if credit >= ONE:
            left = plain(subtract(credit, ONE))
            balances[index] = replace(balances[index], throttle_credit=left)
            if not budget.shadow and (tightest is None or share < tightest.multiplier):
                tightest = ThrottleShare(share, 0)
            continue
        if budget.shadow:
            balances[index] = replace(balances[index], throttle_credit=credit)
            verdicts[index] = SHADOW + THROTTLE
            continue
        verdicts[index] = THROTTLE
        balances[:] = [demand.balance for demand in demands]
        balances[index] = replace(balance, throttle_credit=credit)
        return False, ThrottleShare(share, _wait_ms(budget, credit, share)), False
    return True, tightest, is_whole


def _wait_ms(budget: Budget, credit: Decimal, share: Decimal, ahead: int = 0) -> int:
    """The operations that must go first, each taken as `retry_after_ms` long; at most an hour."""
    if not share:
        return 3_600_000
    missing = subtract(Decimal(ahead + 1), credit)
    first = EXACT.divide(missing, share).to_integral_value(ROUND_CEILING) - ahead
    return min(int(first) * budget.throttle.retry_after_ms, 3_600_000)


def _precedence(demand: Demand, verdict: str) -> tuple[bool, int, Decimal, str]:
    """A denier before an allower, then the most specific scope, least headroom, id."""
    budget = demand.budget
    room = headroom(budget, demand.balance)
    if demand.rate is not ONE:
        room = EXACT.divide(room, demand.rate)
    return (verdict not in DENIALS, -budget.allocated_to_type.specificity, room, budget.budget_id)


def _by_precedence(demands: Sequence[Demand], verdicts: Sequence[str]) -> list[int]:
    return sorted(range(len(demands)), key=lambda i: _precedence(demands[i], verdicts[i]))


def _deciding(demands: Sequence[Demand], verdicts: Sequence[str], allowed: bool) -> int:
    """The first by `_precedence`, which is not asked where less tells."""
    first = 0
    for index in range(1, len(demands)):
        one, other = demands[index], demands[first]
        kind, other_kind = one.budget.allocated_to_type, other.budget.allocated_to_type
        if not allowed and (verdicts[index] in DENIALS) is not (verdicts[first] in DENIALS):
            is_before = verdicts[index] in DENIALS
        elif kind is not other_kind:
            is_before = kind.specificity > other_kind.specificity
        else:
            is_before = _precedence(one, verdicts[index]) < _precedence(other, verdicts[first])
        if is_before:
            first = index
    return first


def largest_cost(budget: Budget, rate: Decimal, room: Decimal) -> Decimal | None:
    """The largest estimate that `budget` would let pass now, in the request's currency; None: any.

    `rate` is that of the demand, `room` the headroom after the decision.
    """
    if budget.shadow:
        return None
    if budget.frozen:
        return ZERO
    action = budget.enforcement_action
    if action is not _HARD_STOP_ACTION and action is not _ESCALATE_ACTION:
        return None
    if rate is not ONE and rate != ONE:
        room = _before_conversion(room, rate)
    if room < ZERO:
        return ZERO
    return room


def _before_conversion(room: Decimal, rate: Decimal) -> Decimal:
    """The largest amount that, converted and rounded, is at most `room`."""
    most = round_down(EXACT.divide(add(room, _HALF), rate))
    return most if round_half_even(multiply(most, rate)) <= room else subtract(most, QUANTUM)


def free(balance: BudgetBalance, amount: Decimal) -> BudgetBalance:
    """`balance` with a hold of `amount` given back."""
    return replace(balance, reserved=plain(subtract(balance.reserved, amount)))


def charge(balance: BudgetBalance, amount: Decimal) -> BudgetBalance:
    """`balance` with `amount` spent. Never refused: money spent is spent."""
    return BudgetBalance(
        balance.key,
        balance.tenant_id,
        balance.period_end,
        plain(add(balance.spent, amount)),
        balance.reserved,
        balance.throttle_credit,
    )

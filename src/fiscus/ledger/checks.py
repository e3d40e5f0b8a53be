"""Checks in the ledger: find the budgets, decide, hold the money."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Final

from msgspec.structs import replace

from fiscus.budgets.answers import BudgetsDecided, BudgetStanding
from fiscus.budgets.calls import CheckAnswer
from fiscus.budgets.matching import MatchedBudget
from fiscus.budgets.model import (
    BalanceKey,
    Budget,
    BudgetBalance,
    Converted,
    Reservation,
    ReservationLine,
    ReservationStatus,
)
from fiscus.budgets.rules import THROTTLE, Demand, decide
from fiscus.costs.fx import Rate, convert
from fiscus.errors import ValidationError
from fiscus.ledger.commands import Check, CheckBatch
from fiscus.ledger.fits import MatchedCheck, fit_in_turn, fits_at
from fiscus.ledger.matches import find_matches, keep_anchor, plan_matches
from fiscus.ledger.reservations import free_due
from fiscus.ledger.workspace import Workspace
from fiscus.match_limits import limit_for_checks

_PENDING: Final = ReservationStatus.PENDING


def plan_check(workspace: Workspace, command: Check) -> None:
    """Add the balances a check will read to the group's needs."""
    plan_matches(workspace, command.operation, command.now)


def apply_check(workspace: Workspace, command: Check) -> BudgetsDecided:
    """Decide one check; holds the estimate on every matching budget, or changes nothing."""
    operation, now = command.operation, command.now
    settings = workspace.tenant(operation.tenant_id).settings
    currency = command.currency or settings.currency
    matched = find_matches(workspace, operation, now)
    try:
        demands = _demands(workspace, command, currency, matched)
    except _NoRateToShadow:
        matched = _with_rates(workspace, currency, matched, now.date())
        demands = _demands(workspace, command, currency, matched)
    if not matched:
        return _without_budgets(workspace, command, currency)
    decision = decide(demands, reserve=command.reserve)
    if not decision.clear and _some_were_due(workspace, command, demands):
        demands = _demands(workspace, command, currency, matched)
        decision = decide(demands, reserve=command.reserve)
    allowed, verdicts = decision.allowed, decision.verdicts
    holds = allowed and command.reserve
    lines: list[ReservationLine] = []
    standings: list[BudgetStanding] = []
    for index, balance in enumerate(decision.balances):
        demand = demands[index]
        foreign = demand.converted
        if balance is not demand.balance:
            workspace.put_balance(balance)
        if holds:
            rate, rate_date = (None, None) if foreign is None else (foreign.rate, foreign.as_of)
            lines.append(ReservationLine(balance.key, demand.estimate, rate, rate_date))
        standings.append(BudgetStanding(balance.spent, balance.reserved, verdicts[index], foreign))
    if holds:
        _reserve(workspace, command, currency, tuple(lines))
        for one in matched:
            if one.prepared.is_floating:
                keep_anchor(workspace, one, now)
    throttle = decision.throttle
    if allowed:
        return BudgetsDecided(matched, True, decision.deciding, throttle, None, standings)
    return BudgetsDecided(
        matched,
        False,
        decision.deciding,
        throttle,
        fits_at(workspace, MatchedCheck(command, matched, verdicts)),
        standings,
        throttled=decision.throttled,
    )


def _without_budgets(workspace: Workspace, command: Check, currency: str) -> BudgetsDecided:
    """Decide a check that no budget counts."""
    if workspace.tenant(command.tenant_id).settings.require_budget:
        return BudgetsDecided((), False, 0, None, fits_at(workspace, MatchedCheck(command)), [])
    if command.reserve:
        _reserve(workspace, command, currency, ())
    return BudgetsDecided((), True, 0, None, None, [])


class _NoRateToShadow(Exception):
    """A budget that never denies cannot be asked; it is left out, as of a cost."""


def _with_rates(
    workspace: Workspace, currency: str, matched: Sequence[MatchedBudget], day: date
) -> list[MatchedBudget]:
    """What was matched, without those that only watch and have no rate."""
    rate = workspace.rates.rate
    return [
        one for one in matched if not one.budget.shadow or rate(currency, one.budget.currency, day)
    ]


def _some_were_due(workspace: Workspace, command: Check, demands: list[Demand]) -> bool:
    """Free reservations that are due, on which a verdict may rest; whether there were any."""
    if not any(demand.balance.reserved for demand in demands):
        return False
    return free_due(workspace, command.tenant_id, command.now) > 0


def _demands(
    workspace: Workspace, command: Check, currency: str, matched: Sequence[MatchedBudget]
) -> list[Demand]:
    """What is asked of each budget."""
    estimate = command.estimate
    demands: list[Demand] = []
    for one in matched:
        budget = one.budget
        balance = workspace.balance(one.blank.key)
        demands.append(
            Demand(budget, balance, estimate, None)
            if budget.currency == currency
            else _foreign_demand(workspace, command, currency, budget, balance)
        )
    return demands


def _foreign_demand(
    workspace: Workspace, command: Check, currency: str, budget: Budget, balance: BudgetBalance
) -> Demand:
    """What is asked of a budget that has another currency."""
    found = _rate(workspace, currency, budget, command.now.date())
    amount = convert(command.estimate, found)
    return Demand(budget, balance, amount, Converted(amount, found.value, found.as_of))


def _rate(workspace: Workspace, currency: str, budget: Budget, day: date) -> Rate:
    target = budget.currency
    rate = workspace.rates.rate(currency, target, day)
    if rate is None:
        if budget.shadow:
            raise _NoRateToShadow
        raise ValidationError(
            f"Budget {budget.budget_name!r} is in {target}, and no exchange rate from {currency} "
            "is known",
            field="currency",
            suggested_action=f"Send the estimate in {target}, or configure a rate.",
        )
    return rate


def _reserve(
    workspace: Workspace, command: Check, currency: str, lines: tuple[ReservationLine, ...]
) -> None:
    operation = command.operation
    reservation = Reservation(  # by position, as answers are
        command.reservation_id,
        operation.tenant_id,
        operation,
        command.operation_id,
        command.estimate,
        currency,
        _PENDING,
        command.now,
        command.holds_until(),
        lines,
    )
    workspace.add_reservation(reservation)


def plan_check_batch(workspace: Workspace, command: CheckBatch) -> None:
    match_limit = limit_for_checks(len(command.checks), "budgets")
    with workspace.planning(command):
        for number, check in enumerate(command.checks, 1):
            if check.idempotency is not None:
                workspace.needs.idempotency.add(check.idempotency.at)
            match_limit.add(plan_matches(workspace, check.operation, check.now), number)


def with_nothing_held(
    workspace: Workspace, batch: Sequence[tuple[Check, BudgetsDecided]]
) -> list[BudgetsDecided]:
    """What becomes of a batch's checks that were undone, since one is denied.

    A denied one fits when those before it would pass, too.
    """
    held: set[BalanceKey] = set()
    results: list[BudgetsDecided] = []
    for check, decided in batch:
        keys = [one.blank.key for one in decided.matched]
        if decided.allowed:
            again = apply_check(workspace, replace(check, reserve=False))
            # it may only have been allowed because a throttled check went before it
            results.append(replace(again, held_back=again.allowed))
            if again.allowed and check.reserve:
                held.update(keys)
        else:
            results.append(replace(decided, held_back=not held.isdisjoint(keys)))
    denied = [place for place, one in enumerate(results) if not one.allowed]
    if denied:
        asked = [_asked(check, one) for (check, _), one in zip(batch, results, strict=True)]
        after = [place + 1 for place in denied]
        portions = [asked[start:end] for start, end in pairwise([0, *after])]
        for place, fits in zip(denied, fit_in_turn(workspace, portions), strict=True):
            results[place] = replace(results[place], fits_at=fits)
    return results


def _asked(check: Check, decided: BudgetsDecided) -> MatchedCheck:
    return MatchedCheck(
        check, decided.matched, [standing.decision for standing in decided.standings]
    )


def throttled_balances(
    workspace: Workspace, results: Sequence[BudgetsDecided | CheckAnswer]
) -> list[BudgetBalance]:
    """The balances of the budgets that throttled one of `results` just now, as they stand.

    An answer among them was given before, when its own throttling was kept.
    """
    keys = [
        one.blank.key
        for result in results
        if isinstance(result, BudgetsDecided) and not result.allowed
        for one, standing in zip(result.matched, result.standings, strict=True)
        if standing.decision == THROTTLE
    ]
    balances = [workspace.held_balance(key) for key in keys]
    return [balance for balance in balances if balance is not None]


def keep_throttle_credits(workspace: Workspace, throttled: list[BudgetBalance]) -> None:
    """Let the accumulators stand although a batch was undone, or it would be refused for ever."""
    for one in throttled:
        balance = workspace.balance(one.key)
        workspace.put_balance(replace(balance, throttle_credit=one.throttle_credit))

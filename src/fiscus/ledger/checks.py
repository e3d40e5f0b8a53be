"""Checks in the ledger: find the budgets, decide, hold the money."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

from msgspec.structs import replace

from fiscus.budgets.answers import BudgetsDecided, BudgetStanding
from fiscus.budgets.calls import CheckAnswer
from fiscus.budgets.matching import Matched
from fiscus.budgets.model import (
    Budget,
    BudgetBalance,
    Converted,
    Reservation,
    ReservationLine,
    ReservationStatus,
)
from fiscus.budgets.rules import (
    DENIALS,
    THROTTLE,
    Decision,
    Demand,
    decide,
    fits_at,
    throttle_fits_at,
)
from fiscus.costs.fx import Rate, convert
from fiscus.errors import ValidationError
from fiscus.ledger.commands import Check, CheckBatch
from fiscus.ledger.matches import find_matches, keep_anchor, plan_matches
from fiscus.ledger.reservations import free_due
from fiscus.ledger.workspace import Workspace
from fiscus.money import ONE, subtract

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
    if not matched:
        allowed = not settings.require_budget
        if command.reserve and allowed:
            _reserve(workspace, command, currency, ())
        return BudgetsDecided((), allowed, 0, None, None, [])
    demands = _demands(workspace, command, currency, matched)
    decision = decide(demands, reserve=command.reserve)
    if (
        not decision.allowed
        and _may_be_due(demands)
        and free_due(workspace, command.tenant_id, now)
    ):
        demands = _demands(workspace, command, currency, matched)
        decision = decide(demands, reserve=command.reserve)
    allowed, verdicts, day = decision.allowed, decision.verdicts, now.date()
    holds = allowed and command.reserve
    lines: list[ReservationLine] = []
    standings: list[BudgetStanding] = []
    for index, balance in enumerate(decision.balances):
        demand = demands[index]
        foreign = demand.converted
        if balance is not demand.balance:
            workspace.put_balance(balance)
        if holds:
            rate, rate_date = (ONE, day) if foreign is None else (foreign.rate, foreign.as_of)
            lines.append(ReservationLine(balance.key, demand.estimate, rate, rate_date))
        standings.append(BudgetStanding(balance.spent, balance.reserved, verdicts[index], foreign))
    if holds:
        _reserve(workspace, command, currency, tuple(lines))
        for one in matched:
            if one.prepared.floats:
                keep_anchor(workspace, one, now)
    fits = None if allowed else _fits_at(workspace, now, matched, demands, decision)
    return BudgetsDecided(matched, allowed, decision.deciding, decision.throttle, fits, standings)


def _may_be_due(demands: list[Demand]) -> bool:
    """Whether a denial may rest on reservations that are due."""
    return any(demand.balance.reserved for demand in demands)


def _demands(
    workspace: Workspace, command: Check, currency: str, matched: Sequence[Matched]
) -> list[Demand]:
    """What is asked of each budget."""
    estimate = command.estimate
    demands: list[Demand] = []
    for one in matched:
        budget = one.budget
        balance = workspace.balance(one.blank)
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
    found = _rate(workspace, currency, budget.currency, command.now.date())
    amount = convert(command.estimate, found)
    return Demand(budget, balance, amount, Converted(amount, found.value, found.as_of))


def _rate(workspace: Workspace, source: str, target: str, day: date) -> Rate:
    rate = workspace.rates.rate(source, target, day)
    if rate is None:
        raise ValidationError(
            f"No exchange rate from {source} to {target} is known",
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


def _fits_at(
    workspace: Workspace,
    now: datetime,
    matched: Sequence[Matched],
    demands: list[Demand],
    decision: Decision,
) -> datetime | None:
    """The latest of the deniers' earliest moments; None when one of them never fits."""
    latest = now
    for one, demand, verdict in zip(matched, demands, decision.verdicts, strict=True):
        if verdict not in DENIALS:
            continue
        moment: datetime | None
        if verdict == THROTTLE and decision.throttle is not None:
            moment = throttle_fits_at(now, decision.throttle)
        else:
            budget, balance = demand.budget, demand.balance
            anchor = one.prepared.anchors.get(one.scope_id) if one.prepared.floats else None
            following = one.prepared.period_after(one.period, anchor)
            room_in_period = subtract(budget.budget_amount, balance.spent) >= demand.estimate
            holds = (
                workspace.holds_on(balance.key, balance.tenant_id)
                if balance.reserved and room_in_period
                else ()
            )
            moment = fits_at(demand, holds, following.start if following else None)
        if moment is None:
            return None
        latest = max(latest, moment)
    return latest


def plan_check_batch(workspace: Workspace, command: CheckBatch) -> None:
    for check in command.checks:
        if check.idempotency is not None:
            workspace.needs.idempotency.add(check.idempotency.at)
        plan_matches(workspace, check.operation, check.now)


def look_again(workspace: Workspace, check: Check) -> BudgetsDecided:
    """What becomes of an allowed check of a batch that reserves nothing after all."""
    decided = apply_check(workspace, replace(check, reserve=False))
    # it may be denied: then it only was allowed because a throttled check went before it
    return replace(decided, held_back=decided.allowed)


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
        blank = BudgetBalance(one.key, one.tenant_id, one.period_end)
        workspace.put_balance(
            replace(workspace.balance(blank), throttle_credit=one.throttle_credit)
        )

"""Checks in the ledger: find the budgets, decide, hold the money, explain the answer."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from fiscus.budgets.calls import BudgetLine, CheckAnswer, CheckBatchAnswer, ThrottleAnswer
from fiscus.budgets.matching import Matched
from fiscus.budgets.model import (
    BalanceKey,
    BudgetBalance,
    Reservation,
    ReservationLine,
    ReservationStatus,
)
from fiscus.budgets.rules import (
    ALLOW,
    DENY,
    ESCALATE,
    FROZEN,
    THROTTLE,
    WARN,
    Decision,
    Demand,
    Verdict,
    decide,
    fits_at,
    max_allowed_cost,
    throttle_fits_at,
)
from fiscus.costs.fx import Rate, convert, rate_to_itself
from fiscus.errors import ValidationError
from fiscus.ledger.commands import Check, CheckBatch
from fiscus.ledger.matches import find_matches, keep_anchor, plan_matches
from fiscus.ledger.reservations import free_due
from fiscus.ledger.workspace import Workspace
from fiscus.money import ONE, ZERO, add, plain, ratio, subtract
from fiscus.periods import FAR_FUTURE

_PENDING: Final = ReservationStatus.PENDING
NO_BUDGET: Final = "No budget matches this operation."


def plan_check(workspace: Workspace, command: Check) -> None:
    """Add the balances a check will read to the group's needs."""
    plan_matches(workspace, command.operation, command.now)


def apply_check(workspace: Workspace, command: Check) -> CheckAnswer:
    """Decide one check; holds the estimate on every matching budget, or changes nothing."""
    operation, now = command.operation, command.now
    settings = workspace.tenant(operation.tenant_id).settings
    currency = command.currency or settings.currency
    matched = find_matches(workspace, operation, now)
    if not matched:
        return _without_budget(command, currency, workspace, required=settings.require_budget)
    demands, rates = _demands(workspace, command, currency, matched)
    decision = decide(demands, reserve=command.reserve)
    if (
        not decision.allowed
        and _may_be_due(demands)
        and free_due(workspace, command.tenant_id, now)
    ):
        demands, rates = _demands(workspace, command, currency, matched)
        decision = decide(demands, reserve=command.reserve)
    holds = command.reserve and decision.allowed
    held: list[ReservationLine] = []
    lines: list[BudgetLine] = []
    for index, one in enumerate(matched):
        demand, rate, balance = demands[index], rates[index], decision.balances[index]
        if balance is not demand.balance:
            workspace.put_balance(balance)
        if holds:
            held.append(ReservationLine(balance.key, demand.estimate, rate.value, rate.as_of))
            if one.prepared.floats:
                keep_anchor(workspace, one, now)
        lines.append(_line(one, rate, demand, balance, decision.verdicts[index]))
    reservation = _reserve(workspace, command, currency, tuple(held)) if holds else None
    return _answer(workspace, command, matched, demands, decision, lines, reservation)


def _may_be_due(demands: list[Demand]) -> bool:
    """Whether a denial may rest on reservations that are due."""
    return any(demand.balance.reserved for demand in demands)


def _demands(
    workspace: Workspace, command: Check, currency: str, matched: list[Matched]
) -> tuple[list[Demand], list[Rate]]:
    """What is asked of each budget, and the rate into its currency on the day of the check."""
    estimate = command.estimate
    day = command.now.date()
    same = rate_to_itself(day)
    demands: list[Demand] = []
    rates: list[Rate] = []
    for one in matched:
        budget = one.budget
        if budget.currency == currency:
            rate, amount = same, estimate
        else:
            rate = _rate(workspace, currency, budget.currency, day)
            amount = estimate if rate.value is ONE else convert(estimate, rate)
        demands.append(Demand(budget, workspace.balance(one.blank), amount, rate.value))
        rates.append(rate)
    return demands, rates


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
) -> Reservation:
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
        command.now + _hold_time(command.ttl_seconds),
        lines,
    )
    workspace.add_reservation(reservation)
    return reservation


@lru_cache(maxsize=256)
def _hold_time(ttl_seconds: int) -> timedelta:
    return timedelta(seconds=ttl_seconds)


def _without_budget(
    command: Check, currency: str, workspace: Workspace, *, required: bool
) -> CheckAnswer:
    reservation = None
    if command.reserve and not required:
        reservation = _reserve(workspace, command, currency, ())
    return CheckAnswer(
        allowed=not required,
        budget_id=None,
        remaining_budget=None,
        utilization_ratio=None,
        enforcement_action=None,
        message=NO_BUDGET + " This tenant requires one." if required else NO_BUDGET,
        reservation_id=reservation.reservation_id if reservation else None,
        reservation_status=reservation.status if reservation else None,
        expires_at=reservation.expires_at if reservation else None,
        requires_approval=False,
        approval_id=None,
        throttle=None,
        max_allowed_cost=ZERO if required else None,
        fits_at=None,
        budgets=[],
        receipt_id=None,
        degraded=False,
    )


def _answer(
    workspace: Workspace,
    command: Check,
    matched: list[Matched],
    demands: list[Demand],
    decision: Decision,
    lines: list[BudgetLine],
    reservation: Reservation | None,
) -> CheckAnswer:
    allowed, deciding, throttle = decision.allowed, decision.deciding, decision.throttle
    shown = lines[deciding]
    return CheckAnswer(  # by position: with names it takes six times as long
        allowed,
        shown.budget_id,
        shown.remaining,
        shown.utilization_ratio,
        shown.enforcement_action,
        _message(matched[deciding], shown, decision),
        reservation.reservation_id if reservation else None,
        reservation.status if reservation else None,
        reservation.expires_at if reservation else None,
        not allowed and all(one.decision == ESCALATE for one in decision.verdicts if one.denies),
        None,  # approval_id
        ThrottleAnswer(multiplier=throttle.multiplier, retry_after_ms=throttle.retry_after_ms)
        if throttle
        else None,
        max_allowed_cost(demands, [line.remaining for line in lines]),
        None if allowed else _fits_at(workspace, command.now, matched, demands, decision),
        lines,
        None,  # receipt_id
        False,  # degraded
    )


def _line(
    matched: Matched, rate: Rate, demand: Demand, balance: BudgetBalance, verdict: Verdict
) -> BudgetLine:
    budget = demand.budget
    amount = budget.budget_amount
    used = add(balance.spent, balance.reserved)
    start, end = matched.period
    return BudgetLine(  # by position, as above
        budget.budget_id,
        budget.budget_name,
        matched.scope,
        budget.currency,
        amount,
        balance.spent,
        balance.reserved,
        plain(subtract(amount, used)),
        ratio(used, amount),
        budget.enforcement_action,
        verdict.decision,
        demand.estimate,
        rate.value,
        rate.as_of,
        start,
        None if end == FAR_FUTURE else end,
    )


def _message(matched: Matched, line: BudgetLine, decision: Decision) -> str:
    label = matched.label
    word = line.decision
    if word == ALLOW:
        return f"{label} has room."
    left = f"{plain(line.remaining)} of {plain(line.amount)} {line.currency} left"
    needed = f"{plain(line.estimated_cost)} needed"
    if word == WARN:
        return f"{label} is a soft limit and allows this past its amount: {left}, {needed}."
    if word == FROZEN:
        return f"{label} is frozen: every operation is refused until it is unfrozen."
    if word == THROTTLE and decision.throttle is not None:
        share = plain(decision.throttle.multiplier)
        return f"{label} is throttled: a share of {share} of operations is admitted, {left}."
    if word == ESCALATE:
        return (
            f"{label} has no room: {left}, {needed}. It escalates, but approvals are not "
            "available in this version, so the operation is denied."
        )
    if word == DENY:
        return f"{label} has no room: {left}, {needed}."
    return f"{label} only watches and would have refused: {left}, {needed}."


def _fits_at(
    workspace: Workspace,
    now: datetime,
    matched: list[Matched],
    demands: list[Demand],
    decision: Decision,
) -> datetime | None:
    """The latest of the deniers' earliest moments; None when one of them never fits."""
    latest = now
    for one, demand, verdict in zip(matched, demands, decision.verdicts, strict=True):
        if not verdict.denies:
            continue
        moment: datetime | None
        if verdict.decision == THROTTLE and decision.throttle is not None:
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
        plan_check(workspace, check)


def look_again(workspace: Workspace, check: Check) -> CheckAnswer:
    """The answer to an allowed check of a batch that reserves nothing after all."""
    answer = apply_check(workspace, replace(check, reserve=False))
    if not answer.allowed:  # it only was because a throttled check went before it
        return answer
    return replace(
        answer,
        message="Would be allowed; nothing is reserved because another check of the batch is not.",
    )


def batch_answer(results: list[CheckAnswer]) -> CheckBatchAnswer:
    return CheckBatchAnswer(allowed=all(result.allowed for result in results), results=results)


def throttled_balances(workspace: Workspace, results: list[CheckAnswer]) -> list[BudgetBalance]:
    """The balances of the budgets that throttled one of `results`, as they stand."""
    keys = [
        BalanceKey(line.budget_id, line.scope["id"], line.period_start)
        for result in results
        if not result.allowed
        for line in result.budgets
        if line.decision == THROTTLE
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

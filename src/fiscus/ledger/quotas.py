"""Quotas in the ledger: take an amount from every quota that matches, and give it back."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from itertools import count
from time import time_ns
from typing import Final

from msgspec.structs import replace

from fiscus.costs.model import ChargeCategory
from fiscus.errors import Conflict, NotFound, ValidationError
from fiscus.ids import uuid7
from fiscus.ledger.charges import record_cost
from fiscus.ledger.commands import Consume, ConsumeBatch, Cost, ReleaseConsumption
from fiscus.ledger.matches import plan_matches
from fiscus.ledger.quota_fits import fits_at
from fiscus.ledger.workspace import PlannedQuotas, Workspace
from fiscus.match_limits import limit_for_checks
from fiscus.money import LIMIT, ZERO, add, plain, subtract
from fiscus.operations import Operation
from fiscus.quotas.answers import QuotasDecided, QuotaStanding
from fiscus.quotas.calls import ConsumptionView
from fiscus.quotas.model import (
    Consumption,
    ConsumptionLine,
    QuotaUsage,
    UsageKind,
)
from fiscus.quotas.rules import (
    Decision,
    Demand,
    decide,
    give_back,
    premium_owed,
)

_numbers: Final = count(time_ns())
"""Of rows of history: they grow, also after a restart."""
_CONSUME: Final = UsageKind.CONSUME
_RELEASE: Final = UsageKind.RELEASE
_NO_PREMIUMS: Final[dict[str, Operation]] = {}


def plan_consume(workspace: Workspace, command: Consume) -> int:
    """Add the balances a check will read to the group's needs; how many it meets.

    With a premium on a burst, the budgets that the premium would be charged to are among them.
    """
    operation = command.operation
    balances = workspace.needs.quota_balances
    found = workspace.tenant(operation.tenant_id).quotas.matches(operation, command.now)
    match_count = len(found)
    premiums = _NO_PREMIUMS
    for one in found:
        quota, blank = one.quota, one.blank
        balances[blank.key] = blank
        if quota.burst_premium_rate and command.consume:
            premium = _premium_operation(operation, quota.quota_id)
            match_count += plan_matches(workspace, premium, command.now)
            premiums = premiums | {quota.quota_id: premium}
    workspace.planned_quotas[id(operation)] = PlannedQuotas(found, premiums)
    return match_count


def plan_consume_batch(workspace: Workspace, command: ConsumeBatch) -> None:
    match_limit = limit_for_checks(len(command.checks), "quotas and budgets")
    with workspace.planning(command):
        for number, check in enumerate(command.checks, 1):
            if check.idempotency is not None:
                workspace.needs.idempotency.add(check.idempotency.at)
            match_limit.add(plan_consume(workspace, check), number)


def plan_release_consumption(workspace: Workspace, command: ReleaseConsumption) -> None:
    workspace.need_consumption(command.consumption_id, command.tenant_id)


def apply_consume(workspace: Workspace, command: Consume) -> QuotasDecided:
    """Decide one check; takes the amount from every matching quota, or changes nothing."""
    planned = workspace.planned_quotas[id(command.operation)]
    matched = planned.matched
    if not matched:
        if workspace.tenant(command.tenant_id).settings.require_quota:
            return QuotasDecided((), False, 0, fits_at(workspace, command, ()), [])
        return QuotasDecided((), True, 0, None, [])
    demands: list[Demand] = []
    for one in matched:
        balance = workspace.quota_balance(one.blank.key)
        demands.append(Demand(one.quota, balance))
    decision = decide(demands, command.amount)
    standings: list[QuotaStanding] = []
    if not decision.allowed or not command.consume:
        for demand, denies in zip(demands, decision.denies, strict=True):
            balance = demand.balance
            standings.append(QuotaStanding(balance.used, balance.burst_used, ZERO, denies))
        fits = None if decision.allowed else fits_at(workspace, command, demands)
        return QuotasDecided(matched, decision.allowed, decision.deciding, fits, standings)
    _take(workspace, command, planned, decision)
    lines = decision.lines
    for index, balance in enumerate(decision.balances):
        burst = lines[index].burst
        standings.append(QuotaStanding(balance.used, balance.burst_used, burst, False))
    return QuotasDecided(matched, True, decision.deciding, None, standings)


def _take(
    workspace: Workspace, command: Consume, planned: PlannedQuotas, decision: Decision
) -> None:
    """Take what was decided from each quota, with its history and its premium."""
    amount, now = command.amount, command.now
    consumption = Consumption(  # by position, as answers are
        command.consumption_id,
        command.operation.tenant_id,
        command.operation,
        command.operation_id,
        amount,
        ZERO,
        now,
        decision.lines,
    )
    workspace.add_consumption(consumption)
    balances = decision.balances
    for index, line in enumerate(decision.lines):
        number = next(_numbers)
        workspace.use_quota(
            QuotaUsage(number, consumption, balances[index], now, _CONSUME, amount, line.burst)
        )
        if planned.premiums and line.burst:
            premium = planned.premiums.get(line.key.quota_id)
            if premium is not None:
                _record_premium(workspace, premium, line, premium_owed(line), now)


def apply_release_consumption(workspace: Workspace, command: ReleaseConsumption) -> ConsumptionView:
    """Give an amount back to every quota it was taken from; with nothing left, nothing changes.

    Raises `NotFound`, another tenant's is not found either, and `Conflict` above what is left.
    """
    consumption = workspace.consumption(command.consumption_id, command.tenant_id)
    if consumption is None:
        raise NotFound(
            f"No consumption {command.consumption_id} exists",
            details={"consumption_id": command.consumption_id},
            suggested_action="Use the consumption_id that the check answered.",
        )
    left = plain(subtract(consumption.amount, consumption.released))
    amount = left if command.amount is None else command.amount
    if amount > left:
        raise Conflict(
            f"The consumption has {left} left to give back, {plain(amount)} is more",
            details={
                "consumption_id": consumption.consumption_id,
                "field": "amount",
                "amount": str(plain(consumption.amount)),
                "released_amount": str(plain(consumption.released)),
                "left_to_release": str(left),
            },
            suggested_action="Send at most what is left, or no amount for all of it.",
        )
    if amount:
        consumption = _give_back(workspace, consumption, amount, command.now)
    return view_consumption(consumption)


def view_consumption(consumption: Consumption) -> ConsumptionView:
    """A consumption as answers show it."""
    operation = consumption.operation
    return ConsumptionView(
        consumption_id=consumption.consumption_id,
        tenant_id=consumption.tenant_id,
        resource_type=operation.resource_type,
        amount=consumption.amount,
        released_amount=plain(consumption.released),
        project_id=operation.project_id,
        user_id=operation.user_id,
        feature_id=operation.feature_id,
        operation_id=consumption.operation_id,
        created_at=consumption.created_at,
        quota_ids=[line.key.quota_id for line in consumption.lines],
    )


def _give_back(
    workspace: Workspace, consumption: Consumption, amount: Decimal, now: datetime
) -> Consumption:
    """Each quota was charged the whole amount, so each gets the whole of what comes back."""
    lines: list[ConsumptionLine] = []
    for line in consumption.lines:
        balance, changed = give_back(workspace.quota_balance(line.key), line, amount)
        lines.append(changed)
        burst = subtract(changed.burst_released, line.burst_released)
        number = next(_numbers)
        workspace.use_quota(QuotaUsage(number, consumption, balance, now, _RELEASE, amount, burst))
        if burst:
            reversal = subtract(premium_owed(changed), premium_owed(line))
            operation = _premium_operation(consumption.operation, line.key.quota_id)
            # at the time of what it reverses: in the budgets' periods and at the rate of then
            _record_premium(
                workspace, operation, line, reversal, now, timestamp=consumption.created_at
            )
    changed_consumption = replace(
        consumption, released=add(consumption.released, amount), lines=tuple(lines)
    )
    workspace.put_consumption(changed_consumption)
    return changed_consumption


def _premium_operation(operation: Operation, quota_id: str) -> Operation:
    """What the premium of a burst is recorded for: the operation, tagged."""
    return replace(operation, tags={"quota_id": quota_id, "charge": "burst"})


def _record_premium(
    workspace: Workspace,
    operation: Operation,
    line: ConsumptionLine,
    amount: Decimal,
    now: datetime,
    *,
    timestamp: datetime | None = None,
) -> None:
    """Record what burst costs, or below zero that it was given back, and charge the budgets."""
    if not amount or line.premium_currency is None:
        return
    if amount >= LIMIT:
        raise ValidationError(
            "required_amount takes so much burst that its premium is out of range",
            field="required_amount",
            suggested_action="Send a smaller amount.",
        )
    category = ChargeCategory.USAGE if amount > 0 else ChargeCategory.ADJUSTMENT
    cost = Cost(
        operation=operation,
        record_id=uuid7(),
        amount=amount,
        currency=line.premium_currency,
        timestamp=timestamp or now,
        charge_category=category,
    )
    record_cost(workspace, cost, line.premium_currency, now)

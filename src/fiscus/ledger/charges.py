"""Costs in the ledger: record them, charge the budgets they match, settle reservations.

Settling is recording: both end in `record_cost`, which makes exactly one cost record.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from msgspec.structs import replace

from fiscus.budgets.calls import SettleAnswer
from fiscus.budgets.matching import Matched
from fiscus.budgets.model import BudgetBalance, Reservation, ReservationStatus
from fiscus.budgets.rules import charge
from fiscus.costs.calls import ChargedLine, RecordAnswer, RecordBatchAnswer, RecordItem
from fiscus.costs.fx import Rate, convert, rate_to_itself
from fiscus.costs.model import UNATTRIBUTED_TAG, CostFlag, CostRecord
from fiscus.errors import Conflict, ValidationError
from fiscus.ledger.commands import Cost, Record, RecordBatch, Settle
from fiscus.ledger.matches import find_matches, keep_anchor, plan_matches
from fiscus.ledger.reservations import close, current, require_reservation
from fiscus.ledger.workspace import Workspace
from fiscus.money import ONE, add, plain, ratio, subtract
from fiscus.wire import decode, encode


def plan_record(workspace: Workspace, command: Record) -> None:
    """Add what recording will read to the group's needs."""
    cost = command.cost
    if cost.operation_id is not None:
        workspace.needs.operations.add((command.tenant_id, cost.operation_id))
    if command.reservation_id is not None:
        workspace.need_reservation(command.reservation_id, command.tenant_id)
    plan_matches(workspace, cost.operation, cost.timestamp)


def plan_record_batch(workspace: Workspace, command: RecordBatch) -> None:
    for record in command.records:
        if isinstance(record, Record):
            if record.idempotency is not None:
                workspace.needs.idempotency.add(record.idempotency.at)
            plan_record(workspace, record)


def apply_record(workspace: Workspace, command: Record) -> RecordAnswer:
    """Record a cost; with a reservation, settle that with the reservation's attributes."""
    cost = command.cost
    if command.reservation_id is not None:
        settle = Settle(
            tenant_id=command.tenant_id,
            reservation_id=command.reservation_id,
            record_id=cost.record_id,
            actual_cost=cost.amount,
            now=command.now,
            currency=cost.currency,
            timestamp=cost.timestamp,
            usage_quantity=cost.usage_quantity,
            usage_unit=cost.usage_unit,
            usage=cost.usage,
            tags=cost.operation.tags,
            resource_id=cost.resource_id,
            service_name=cost.operation.service_name,
            region=cost.region,
        )
        return _as_record_answer(workspace, apply_settle(workspace, settle), command)
    currency = cost.currency or workspace.tenant(command.tenant_id).settings.currency
    return record_cost(workspace, cost, currency, command.now)


def apply_settle(workspace: Workspace, command: Settle) -> SettleAnswer:
    """Free the hold, record the actual cost, charge what it matches. Once: again is the same.

    Raises `Conflict` when the reservation was settled with another amount.
    """
    found = require_reservation(workspace, command.reservation_id, command.tenant_id)
    currency = command.currency or found.currency
    if found.settlement is not None:
        earlier = decode(found.settlement, SettleAnswer)
        if (earlier.charged, earlier.currency) == (command.actual_cost, currency):
            return earlier
        raise Conflict(
            f"The reservation was settled with {plain(earlier.charged)} {earlier.currency}",
            details={"record_id": earlier.record_id, "charged": str(earlier.charged)},
            suggested_action="Record the difference as a cost of category adjustment.",
        )
    if command.actual_cost < 0:
        raise ValidationError("actual_cost must not be negative", field="actual_cost")
    reservation = current(workspace, found, command.now)
    flags: list[CostFlag] = []
    if reservation.status is ReservationStatus.PENDING:
        reservation = close(workspace, reservation, ReservationStatus.SETTLED)
    else:
        flags.append(CostFlag.LATE)
    if _exceeds(workspace, reservation, command, currency):
        flags.append(CostFlag.EXCESS)
    recorded = record_cost(
        workspace,
        _cost_of(reservation, command),
        currency,
        command.now,
        reservation.reservation_id,
        flags,
    )
    answer = SettleAnswer(
        record_id=recorded.record_id,
        charged=recorded.cost_amount,
        currency=recorded.currency,
        flags=recorded.flags,
        budgets=recorded.budgets,
        reservation_id=reservation.reservation_id,
        reservation_status=reservation.status,
        timestamp=recorded.timestamp,
        recorded_at=recorded.recorded_at,
    )
    workspace.put_reservation(
        replace(
            reservation,
            record_id=recorded.record_id,
            actual_cost=recorded.cost_amount,
            settlement=encode(answer),
        )
    )
    return answer


def _exceeds(
    workspace: Workspace, reservation: Reservation, command: Settle, currency: str
) -> bool:
    actual = command.actual_cost
    if currency != reservation.currency:
        day = (command.timestamp or command.now).date()
        rate = workspace.rates.rate(currency, reservation.currency, day)
        if rate is None:
            return False
        actual = convert(actual, rate)
    return actual > reservation.estimated_cost


def _cost_of(reservation: Reservation, command: Settle) -> Cost:
    held = reservation.operation
    return Cost(
        operation=replace(
            held,
            service_name=held.service_name or command.service_name,
            tags={**held.tags, **command.tags},
        ),
        record_id=command.record_id,
        amount=command.actual_cost,
        currency=None,
        timestamp=command.timestamp or command.now,
        usage_quantity=command.usage_quantity,
        usage_unit=command.usage_unit,
        usage=command.usage,
        resource_id=command.resource_id,
        region=command.region,
        operation_id=reservation.operation_id,
    )


def _as_record_answer(workspace: Workspace, settled: SettleAnswer, command: Record) -> RecordAnswer:
    reservation = require_reservation(workspace, settled.reservation_id, command.tenant_id)
    kind, scope_id = reservation.operation.attributed_to()
    return RecordAnswer(
        record_id=settled.record_id,
        recorded_at=settled.recorded_at,
        timestamp=settled.timestamp,
        cost_amount=settled.charged,
        currency=settled.currency,
        attributed_to_type=kind,
        attributed_to_id=scope_id,
        flags=settled.flags,
        budgets=settled.budgets,
        reservation_id=settled.reservation_id,
    )


def record_cost(
    workspace: Workspace,
    cost: Cost,
    currency: str,
    now: datetime,
    reservation_id: str | None = None,
    flags: Sequence[CostFlag] = (),
) -> RecordAnswer:
    """Make the one record of a cost; a repeated operation id is the record made before."""
    flags = list(flags)
    operation = cost.operation
    kind, scope_id = operation.attributed_to()
    if cost.operation_id is not None:
        earlier = workspace.recorded_operation((operation.tenant_id, cost.operation_id))
        if earlier is not None:
            if (earlier.cost_amount, earlier.currency) != (cost.amount, currency):
                raise Conflict(
                    f"Operation {cost.operation_id} is recorded with "
                    f"{plain(earlier.cost_amount)} {earlier.currency}",
                    details={"record_id": earlier.record_id, "field": "operation_id"},
                    suggested_action="Record the difference as a cost of category adjustment.",
                )
            return RecordAnswer(
                record_id=earlier.record_id,
                recorded_at=earlier.recorded_at,
                timestamp=earlier.timestamp,
                cost_amount=earlier.cost_amount,
                currency=earlier.currency,
                attributed_to_type=kind,
                attributed_to_id=scope_id,
                flags=flags,
                budgets=[],
                reservation_id=reservation_id,
            )
    tags = operation.tags
    if operation.project_id is operation.user_id is operation.feature_id is None:
        tags = {**tags, UNATTRIBUTED_TAG: "true"}
    charged, unconverted = _charge_budgets(workspace, cost, currency)
    if unconverted:
        flags = [*flags, CostFlag.UNCONVERTED]
    if charged and reservation_id is None:
        flags = [*flags, CostFlag.UNRESERVED]
    record = CostRecord(  # by position: with names it takes six times as long
        cost.record_id,
        operation.tenant_id,
        cost.timestamp,
        now,
        operation.resource_type,
        cost.amount,
        currency,
        cost.charge_category,
        kind,
        scope_id,
        operation.project_id,
        operation.user_id,
        operation.feature_id,
        cost.usage_quantity,
        cost.usage_unit,
        cost.usage,
        cost.resource_id,
        operation.service_name,
        cost.region,
        dict(tags),
        flags,
        reservation_id,
        cost.operation_id,
    )
    workspace.add_record(record)
    return RecordAnswer(
        record_id=record.record_id,
        recorded_at=record.recorded_at,
        timestamp=record.timestamp,
        cost_amount=record.cost_amount,
        currency=currency,
        attributed_to_type=kind,
        attributed_to_id=scope_id,
        flags=flags,
        budgets=charged,
        reservation_id=reservation_id,
    )


def _charge_budgets(
    workspace: Workspace, cost: Cost, currency: str
) -> tuple[list[ChargedLine], bool]:
    """Charge every budget the cost matches at its own time; whether one had no rate."""
    lines: list[ChargedLine] = []
    unconverted = False
    day = cost.timestamp.date()
    same = rate_to_itself(day)
    for matched in find_matches(workspace, cost.operation, cost.timestamp):
        target = matched.budget.currency
        rate = same if target == currency else workspace.rates.rate(currency, target, day)
        if rate is None:
            unconverted = True
            continue
        amount = cost.amount if rate.value is ONE else convert(cost.amount, rate)
        balance = charge(workspace.balance(matched.blank), amount)
        workspace.put_balance(balance)
        if matched.prepared.floats:
            keep_anchor(workspace, matched, cost.timestamp)
        lines.append(_charged_line(matched, rate, amount, balance))
    return lines, unconverted


def _charged_line(
    matched: Matched, rate: Rate, amount: Decimal, balance: BudgetBalance
) -> ChargedLine:
    budget = matched.budget
    whole = budget.budget_amount
    used = add(balance.spent, balance.reserved)
    return ChargedLine(  # by position, as above
        budget.budget_id,
        matched.scope,
        budget.currency,
        amount,
        rate.value,
        rate.as_of,
        balance.spent,
        balance.reserved,
        plain(subtract(whole, used)),
        ratio(used, whole),
        matched.period.start,
    )


def record_batch_answer(items: list[RecordItem]) -> RecordBatchAnswer:
    """One item per record, in order."""
    failed = sum(1 for item in items if item.error is not None)
    return RecordBatchAnswer(recorded=len(items) - failed, failed=failed, results=items)

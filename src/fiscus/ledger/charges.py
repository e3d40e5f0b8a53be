"""Costs in the ledger: record them, charge the budgets they match, settle reservations.

Settling is recording: both end in `record_cost`, which makes exactly one cost record.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from fiscus.budgets.calls import SettleAnswer
from fiscus.budgets.matching import MatchedBudget
from fiscus.budgets.model import Converted, Reservation, ReservationStatus
from fiscus.budgets.rules import charge
from fiscus.costs.calls import RecordAnswer
from fiscus.costs.fx import convert
from fiscus.costs.model import UNATTRIBUTED_TAG, CostFlag, CostRecord, first_tags
from fiscus.errors import Conflict
from fiscus.ledger.commands import Cost, Record, RecordBatch, Settle
from fiscus.ledger.matches import find_matches, keep_anchor, plan_matches
from fiscus.ledger.port import RecordedOperation
from fiscus.ledger.recorded import Charged, CostRecorded, answer
from fiscus.ledger.reservations import close, current, require_reservation
from fiscus.ledger.workspace import Workspace
from fiscus.match_limits import limit_for_records
from fiscus.money import plain
from fiscus.operations import Operation
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode

# Kept apart, as a member of an enum is found by way of its metaclass each time.
_UNRESERVED: Final = CostFlag.UNRESERVED
_IDS: Final = ("project_id", "user_id", "feature_id")


def plan_record(workspace: Workspace, command: Record) -> int:
    """Add what recording will read to the group's needs; how many budgets it meets."""
    cost = command.cost
    if cost.operation_id is not None:
        workspace.needs.operations.add((command.tenant_id, cost.operation_id))
    if command.reservation_id is not None:
        workspace.need_reservation(command.reservation_id, command.tenant_id)
    return plan_matches(workspace, cost.operation, cost.timestamp)


def plan_record_batch(workspace: Workspace, command: RecordBatch) -> None:
    match_limit = limit_for_records(len(command.records))
    with workspace.planning(command):
        for number, record in enumerate(command.records, 1):
            if isinstance(record, Record):
                if record.idempotency is not None:
                    workspace.needs.idempotency.add(record.idempotency.at)
                match_limit.add(plan_record(workspace, record), number)


def apply_record(workspace: Workspace, command: Record) -> CostRecorded | RecordAnswer:
    """Record a cost; with a reservation, settle that with the reservation's attributes.

    What was recorded before, or settles a reservation, is answered at once. Raises `Conflict` when
    the reservation is for something else.
    """
    cost = command.cost
    if command.reservation_id is not None:
        found = require_reservation(workspace, command.reservation_id, command.tenant_id)
        _require_its_ids(found, cost.operation)
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
            charge_category=cost.charge_category,
            operation_id=cost.operation_id,
        )
        return _as_record_answer(workspace, _settle(workspace, settle, cost.operation), command)
    currency = cost.currency or workspace.tenant(cost.operation.tenant_id).settings.currency
    return record_cost(workspace, cost, currency, command.now)


def apply_settle(workspace: Workspace, command: Settle) -> SettleAnswer:
    """Free the hold, record the actual cost, charge what it matches. Once: again is the same.

    Raises `Conflict` when the reservation was settled with another amount, or has another
    operation id.
    """
    return _settle(workspace, command)


def _settle(workspace: Workspace, command: Settle, given: Operation | None = None) -> SettleAnswer:
    """As `apply_settle`, for a cost that is `given` with ids of its own."""
    found = require_reservation(workspace, command.reservation_id, command.tenant_id)
    _require_its_operation(found, command)
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
    reservation = current(workspace, found, command.now)
    flags: list[CostFlag] = []
    if reservation.status is ReservationStatus.PENDING:
        reservation = close(workspace, reservation, ReservationStatus.SETTLED)
    else:
        flags.append(CostFlag.LATE)
    if _exceeds(workspace, reservation, command, currency):
        flags.append(CostFlag.EXCESS)
    cost = _cost_of(reservation, command, given)
    recorded = record_cost(workspace, cost, currency, command.now, reservation, flags)
    if isinstance(recorded, CostRecorded):
        recorded = answer(recorded, cost, command.now, reservation.reservation_id)
    settled = SettleAnswer(
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
            settlement=encode(settled),
        )
    )
    return settled


def _require_its_operation(reservation: Reservation, command: Settle) -> None:
    """What names the reservation and an operation may not mean another than the check named."""
    held, given = reservation.operation_id, command.operation_id
    if held is not None and given is not None and held != given:
        raise Conflict(
            f"The reservation is for operation {held}, not for {given}",
            details={"reservation_id": reservation.reservation_id, "field": "operation_id"},
            suggested_action="Leave operation_id out, or send the one that was checked.",
        )


def _require_its_ids(reservation: Reservation, given: Operation) -> None:
    """A cost may say more than the check did, but nothing else: what was held is for that."""
    held = reservation.operation
    for field in ("resource_type", *_IDS):
        checked, named = getattr(held, field), getattr(given, field)
        if checked is not None and named is not None and checked != named:
            raise Conflict(
                f"The reservation is for {field} {checked}, not for {named}",
                details={"reservation_id": reservation.reservation_id, "field": field},
                suggested_action=f"Send the {field} that was checked, or release the reservation "
                "and record the cost without it.",
            )


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


def _cost_of(reservation: Reservation, command: Settle, given: Operation | None) -> Cost:
    """With the reservation's tags first: by them it matched the budgets that hold money for it.

    Of `given` are the ids that the reservation has none of.
    """
    held = reservation.operation
    return Cost(
        operation=replace(
            _with_ids_of(held, given),
            service_name=held.service_name or command.service_name,
            tags=first_tags({**held.tags, **command.tags}),
        ),
        record_id=command.record_id,
        amount=command.actual_cost,
        currency=None,
        timestamp=command.timestamp or command.now,
        charge_category=command.charge_category,
        usage_quantity=command.usage_quantity,
        usage_unit=command.usage_unit,
        usage=command.usage,
        resource_id=command.resource_id,
        region=command.region,
        operation_id=reservation.operation_id or command.operation_id,
    )


def _with_ids_of(held: Operation, given: Operation | None) -> Operation:
    if given is None:
        return held
    return replace(held, **{name: getattr(held, name) or getattr(given, name) for name in _IDS})


def _as_record_answer(workspace: Workspace, settled: SettleAnswer, command: Record) -> RecordAnswer:
    reservation = require_reservation(workspace, settled.reservation_id, command.tenant_id)
    operation = _with_ids_of(reservation.operation, command.cost.operation)
    kind, scope_id = operation.attributed_to()
    operation_id = reservation.operation_id or command.cost.operation_id
    if operation_id is not None:
        recorded = workspace.recorded_operation((command.tenant_id, operation_id))
        if recorded is not None and recorded.record_id == settled.record_id:
            # it may have been recorded before, with other ids than the reservation's
            kind, scope_id = recorded.attributed_to_type, recorded.attributed_to_id
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
    settled: Reservation | None = None,
    flags: Sequence[CostFlag] = (),
) -> CostRecorded | RecordAnswer:
    """Make the one record of a cost; a repeated operation id is answered the record made before.

    `settled` is the reservation it settles, with the `flags` that are known by then.
    """
    flags = list(flags)
    operation = cost.operation
    reservation_id = None if settled is None else settled.reservation_id
    if cost.operation_id is not None:
        earlier = workspace.recorded_operation((operation.tenant_id, cost.operation_id))
        if earlier is not None:
            return _recorded_before(earlier, cost, currency, reservation_id)
    tags = operation.tags
    if operation.project_id is operation.user_id is operation.feature_id is None:
        tags = {**tags, UNATTRIBUTED_TAG: "true"}
    found = find_matches(workspace, operation, cost.timestamp)
    matched, charged = _charge_budgets(workspace, cost, currency, found)
    if matched is not found:
        flags.append(CostFlag.UNCONVERTED)
    if settled is not None:
        flags += _beyond_what_was_held(settled, cost, matched, charged, flags)
    elif charged:
        flags.append(_UNRESERVED)
    kind, scope_id = operation.attributed_to()
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
    return CostRecorded(matched, charged, currency, flags)


def _recorded_before(
    earlier: RecordedOperation, cost: Cost, currency: str, reservation_id: str | None
) -> RecordAnswer:
    """The answer to a cost whose operation has a record; raises `Conflict` for another amount."""
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
        attributed_to_type=earlier.attributed_to_type,
        attributed_to_id=earlier.attributed_to_id,
        flags=list(earlier.flags),
        budgets=[],
        reservation_id=reservation_id,
    )


def _beyond_what_was_held(
    settled: Reservation,
    cost: Cost,
    matched: Sequence[MatchedBudget],
    charged: Sequence[Charged],
    flags: Sequence[CostFlag],
) -> list[CostFlag]:
    """What flags tell of budgets that were charged more than the reservation held of them.

    A budget may be charged that held nothing: that of the next period, or one that only what the
    settle said made match. Or more than it held: rates are of the day of the cost.
    """
    if CostFlag.LATE in flags:
        return []  # nothing was held any more, and that says so
    held = {line.key: line.amount for line in settled.lines}
    beyond: list[CostFlag] = []
    for one, by in zip(matched, charged, strict=True):
        before = held.get(one.blank.key)
        amount = cost.amount if by.converted is None else by.converted.amount
        if before is None:
            beyond.append(_UNRESERVED)
        elif amount > before:
            beyond.append(CostFlag.EXCESS)
    return [flag for flag in dict.fromkeys(beyond) if flag not in flags]


def _charge_budgets(
    workspace: Workspace, cost: Cost, currency: str, found: Sequence[MatchedBudget]
) -> tuple[Sequence[MatchedBudget], list[Charged]]:
    """Charge the budgets found for the cost's own time; what of them had a rate, and how."""
    amount = cost.amount
    matched = found
    charged: list[Charged] = []
    for one in found:
        converted: Converted | None = None
        target = one.budget.currency
        if target != currency:
            rate = workspace.rates.rate(currency, target, cost.timestamp.date())
            if rate is None:
                matched = [other for other in matched if other is not one]
                continue
            converted = Converted(convert(amount, rate), rate.value, rate.as_of)
        balance = charge(
            workspace.balance(one.blank.key), amount if converted is None else converted.amount
        )
        workspace.put_balance(balance)
        if one.prepared.is_floating:
            keep_anchor(workspace, one, cost.timestamp)
        charged.append(Charged(balance.spent, balance.reserved, converted))
    return matched, charged

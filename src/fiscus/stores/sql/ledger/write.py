"""The statements a ledger's transaction writes with, and how its changes become their rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any

from fiscus.budgets.model import BudgetBalance, Reservation
from fiscus.costs.model import CostRecord
from fiscus.costs.rollups import RollupKey, RollupSum, Series
from fiscus.idempotency import IdempotencyKey
from fiscus.ledger.port import AnchorKey, Changes, OperationKey, RecordedOperation
from fiscus.stores.sql.bulk import Columns, Row, Statement, insert
from fiscus.stores.sql.ledger.driver import Values, repeated
from fiscus.stores.sql.ledger.read import IDEMPOTENCY_KEY
from fiscus.wire.encoding import encode

BALANCE = Columns(
    alike=("period_start", "period_end", "throttle_credit"),
    budget_id="uuid",
    scope_id="text",
    period_start="timestamptz",
    tenant_id="text",
    period_end="timestamptz",
    spent="numeric",
    reserved="numeric",
    throttle_credit="numeric",
)
ADD_BALANCES = f"""
    INSERT INTO budget_periods ({BALANCE.list})
    SELECT {BALANCE.list} FROM {{rows}} WHERE true
    ORDER BY budget_id, scope_id, period_start
    ON CONFLICT (budget_id, scope_id, period_start) DO NOTHING
"""
_PUT_BALANCES = f"""
    INSERT INTO budget_periods ({BALANCE.list})
    SELECT {BALANCE.list} FROM {{rows}} WHERE true
    ON CONFLICT (budget_id, scope_id, period_start) DO UPDATE SET
        spent = excluded.spent,
        reserved = excluded.reserved,
        throttle_credit = excluded.throttle_credit
"""

_RESERVATION = Columns(
    alike=("status", "currency"),
    reservation_id="uuid",
    tenant_id="text",
    status="text",
    resource_type="text",
    estimated_cost="numeric",
    currency="text",
    project_id="text",
    user_id="text",
    feature_id="text",
    service_name="text",
    tags="text",
    operation_id="text",
    created_at="timestamptz",
    expires_at="timestamptz",
    record_id="uuid",
    actual_cost="numeric",
    settlement="text",
)
_ADD_RESERVATIONS = insert("reservations")

_CLOSED = Columns(
    reservation_id="uuid",
    status="text",
    expires_at="timestamptz",
    record_id="uuid",
    actual_cost="numeric",
    settlement="text",
)
_CHANGE_RESERVATIONS = """
    UPDATE reservations SET status = r.status, expires_at = r.expires_at, record_id = r.record_id,
           actual_cost = r.actual_cost, settlement = r.settlement
    FROM {rows} WHERE reservations.reservation_id = r.reservation_id
"""

_LINE = Columns(
    alike=("period_start", "rate", "rate_date"),
    reservation_id="uuid",
    budget_id="uuid",
    scope_id="text",
    period_start="timestamptz",
    tenant_id="text",
    amount="numeric",
    rate="numeric",
    rate_date="date",
)
_ADD_LINES = insert("reservation_lines")

_RECORD = Columns(
    alike=("currency", "charge_category", "attributed_to_type", "usage_unit", "flags"),
    record_id="uuid",
    timestamp="timestamptz",
    tenant_id="text",
    recorded_at="timestamptz",
    resource_type="text",
    cost_amount="numeric",
    currency="text",
    charge_category="text",
    attributed_to_type="text",
    attributed_to_id="text",
    project_id="text",
    user_id="text",
    feature_id="text",
    usage_quantity="numeric",
    usage_unit="text",
    usage="text",
    resource_id="text",
    service_name="text",
    region="text",
    tags="text",
    flags="text",
    reservation_id="uuid",
    operation_id="text",
)
_ADD_RECORDS = insert("cost_records")

_SERIES = Columns(
    series_id="text",
    tenant_id="text",
    resource_type="text",
    service_name="text",
    region="text",
    project_id="text",
    user_id="text",
    feature_id="text",
    attributed_to_type="text",
    attributed_to_id="text",
    charge_category="text",
    currency="text",
    usage_unit="text",
    tags="text",
)
_ADD_SERIES = f"""
    INSERT INTO cost_series ({_SERIES.list})
    SELECT {_SERIES.list} FROM {{rows}} WHERE true ORDER BY series_id
    ON CONFLICT (series_id) DO NOTHING
"""

_ROLLUP = Columns(
    alike=("bucket",),
    tenant_id="text",
    bucket="timestamptz",
    series_id="text",
    cost_amount="numeric",
    usage_quantity="numeric",
    record_count="bigint",
)
_ADD_TO_ROLLUPS = f"""
    INSERT INTO cost_rollups ({_ROLLUP.list})
    SELECT {_ROLLUP.list} FROM {{rows}} WHERE true ORDER BY tenant_id, bucket, series_id
    ON CONFLICT (tenant_id, bucket, series_id) DO UPDATE SET
        cost_amount = cost_rollups.cost_amount + excluded.cost_amount,
        usage_quantity = cost_rollups.usage_quantity + excluded.usage_quantity,
        record_count = cost_rollups.record_count + excluded.record_count
"""
# SQLite cannot add amounts, which are text there, and nobody else writes meanwhile.
_PUT_ROLLUPS = f"""
    INSERT INTO cost_rollups ({_ROLLUP.list})
    SELECT {_ROLLUP.list} FROM {{rows}} WHERE true
    ON CONFLICT (tenant_id, bucket, series_id) DO UPDATE SET
        cost_amount = excluded.cost_amount,
        usage_quantity = excluded.usage_quantity,
        record_count = excluded.record_count
"""

_OPERATION = Columns(
    tenant_id="text",
    operation_id="text",
    record_id="uuid",
    recorded_at="timestamptz",
    timestamp="timestamptz",
    cost_amount="numeric",
    currency="text",
)
_ADD_OPERATIONS = insert("cost_operations")

_ANCHOR = Columns(budget_id="uuid", scope_id="text", tenant_id="text", anchor="date")
_ADD_ANCHORS = insert("budget_anchors")

_ANSWER = Columns(
    tenant_id="text",
    operation="text",
    key="text",
    body_hash="text",
    answer="text",
    expires_at="timestamptz",
)
# A key whose window has ended may be used anew; one that another process stored meanwhile may not.
_ADD_ANSWERS = insert("idempotency_keys")
_DROP_ANSWERS = """
    DELETE FROM idempotency_keys WHERE (tenant_id, operation, key) IN
        (SELECT r.tenant_id, r.operation, r.key FROM {rows})
"""


class LedgerWriter:
    """A group's changes as bulk statements, by the database's way of taking values."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._time = lru_cache(maxsize=1_000)(values.time)
        self._began = repeated(values.time)
        self._ends = repeated(values.time)
        self._day = lru_cache(maxsize=1_000)(date.isoformat)

    def statements(
        self,
        changes: Changes,
        stale_answers: Collection[IdempotencyKey],
        rollups_before: Iterable[Row] | None,
    ) -> list[Statement]:
        """Everything a group writes; `stale_answers` are stored already and may be replaced.

        `rollups_before` are those of `ROLLUPS` that the group adds to; without them the database
        adds.
        """
        self._gathered: list[Statement] = []
        add = self._add
        add(_PUT_BALANCES, BALANCE, changes.balances.values(), self.balance_row)
        self._add_reservations(changes.new_reservations.values())
        add(
            _CHANGE_RESERVATIONS,
            _CLOSED,
            changes.changed_reservations.values(),
            self._closed_row,
        )
        add(_ADD_SERIES, _SERIES, changes.series.values(), _series_row)
        add(_ADD_RECORDS, _RECORD, changes.records.values(), self._record_row)
        self._add_rollups(changes.rollups, rollups_before)
        add(_ADD_OPERATIONS, _OPERATION, changes.operations.items(), self._operation_row)
        add(_ADD_ANCHORS, _ANCHOR, changes.anchors.items(), _anchor_row)
        self._write_answers(changes, stale_answers)
        return self._gathered

    def _add(
        self,
        sql: str,
        columns: Columns,
        values: Collection[Any],
        row: Callable[[Any], Row],
    ) -> None:
        if values:
            self._gathered.append(Statement(sql, columns, [row(value) for value in values]))

    def _write_answers(self, changes: Changes, stale_answers: Collection[IdempotencyKey]) -> None:
        if not changes.answers:
            return
        replaced = [tuple(key) for key in stale_answers if key in changes.answers]
        if replaced:
            self._gathered.append(Statement(_DROP_ANSWERS, IDEMPOTENCY_KEY, replaced))
        time = self._values.time
        rows = [
            (*key, stored.body_hash, stored.answer.decode(), time(stored.expires_at))
            for key, stored in changes.answers.items()
        ]
        self._gathered.append(Statement(_ADD_ANSWERS, _ANSWER, rows))

    def balance_row(self, balance: BudgetBalance) -> Row:
        time, amount = self._time, self._values.amount
        budget_id, scope_id, period_start = balance.key
        return (
            budget_id,
            scope_id,
            time(period_start),
            balance.tenant_id,
            time(balance.period_end),
            amount(balance.spent),
            amount(balance.reserved),
            amount(balance.throttle_credit),
        )

    def _add_reservations(self, reservations: Collection[Reservation]) -> None:
        """Reservations with their lines, of which most hold the estimate itself, at one rate."""
        amount, began, ends = self._values.amount, self._began, self._ends
        time, day = self._time, self._day
        rows: list[Row] = []
        lines: list[Row] = []
        rate = rate_given = None
        for one in reservations:
            reservation_id, tenant_id, operation = one.reservation_id, one.tenant_id, one.operation
            estimate = one.estimated_cost
            estimate_given = amount(estimate)
            rows.append(
                (
                    reservation_id,
                    tenant_id,
                    str(one.status),
                    operation.resource_type,
                    estimate_given,
                    one.currency,
                    operation.project_id,
                    operation.user_id,
                    operation.feature_id,
                    operation.service_name,
                    _json(operation.tags) if operation.tags else None,
                    one.operation_id,
                    began(one.created_at),
                    ends(one.expires_at),
                    one.record_id,
                    None if one.actual_cost is None else amount(one.actual_cost),
                    one.settlement.decode() if one.settlement else None,
                )
            )
            for line in one.lines:
                budget_id, scope_id, period_start = line.key
                held = line.amount
                if line.rate is not rate:
                    rate, rate_given = line.rate, amount(line.rate)
                lines.append(
                    (
                        reservation_id,
                        budget_id,
                        scope_id,
                        time(period_start),
                        tenant_id,
                        estimate_given if held is estimate else amount(held),
                        rate_given,
                        day(line.rate_date),
                    )
                )
        if rows:
            self._gathered.append(Statement(_ADD_RESERVATIONS, _RESERVATION, rows))
        if lines:
            self._gathered.append(Statement(_ADD_LINES, _LINE, lines))

    def _closed_row(self, reservation: Reservation) -> Row:
        values = self._values
        return (
            reservation.reservation_id,
            str(reservation.status),
            self._ends(reservation.expires_at),
            reservation.record_id,
            None if reservation.actual_cost is None else values.amount(reservation.actual_cost),
            reservation.settlement.decode() if reservation.settlement else None,
        )

    def _record_row(self, record: CostRecord) -> Row:
        values = self._values
        quantity = record.usage_quantity
        return (
            record.record_id,
            self._began(record.timestamp),
            record.tenant_id,
            self._ends(record.recorded_at),
            record.resource_type,
            values.amount(record.cost_amount),
            record.currency,
            str(record.charge_category),
            str(record.attributed_to_type),
            record.attributed_to_id,
            record.project_id,
            record.user_id,
            record.feature_id,
            None if quantity is None else values.amount(quantity),
            record.usage_unit,
            None if record.usage is None else _json(record.usage),
            record.resource_id,
            record.service_name,
            record.region,
            _json(record.tags) if record.tags else None,
            ",".join(record.flags) or None,
            record.reservation_id,
            record.operation_id,
        )

    def _add_rollups(
        self, rollups: Mapping[RollupKey, RollupSum], before: Iterable[Row] | None
    ) -> None:
        if not rollups:
            return
        amount, read_amount = self._values.amount, self._values.read_amount
        found = {} if before is None else {row[0]: row for row in before}
        rows: list[Row] = []
        bucket = bucket_given = None
        for place, ((tenant_id, series_id, start), added) in enumerate(rollups.items()):
            if start is not bucket:
                bucket = start
                bucket_given = self._time(bucket)
            total = added
            if place in found:
                _, cost, quantity, count = found[place]
                total = added.plus(RollupSum(read_amount(cost), read_amount(quantity), count))
            cost, quantity = amount(total.cost_amount), amount(total.usage_quantity)
            rows.append((tenant_id, bucket_given, series_id, cost, quantity, total.record_count))
        sql = _ADD_TO_ROLLUPS if before is None else _PUT_ROLLUPS
        self._gathered.append(Statement(sql, _ROLLUP, rows))

    def _operation_row(self, item: tuple[OperationKey, RecordedOperation]) -> Row:
        (tenant_id, operation_id), recorded = item
        values = self._values
        return (
            tenant_id,
            operation_id,
            recorded.record_id,
            self._time(recorded.recorded_at),
            self._time(recorded.timestamp),
            values.amount(recorded.cost_amount),
            recorded.currency,
        )


def _series_row(series: Series) -> Row:
    return (*series[:-1], _json(dict(series.tags)) if series.tags else None)


def _anchor_row(item: tuple[AnchorKey, tuple[str, date]]) -> Row:
    (budget_id, scope_id), (tenant_id, anchor) = item
    return (budget_id, scope_id, tenant_id, anchor.isoformat())


def _json(value: object) -> str:
    return encode(value).decode()

"""The statements that a ledger's transaction writes costs with, and how their rows are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from fiscus.costs.model import CostRecord
from fiscus.costs.rollups import RollupKey, RollupSum, Series
from fiscus.ledger.port import Changes, OperationKey, RecordedOperation
from fiscus.runtime.repeated import repeated
from fiscus.stores.sql.bulk import Columns, Row, Statement, insert
from fiscus.stores.sql.ledger.driver import Values
from fiscus.wire.encoding import encode

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


class CostRows:
    """Cost records, what they add up to, and the operations they are of."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._time = lru_cache(maxsize=1_000)(values.time)
        self._timestamp = repeated(values.time)
        self._recorded_at = repeated(values.time)

    def statements(self, changes: Changes, rollups_before: Iterable[Row] | None) -> list[Statement]:
        """Everything of costs that a group writes, which has records.

        `rollups_before` are as in `LedgerWriter.statements`.
        """
        records, series, operations = changes.records, changes.series, changes.operations
        gathered = [
            (_ADD_SERIES, _SERIES, [_series_row(one) for one in series.values()]),
            (_ADD_RECORDS, _RECORD, [self._record_row(one) for one in records.values()]),
            self._rollups(changes.rollups, rollups_before),
            (_ADD_OPERATIONS, _OPERATION, [self._operation_row(one) for one in operations.items()]),
        ]
        return [Statement(sql, columns, rows) for sql, columns, rows in gathered if rows]

    def _record_row(self, record: CostRecord) -> Row:
        values = self._values
        quantity = record.usage_quantity
        return (
            record.record_id,
            self._timestamp(record.timestamp),
            record.tenant_id,
            self._recorded_at(record.recorded_at),
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

    def _rollups(
        self, rollups: Mapping[RollupKey, RollupSum], before: Iterable[Row] | None
    ) -> tuple[str, Columns, list[Row]]:
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
        return sql, _ROLLUP, rows

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


def _json(value: object) -> str:
    return encode(value).decode()

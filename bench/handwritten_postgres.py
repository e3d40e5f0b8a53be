"""Hand-written SQL for PostgreSQL; see `handwritten`. One statement per table, rows as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg

from bench.handwritten import (
    expiry,
    keys_of,
    quarter_hour,
    record_rows,
    require_room,
    reservation_rows,
    rollups,
    this_month,
    totals,
)
from bench.workload import Item

_ADD_BALANCES = """
    INSERT INTO budget_periods
        (budget_id, scope_id, period_start, tenant_id, period_end, spent, reserved, throttle_credit)
    SELECT *, 0, 0, 0 FROM
        unnest(%s::uuid[], %s::text[], %s::timestamptz[], %s::text[], %s::timestamptz[])
    ON CONFLICT DO NOTHING
"""
_LOCK_BALANCES = """
    SELECT p.budget_id::text, p.scope_id, p.spent, p.reserved
    FROM unnest(%s::uuid[], %s::text[]) AS k(budget_id, scope_id)
    JOIN budget_periods p
      ON p.budget_id = k.budget_id AND p.scope_id = k.scope_id AND p.period_start = %s
    ORDER BY p.budget_id, p.scope_id FOR UPDATE OF p
"""
_ADD_RESERVATIONS = """
    INSERT INTO reservations (reservation_id, tenant_id, status, resource_type, estimated_cost,
        currency, project_id, user_id, created_at, expires_at, lines)
    SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::numeric[], %s::text[],
        %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::text[])
"""
_ADD_TO_BALANCES = """
    UPDATE budget_periods p SET spent = p.spent + k.spent, reserved = p.reserved + k.reserved
    FROM unnest(%s::uuid[], %s::text[], %s::numeric[], %s::numeric[])
        AS k(budget_id, scope_id, spent, reserved)
    WHERE p.budget_id = k.budget_id AND p.scope_id = k.scope_id AND p.period_start = %s
"""
_ADD_RECORDS = """
    INSERT INTO cost_records (record_id, timestamp, tenant_id, recorded_at, resource_type,
        cost_amount, currency, charge_category, attributed_to_type, attributed_to_id, project_id,
        user_id, usage_quantity, usage_unit)
    SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::text[], %s::timestamptz[], %s::text[],
        %s::numeric[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::numeric[], %s::text[])
"""
_ADD_SERIES = """
    INSERT INTO cost_series (series_id, tenant_id, resource_type, project_id, user_id,
        attributed_to_type, attributed_to_id, charge_category, currency, usage_unit)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::text[], %s::text[], %s::text[], %s::text[])
    ON CONFLICT DO NOTHING
"""
_ADD_ROLLUPS = """
    INSERT INTO cost_rollups
        (tenant_id, bucket, series_id, cost_amount, usage_quantity, record_count)
    SELECT * FROM unnest(%s::text[], %s::timestamptz[], %s::text[], %s::numeric[], %s::numeric[],
        %s::bigint[])
    ON CONFLICT (tenant_id, bucket, series_id) DO UPDATE SET
        cost_amount = cost_rollups.cost_amount + excluded.cost_amount,
        usage_quantity = cost_rollups.usage_quantity + excluded.usage_quantity,
        record_count = cost_rollups.record_count + excluded.record_count
"""


class PostgresWriter:
    """One connection, the budgets' balances made beforehand."""

    def __init__(self, url: str, items: Sequence[Item]) -> None:
        self._connection = open_postgres(url)
        month = this_month()
        self._start = month.start
        balances = {key: item.place.tenant_id for item in items for key in keys_of(item)}
        self._run(
            _ADD_BALANCES,
            *columns([(*key, month.start, of, month.end) for key, of in balances.items()]),
        )
        self._connection.commit()
        self._known_series: set[str] = set()

    def check(self, group: Sequence[Item]) -> None:
        now = datetime.now(UTC)
        added = totals(group)
        reservations = reservation_rows(group, now, expiry(now), self._start, Decimal)
        keys = list(added)
        found = self._run(_LOCK_BALANCES, *columns(keys), self._start).fetchall()
        for budget_id, scope_id, spent, reserved in found:
            require_room(spent, reserved, added[budget_id, scope_id])
        zeros = [0] * len(keys)
        with self._connection.pipeline():
            self._run(_ADD_RESERVATIONS, *columns(reservations))
            self._run(_ADD_TO_BALANCES, *columns(keys), zeros, list(added.values()), self._start)
            self._connection.commit()

    def record(self, group: Sequence[Item]) -> None:
        now = datetime.now(UTC)
        charged = totals(group)
        added = rollups(group)
        bucket = quarter_hour(now)
        new = [one.series for one in added.values() if one.series[0] not in self._known_series]
        with self._connection.pipeline():
            self._run(_ADD_RECORDS, *columns(record_rows(group, now, Decimal)))
            self._run(
                _ADD_TO_BALANCES,
                *columns(list(charged)),
                list(charged.values()),
                [0] * len(charged),
                self._start,
            )
            if new:
                self._run(_ADD_SERIES, *columns(new))
            sums = [
                (one.tenant_id, bucket, series_id, one.cost, one.quantity, one.records)
                for series_id, one in added.items()
            ]
            self._run(_ADD_ROLLUPS, *columns(sums))
            self._connection.commit()
        self._known_series.update(series[0] for series in new)

    def close(self) -> None:
        self._connection.close()

    def _run(self, sql: str, *arrays: Any) -> psycopg.Cursor[Any]:
        return self._connection.execute(sql.encode(), arrays)


def open_postgres(url: str) -> psycopg.Connection[Any]:
    """As the tables' owner, bound by the same row-level security for all tenants."""
    return psycopg.connect(url, options="-c timezone=UTC -c fiscus.tenants=*")


def columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]

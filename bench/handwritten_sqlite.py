"""Hand-written SQL for SQLite; see `handwritten`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

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

_ADD_BALANCE = """
    INSERT INTO budget_periods
        (budget_id, scope_id, period_start, tenant_id, period_end, spent, reserved, throttle_credit)
    VALUES (?, ?, ?, ?, ?, '0', '0', '0')
    ON CONFLICT DO NOTHING
"""
_READ_BALANCE = """
    SELECT spent, reserved FROM budget_periods
    WHERE budget_id = ? AND scope_id = ? AND period_start = ?
"""
_ADD_RESERVATION = """
    INSERT INTO reservations (reservation_id, tenant_id, status, resource_type, estimated_cost,
        currency, project_id, user_id, created_at, expires_at, lines)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SET_RESERVED = """
    UPDATE budget_periods SET reserved = ?
    WHERE budget_id = ? AND scope_id = ? AND period_start = ?
"""
_SET_SPENT = """
    UPDATE budget_periods SET spent = ?
    WHERE budget_id = ? AND scope_id = ? AND period_start = ?
"""
_ADD_RECORD = """
    INSERT INTO cost_records (record_id, timestamp, tenant_id, recorded_at, resource_type,
        cost_amount, currency, charge_category, attributed_to_type, attributed_to_id, project_id,
        user_id, usage_quantity, usage_unit)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_SERIES = """
    INSERT INTO cost_series (series_id, tenant_id, resource_type, project_id, user_id,
        attributed_to_type, attributed_to_id, charge_category, currency, usage_unit)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
_READ_ROLLUP = """
    SELECT cost_amount, usage_quantity, record_count FROM cost_rollups
    WHERE tenant_id = ? AND bucket = ? AND series_id = ?
"""
_PUT_ROLLUP = """
    INSERT OR REPLACE INTO cost_rollups
        (tenant_id, bucket, series_id, cost_amount, usage_quantity, record_count)
    VALUES (?, ?, ?, ?, ?, ?)
"""


class SqliteWriter:
    """One connection, the budgets' balances made beforehand."""

    def __init__(self, path: Path, items: Sequence[Item]) -> None:
        self._connection = open_sqlite(path)
        month = this_month()
        self._began = month.start
        self._start, end = us(month.start), us(month.end)
        balances = {key: item.place.tenant_id for item in items for key in keys_of(item)}
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            _ADD_BALANCE, [(*key, self._start, tenant, end) for key, tenant in balances.items()]
        )
        self._connection.execute("COMMIT")
        self._known_series: set[str] = set()

    def check(self, group: Sequence[Item]) -> None:
        now = datetime.now(UTC)
        run = self._connection.execute
        rows = reservation_rows(group, us(now), us(expiry(now)), self._began, str)
        run("BEGIN IMMEDIATE")
        changed: list[tuple[str, str, str, int]] = []
        for key, more in totals(group).items():
            spent, reserved = run(_READ_BALANCE, (*key, self._start)).fetchone()
            reserved = Decimal(reserved)
            require_room(Decimal(spent), reserved, more)
            changed.append((str(reserved + more), *key, self._start))
        many = self._connection.executemany
        many(_ADD_RESERVATION, rows)
        many(_SET_RESERVED, changed)
        run("COMMIT")

    def record(self, group: Sequence[Item]) -> None:
        now = datetime.now(UTC)
        run, many = self._connection.execute, self._connection.executemany
        records = record_rows(group, us(now), str)
        bucket = us(quarter_hour(now))
        run("BEGIN IMMEDIATE")
        many(_ADD_RECORD, records)
        charged: list[tuple[str, str, str, int]] = []
        for key, more in totals(group).items():
            spent, _ = run(_READ_BALANCE, (*key, self._start)).fetchone()
            charged.append((str(Decimal(spent) + more), *key, self._start))
        many(_SET_SPENT, charged)
        sums: list[tuple[str, int, str, str, str, int]] = []
        new: list[tuple[object, ...]] = []
        for series_id, added in rollups(group).items():
            if series_id not in self._known_series:
                new.append(added.series)
            at = (added.tenant_id, bucket, series_id)
            old = run(_READ_ROLLUP, at).fetchone()
            cost, quantity, count = added.cost, added.quantity, added.records
            if old is not None:
                cost, quantity = cost + Decimal(old[0]), quantity + Decimal(old[1])
                count += old[2]
            sums.append((*at, str(cost), str(quantity), count))
        if new:
            many(_ADD_SERIES, new)
        many(_PUT_ROLLUP, sums)
        run("COMMIT")
        self._known_series.update(str(series[0]) for series in new)

    def close(self) -> None:
        self._connection.close()


def open_sqlite(path: Path) -> sqlite3.Connection:
    """With the pragmas Fiscus uses: WAL, `synchronous=FULL`, fewer checkpoints."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=8000"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)

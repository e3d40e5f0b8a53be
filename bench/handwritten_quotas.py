"""Quota checks by hand-written SQL; see `handwritten`.

A check reads and locks its two balances, sees that each quota has room, and writes the consumption
with its two lines, two rows of the quotas' history, each with what was used by then, and the new
balances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from time import time_ns
from typing import Any, Final, NamedTuple, Protocol

import psycopg

from bench.handwritten import Key, NoRoom, Row, keys_of, totals
from bench.handwritten_postgres import columns, open_postgres
from bench.handwritten_sqlite import open_sqlite, us
from bench.workload import PLENTY, QUOTA_RESOURCE, Item
from fiscus.ids import uuid7

_ZERO: Final = Decimal(0)
_numbers: Final = count(time_ns())
_LINE: Final = '{"key":["%s","%s"],"amount":"%s"}'


class QuotaWriter(Protocol):
    """Writes whole groups, each durable when the call returns."""

    def check(self, group: Sequence[Item]) -> None: ...
    def close(self) -> None: ...


class _Taken(NamedTuple):
    """Rows of `quota_consumptions` and `quota_usage`."""

    consumptions: list[Row]
    usage: list[Row]


def _take(
    group: Sequence[Item], used: dict[Key, Decimal], now: Any, amount: Callable[[Decimal], Any]
) -> _Taken:
    """What a group writes; adds to `used`. Raises `NoRoom`."""
    taken = _Taken([], [])
    zero = amount(_ZERO)
    for item in group:
        tenant_id, project_id, user_id = item.place.tenant_id, item.place.project_id, item.user_id
        consumption_id = uuid7()
        shown = amount(item.amount)
        lines: list[str] = []
        for key in keys_of(item):
            after = used[key] + item.amount
            if after > PLENTY:
                raise NoRoom
            used[key] = after
            lines.append(_LINE % (*key, item.amount))
            taken.usage.append(
                (
                    next(_numbers),
                    now,
                    tenant_id,
                    *key,
                    "consume",
                    shown,
                    zero,
                    amount(after),
                    consumption_id,
                )
            )
        taken.consumptions.append(
            (
                consumption_id,
                tenant_id,
                QUOTA_RESOURCE,
                shown,
                zero,
                project_id,
                user_id,
                now,
                f"[{','.join(lines)}]",
            )
        )
    return taken


# ---------------------------------------------------------------- SQLite

_ADD_BALANCE = """
    INSERT INTO quota_balances (quota_id, scope_id, tenant_id, used, burst_used)
    VALUES (?, ?, ?, '0', '0')
"""
_READ_BALANCE = "SELECT used FROM quota_balances WHERE quota_id = ? AND scope_id = ?"
_SET_BALANCE = "UPDATE quota_balances SET used = ? WHERE quota_id = ? AND scope_id = ?"
_ADD_CONSUMPTION = """
    INSERT INTO quota_consumptions (consumption_id, tenant_id, resource_type, amount, released,
        project_id, user_id, created_at, lines)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_USAGE = """
    INSERT INTO quota_usage (usage_id, at, tenant_id, quota_id, scope_id, kind, amount, burst,
        used_after, consumption_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class SqliteQuotaWriter:
    """One connection, the quotas' balances made beforehand."""

    def __init__(self, path: Path, items: Sequence[Item]) -> None:
        self._connection = open_sqlite(path)
        balances = {key: item.place.tenant_id for item in items for key in keys_of(item)}
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            _ADD_BALANCE, [(*key, tenant_id) for key, tenant_id in balances.items()]
        )
        self._connection.execute("COMMIT")

    def check(self, group: Sequence[Item]) -> None:
        run, many = self._connection.execute, self._connection.executemany
        now = us(datetime.now(UTC))
        run("BEGIN IMMEDIATE")
        used = {key: Decimal(run(_READ_BALANCE, key).fetchone()[0]) for key in totals(group)}
        taken = _take(group, used, now, str)
        many(_ADD_CONSUMPTION, taken.consumptions)
        many(_ADD_USAGE, taken.usage)
        many(_SET_BALANCE, [(str(amount), *key) for key, amount in used.items()])
        run("COMMIT")

    def close(self) -> None:
        self._connection.close()


# ---------------------------------------------------------------- PostgreSQL

_ADD_BALANCES = """
    INSERT INTO quota_balances (quota_id, scope_id, tenant_id, used, burst_used)
    SELECT *, 0, 0 FROM unnest(%s::uuid[], %s::text[], %s::text[])
"""
_LOCK_BALANCES = """
    SELECT q.quota_id::text, q.scope_id, q.used
    FROM unnest(%s::uuid[], %s::text[]) AS k(quota_id, scope_id)
    JOIN quota_balances q ON q.quota_id = k.quota_id AND q.scope_id = k.scope_id
    ORDER BY q.quota_id, q.scope_id FOR UPDATE OF q
"""
_SET_BALANCES = """
    UPDATE quota_balances q SET used = k.used
    FROM unnest(%s::uuid[], %s::text[], %s::numeric[]) AS k(quota_id, scope_id, used)
    WHERE q.quota_id = k.quota_id AND q.scope_id = k.scope_id
"""
_ADD_CONSUMPTIONS = """
    INSERT INTO quota_consumptions (consumption_id, tenant_id, resource_type, amount, released,
        project_id, user_id, created_at, lines)
    SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::numeric[], %s::numeric[],
        %s::text[], %s::text[], %s::timestamptz[], %s::text[])
"""
_ADD_USAGES = """
    INSERT INTO quota_usage (usage_id, at, tenant_id, quota_id, scope_id, kind, amount, burst,
        used_after, consumption_id)
    SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::text[], %s::uuid[], %s::text[],
        %s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::uuid[])
"""


class PostgresQuotaWriter:
    """One connection, the quotas' balances made beforehand."""

    def __init__(self, url: str, items: Sequence[Item]) -> None:
        self._connection = open_postgres(url)
        balances = {key: item.place.tenant_id for item in items for key in keys_of(item)}
        self._run(_ADD_BALANCES, [(*key, tenant_id) for key, tenant_id in balances.items()])
        self._connection.commit()

    def check(self, group: Sequence[Item]) -> None:
        now = datetime.now(UTC)
        found = self._run(_LOCK_BALANCES, list(totals(group))).fetchall()
        used: dict[Key, Decimal] = {
            (quota_id, scope_id): amount for quota_id, scope_id, amount in found
        }
        taken = _take(group, used, now, Decimal)
        with self._connection.pipeline():
            self._run(_ADD_CONSUMPTIONS, taken.consumptions)
            self._run(_ADD_USAGES, taken.usage)
            self._run(_SET_BALANCES, [(*key, amount) for key, amount in used.items()])
            self._connection.commit()

    def close(self) -> None:
        self._connection.close()

    def _run(self, sql: str, rows: Sequence[Row]) -> psycopg.Cursor[Any]:
        return self._connection.execute(sql.encode(), columns(rows))

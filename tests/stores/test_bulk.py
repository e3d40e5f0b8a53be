"""Rows arrive as they were given, however few values say them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from fiscus.ids import uuid7
from fiscus.stores.sql import bulk
from fiscus.stores.sql.bulk import Columns, Statement, insert
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.ledger.driver import Driver
from fiscus.stores.sql.postgres import driver as postgres
from fiscus.stores.sql.postgres.driver import PostgresDriver
from fiscus.stores.sql.sqlite import driver as sqlite
from fiscus.stores.sql.sqlite.driver import SqliteDriver
from fiscus.stores.sql.sqlite.write_lock import WriteLock

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TYPES = {
    "reservation_id": "uuid",
    "tenant_id": "text",
    "status": "text",
    "resource_type": "text",
    "estimated_cost": "numeric",
    "currency": "text",
    "project_id": "text",
    "user_id": "text",
    "created_at": "timestamptz",
    "expires_at": "timestamptz",
}
MAY_BE_ALIKE = ("status", "resource_type", "estimated_cost", "currency", "project_id", "user_id")
READ = f"""
    SELECT r.place, {", ".join(f"v.{name}" for name in TYPES if name != "reservation_id")}
    FROM {{rows}} JOIN reservations v
      ON v.reservation_id = r.reservation_id AND v.status = r.status
"""
KEY = Columns(alike=("status",), reservation_id="uuid", status="text", place="integer")


@pytest.fixture
def driver(database: Database) -> Iterator[Driver]:
    if not database.is_sqlite:
        with closing(PostgresDriver(database.connect_psycopg, deadline_seconds=2)) as postgres:
            yield postgres
        return
    with (
        closing(WriteLock(database.sqlite_path)) as write_lock,
        closing(SqliteDriver(database.sqlite_path, "OFF", write_lock)) as sqlite,
    ):
        yield sqlite


def some_rows(random: Random, driver: Driver) -> list[tuple[Any, ...]]:
    """Up to 150 rows; in each column that may be they are alike, mixed or without a value."""
    amount = driver.amount
    values = {
        "status": ["pending", "settled"],
        "resource_type": ["llm", 'a "quoted" one', "ümläut, {brace}"],
        "estimated_cost": [amount(Decimal("1.5")), amount(Decimal("0.000000000001"))],
        "currency": ["USD", "EUR"],
        "project_id": [None, "p", "q"],
        "user_id": [None, "u", "\\"],
    }
    offered = {name: random.choice([some, some[:1], some[-1:]]) for name, some in values.items()}
    time = driver.time(NOW)
    return [
        (uuid7(), "t", *(random.choice(offered[name]) for name in MAY_BE_ALIKE), time, time)
        for _ in range(random.choice([1, 2, 7, 150]))
    ]


def test_rows_that_are_partly_alike_arrive_as_they_were(driver: Driver) -> None:
    random = Random(20261127)
    given_once = set[int]()
    # a few, as in the ledger: columns remember how rows of theirs were said before
    columns = [
        Columns(None, alike=MAY_BE_ALIKE[:some], **TYPES) for some in (0, 3, len(MAY_BE_ALIKE))
    ]
    for _ in range(90):
        rows = some_rows(random, driver)
        written = Statement(insert("reservations"), random.choice(columns), rows)
        given_once.add(len(written.lean().once))
        keys = [(row[0], row[2], place) for place, row in enumerate(rows)]
        look = Statement(READ, KEY, keys)
        driver.begin({"t"}, patient=True)
        driver.run([written])
        (found,) = driver.run([look])
        driver.rollback()
        assert [tuple(row[1:]) for row in sorted(found)] == [row[1:] for row in rows]
    assert given_once == set(range(len(MAY_BE_ALIKE) + 1))


def test_what_is_kept_for_shapes_of_rows_is_bounded(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bulk, postgres, sqlite):
        monkeypatch.setattr(module, "SHAPES_KEPT", 4)
    columns, random, shapes = Columns(None, alike=MAY_BE_ALIKE, **TYPES), Random(20261129), set()
    for _ in range(40):
        written = Statement(insert("reservations"), columns, some_rows(random, driver))
        shapes.add(written.lean().columns.list)
        driver.begin({"t"}, patient=True)
        driver.run([written])
        driver.rollback()
        assert len(columns._fewer) <= 4
        assert isinstance(driver, PostgresDriver | SqliteDriver)
        assert len(driver._texts) <= 4
    assert len(shapes) > 4

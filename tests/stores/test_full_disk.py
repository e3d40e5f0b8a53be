"""A database whose disk is full: what is told of it, and what becomes of it once there is room."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from fiscus.errors import ServiceUnavailable
from fiscus.health import health_of
from fiscus.stores.sql import database, migrate
from fiscus.stores.sql.sqlite import driver
from fiscus.stores.sql.sqlite.connections import configure
from tests.stores.conftest import Tenant

PAGES = 1_000_000
ENOUGH = 500
"""So many writes need another page of SQLite's."""
REFUSE = """
    CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file: No space left on device'
                USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER no_room BEFORE INSERT ON budgets EXECUTE FUNCTION no_room();
    CREATE TRIGGER no_room BEFORE INSERT ON reservations EXECUTE FUNCTION no_room();
"""
"""PostgreSQL then answers as it does when its disk is full."""


class Disk:
    """That of a database; opened before those who write to it."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._url = url
        self._is_sqlite = url.startswith("sqlite")
        self._connections: list[sqlite3.Connection] = []

        def remembering(connection: sqlite3.Connection, synchronous: str) -> None:
            configure(connection, synchronous)
            self._connections.append(connection)

        for module in (database, driver):
            monkeypatch.setattr(module, "configure", remembering)

    @contextmanager
    def full(self) -> Iterator[None]:
        if self._is_sqlite:
            self._pages(1)  # or as many as there are
        else:
            self._execute(REFUSE)
        try:
            yield
        finally:
            if self._is_sqlite:
                self._pages(PAGES)
            else:
                self._execute("DROP FUNCTION no_room CASCADE")

    def _pages(self, most: int) -> None:
        for connection in self._connections:
            connection.execute(f"PRAGMA max_page_count = {most}")

    def _execute(self, sql: Any) -> None:
        with psycopg.connect(self._url) as connection:
            connection.execute(sql)


@pytest.fixture
def disk(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(database_url, monkeypatch)


def again_and_again(write: Callable[[], object]) -> None:
    for _ in range(ENOUGH):
        write()


def test_a_full_disk_is_told_and_all_goes_on_once_there_is_room(disk: Disk, acme: Tenant) -> None:
    acme.budget()
    assert acme.check("0.01").allowed
    with disk.full():
        with pytest.raises(ServiceUnavailable, match="disk is full; nothing was decided") as check:
            again_and_again(lambda: acme.check("0.01"))
        with pytest.raises(ServiceUnavailable, match="disk is full") as change:
            again_and_again(acme.budget)
        for caught in (check, change):
            assert caught.value.retriable
            assert "room made" in (caught.value.suggested_action or "")
        told = "ledger: commands fail: the database's disk is full; make room on it"
        assert told in health_of(acme.engine, "c").reasons
    assert acme.check("0.01").allowed
    assert acme.budget().budget_id
    assert acme.engine.ledger.trouble is None


def test_what_budgets_allow_on_a_full_disk_says_why(disk: Disk, acme: Tenant) -> None:
    acme.budget(on_store_failure="allow")
    assert not acme.check("0.01").degraded
    with disk.full():
        answers = (acme.check("0.01") for _ in range(ENOUGH))
        degraded = next(one for one in answers if one.degraded)
    assert degraded.message == (
        "The database's disk is full; the matching budgets allow operations meanwhile."
    )


@pytest.mark.skipif(sys.platform == "win32", reason="files have no limit there")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_finds_no_room_to_be_opened_says_so(database_url: str) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ServiceUnavailable, match="disk is full"):
            migrate.status(database_url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(one.applied for one in migrate.status(database_url))

"""How long a read may take: less than who waits for its answer does."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

from fiscus.client.clients import MAX_RETRIES, TIMEOUT_SECONDS, TOTAL_SECONDS
from fiscus.client.retries import Attempts, RetryPolicy
from fiscus.errors import ServiceUnavailable
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.postgres import answering

COUNTED: Final = sa.text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most) "
    "SELECT max(i) FROM n"
)


def test_a_read_that_takes_too_long_is_ended_and_the_next_is_as_ever(database: Database) -> None:
    with (
        pytest.raises(ServiceUnavailable, match="would take longer") as caught,
        database.read_in_time(0.05, "t") as connection,
    ):
        connection.execute(COUNTED, {"most": 10**9})
    assert "Ask for less" in (caught.value.suggested_action or "")
    with database.read("t") as connection:
        # many steps of SQLite's, but few
        assert connection.execute(COUNTED, {"most": 300_000}).scalar_one() == 300_000


def test_what_took_too_long_is_not_asked_again_by_a_client_itself(database: Database) -> None:
    with (
        pytest.raises(ServiceUnavailable) as caught,
        database.read_in_time(0.05, "t") as connection,
    ):
        connection.execute(COUNTED, {"most": 10**9})
    attempts = Attempts(RetryPolicy(TIMEOUT_SECONDS, MAX_RETRIES, TOTAL_SECONDS), started=0.0)
    assert attempts.pause_seconds(0.0, caught.value.retry_after_seconds) is None
    assert caught.value.retriable


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_read_on_sqlite_may_take_no_longer_than_a_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiscus.stores.sql.database.STATEMENT_SECONDS", 0.05)
    with (
        pytest.raises(ServiceUnavailable, match="would take longer"),
        database.read("t") as connection,
    ):
        connection.execute(COUNTED, {"most": 10**9})
    with database.read_at_length("t") as connection:
        assert connection.execute(COUNTED, {"most": 3_000_000}).scalar_one() == 3_000_000


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_statement_is_ended_before_a_client_gives_up(database: Database) -> None:
    with database.read("t") as connection:
        most = "SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"
        most_seconds = connection.execute(sa.text(most)).scalar_one() / 1000
    given_up_seconds = answering.MAX_LOOKS * answering.LOOK_SECONDS
    assert most_seconds < given_up_seconds < TIMEOUT_SECONDS


def test_a_read_in_time_of_a_damaged_file_says_what_is_wrong(
    tmp_path: Path, migrated: Path
) -> None:
    path = Path(shutil.copy(migrated / "fiscus.db", tmp_path))
    with closing(sqlite3.connect(path)) as connection:
        table = "SELECT rootpage FROM sqlite_schema WHERE name = 'budgets'"
        ((page,),) = connection.execute(table)
        ((page_bytes,),) = connection.execute("PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xa5" * page_bytes)
    with (
        closing(Database(f"sqlite:///{path}")) as database,
        pytest.raises(ServiceUnavailable, match="cannot be read"),
        database.read_in_time(5, "t") as connection,
    ):
        connection.execute(sa.text("SELECT * FROM budgets"))

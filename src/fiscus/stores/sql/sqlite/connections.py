"""Connections to SQLite: what each needs, and how one is ended that reads for too long."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Final

from fiscus.money import ZERO, add
from fiscus.stores.sql.sqlite.files import existing

BUSY_TIMEOUT_MS: Final = 5_000
_TRY_SECONDS: Final = 0.01
_STEPS: Final = 1_000_000
"""Of SQLite's own, some 50 ms, until one that may be interrupted asks whether it is."""
# A checkpoint writes each changed page once however often it changed: every 32 MiB, not 4.
CHECKPOINT_PAGES: Final = 8_000


class DecimalSum:
    """The exact aggregate `decimal_sum`, registered with SQLite; NULLs do not count."""

    def __init__(self) -> None:
        self._total = ZERO

    def step(self, value: str | None) -> None:
        if value is not None:
            self._total = add(self._total, Decimal(value))

    def finalize(self) -> str:
        return format(self._total, "f")


def configure(connection: sqlite3.Connection, synchronous: str) -> None:
    """What every connection to the store needs, reading or writing."""
    _use_wal(connection)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    # What a statement that can be undone alone keeps of the pages it changes need not be a file.
    connection.execute("PRAGMA temp_store = MEMORY")
    # Its own knows ASCII only.
    connection.create_function("lower", 1, str.lower, deterministic=True)
    # The stub knows aggregates of integers only.
    connection.create_aggregate("decimal_sum", 1, DecimalSum)  # pyright: ignore[reportArgumentType]


@contextmanager
def ended_after(seconds: float, connection: sqlite3.Connection) -> Generator[None]:
    """What is read meanwhile is interrupted when it takes longer: an `OperationalError`."""
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() >= deadline, _STEPS)
    try:
        yield
    finally:
        with suppress(sqlite3.ProgrammingError):  # closed meanwhile, as its file is damaged
            connection.set_progress_handler(None, _STEPS)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Have the database journaled ahead, which is for good.

    SQLite does not wait when another connection is in the way of that, so two that are the first
    would fail one of them.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_TRY_SECONDS)
        else:
            return


def read_some(path: Path) -> None:
    """Read where each table begins, from the file and not from what a connection remembers of it.

    Raises `sqlite3.Error`. Damage further inside is met by who reads there: to look for it would
    take as long as to read everything.
    """
    with closing(sqlite3.connect(existing(path), uri=True)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        for (name,) in tables.fetchall():
            connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()

"""SQLite: what each connection needs; and a ledger's driver, which writes, durable on commit."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import date, datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from fiscus.clock import from_us, to_us
from fiscus.ledger.port import GroupConflict, GroupRejected, StoreFull, StoreUnavailable
from fiscus.money import ZERO, add
from fiscus.stores.sql.bulk import PADDING, SHAPES_KEPT, Columns, Row, Statement
from fiscus.stores.sql.sqlite.files import FileId, existing, file_at, log_beside
from fiscus.stores.sql.sqlite.write_lock import WriteLock

BUSY_TIMEOUT_MS: Final = 5_000
_TRY_SECONDS: Final = 0.01
_STEPS: Final = 1_000_000
"""Of SQLite's own, some 50 ms, until one that may be interrupted asks whether it is."""
# A checkpoint writes each changed page once however often it changed: every 32 MiB, not 4.
CHECKPOINT_PAGES: Final = 8_000
LARGEST_CHUNK: Final = 128
# A row that is refused undoes the whole transaction, as its group does anyhow. To undo but the
# statement, SQLite would first copy every page that it changes.
_CHANGE: Final = re.compile(r"^\s*(INSERT|UPDATE)\b")
_LOCK: Final = re.compile(r"\{lock_\w\}")
_TEXT: Final = re.compile(r"\{text:([\w.]+)\}")


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


def must_reopen(error: sqlite3.Error) -> bool:
    """Whether only a new connection may find things mended: what it knows of a damaged file may be
    wrong, and where it could not write when it was opened it never will."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return is_damage(error) or code & 0xFF == sqlite3.SQLITE_READONLY


def was_interrupted(error: BaseException | None) -> bool:
    """Whether it comes of `ended_after`."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code == sqlite3.SQLITE_INTERRUPT


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, or none of SQLite's, which no statement is to blame for."""
    # made by the module itself, an error has no code
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk has no room for what is written, or for the index of the log."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}


class SqliteDriver:
    """One connection in its owner's thread; a whole transaction holds the write lock."""

    locks_store = True

    def __init__(self, path: Path, synchronous: str, write_lock: WriteLock) -> None:
        self._path = path
        self._log_path = log_beside(path)
        self._synchronous = synchronous
        self._write_lock = write_lock
        self._connection: sqlite3.Connection | None = None
        self._file: FileId | None = None
        self._log: FileId | None = None
        """Of `_connection`, once it has begun something."""
        self._open = False
        self._texts: dict[tuple[str, Columns, int], str] = {}
        self._read = msgspec.json.Decoder(list[tuple[Any, ...]]).decode

    def time(self, moment: datetime) -> int:
        return to_us(moment)

    def amount(self, amount: Decimal) -> str:
        text = str(amount)
        return format(amount, "f") if "E" in text else text

    def read_time(self, value: Any) -> datetime:
        return from_us(value)

    def read_date(self, value: Any) -> date:
        return date.fromisoformat(value)

    def read_amount(self, value: Any) -> Decimal:
        return Decimal(value)

    def begin(self, tenants: Collection[str], *, patient: bool) -> None:
        del tenants, patient  # a transaction has the whole store to itself
        try:
            self._write_lock.acquire()
        except OSError as error:
            raise StoreUnavailable(f"SQLite: {error}") from error
        self._open = True
        try:
            if self._connection is None:
                self._connection = self._connect()
            if self._file != file_at(self._path):
                raise sqlite3.OperationalError("the file was removed or replaced")
            self._connection.execute("BEGIN IMMEDIATE")
            log = file_at(self._log_path)
            self._log = self._log or log
            if log is None or log != self._log:
                raise sqlite3.OperationalError("the log beside the file was removed or replaced")
        except sqlite3.Error as error:
            self.rollback()
            if must_reopen(error):
                self.close()
            raise _unavailable(error) from error

    def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        assert self._connection is not None
        try:
            return [self._execute(self._connection, statement) for statement in statements]
        except sqlite3.IntegrityError as error:
            raise GroupConflict(str(error)) from error
        except sqlite3.OperationalError as error:
            raise _unavailable(error) from error
        except sqlite3.Error as error:
            if is_damage(error):
                self.close()  # somebody may put another file in its place
                raise _unavailable(error) from error
            raise GroupRejected(f"SQLite: {error}") from error

    def commit(self, statements: Sequence[Statement]) -> None:
        assert self._connection is not None
        self.run(statements)
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unavailable(error) from error
        self._end()

    def rollback(self) -> None:
        if not self._open:
            return
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()
        finally:
            self._end()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            existing(self._path),
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=SHAPES_KEPT,
        )
        try:
            configure(connection, self._synchronous)
        except sqlite3.Error:
            connection.close()
            raise
        self._file = self._file or file_at(self._path)
        self._log = None
        return connection

    def _end(self) -> None:
        self._open = False
        self._write_lock.release()

    def _execute(self, connection: sqlite3.Connection, statement: Statement) -> list[Row]:
        """Run a statement in few steps: each lets go of Python's lock and waits to get it back.

        Rows to read therefore come as one JSON array, rows to write go in large chunks.
        """
        found: list[Row] = []
        statement = statement.lean()
        _, columns, rows, once = statement
        for start in range(0, len(rows), LARGEST_CHUNK):
            chunk = rows[start : start + LARGEST_CHUNK]
            count = _padded(len(chunk))
            parameters = [*once, *chain.from_iterable(chunk)]
            parameters += [PADDING] * (columns.width * (count - len(chunk)))
            cursor = connection.execute(self._text(connection, statement, count), parameters)
            if statement.reads:
                found += self._read(cursor.fetchone()[0])
        return found

    def _text(self, connection: sqlite3.Connection, statement: Statement, count: int) -> str:
        """A statement as SQLite takes it, for so many rows."""
        key = statement.sql, statement.columns, count
        text = self._texts.get(key)
        if text is None:
            text = _LOCK.sub("", statement.sql)
            text = _TEXT.sub(r"\1", text)
            text = _CHANGE.sub(r"\1 OR ROLLBACK", text)
            text = text.replace("{columns}", statement.columns.list)
            text = text.replace("{rows}", statement.columns.values(count))
            if statement.reads:
                answered = ", ".join(f"c{i}" for i in range(_width(connection, text)))
                rows_as_json = f"SELECT json_group_array(json_array({answered})) FROM q"
                text = f"WITH q({answered}) AS ({text}) {rows_as_json}"
            if len(self._texts) >= SHAPES_KEPT:
                self._texts.clear()
            self._texts[key] = text
        return text


def _unavailable(error: sqlite3.Error) -> StoreUnavailable:
    kind = StoreFull if is_full(error) else StoreUnavailable
    return kind(f"SQLite: {error}")


def _padded(count: int) -> int:
    """`count` rounded up, so that few lengths of each statement are prepared."""
    return count if count <= 2 else -(-count // 8) * 8


def _width(connection: sqlite3.Connection, text: str) -> int:
    """How many columns a query answers."""
    nothing = [None] * text.count("?")
    description: Sequence[Any] = connection.execute(text, nothing).description
    return len(description)

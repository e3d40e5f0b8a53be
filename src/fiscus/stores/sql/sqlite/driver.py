"""SQLite as a ledger's driver, which writes, durable on commit."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from fiscus.clock import from_us, to_us
from fiscus.ledger.port import GroupConflict, GroupRejected, StoreFull, StoreUnavailable
from fiscus.stores.sql.bulk import PADDING, SHAPES_KEPT, Columns, Row, Statement
from fiscus.stores.sql.sqlite.connections import configure
from fiscus.stores.sql.sqlite.errors import is_damage, is_full, must_reopen
from fiscus.stores.sql.sqlite.files import FileId, existing, file_at, log_beside
from fiscus.stores.sql.sqlite.write_lock import WriteLock

LARGEST_CHUNK: Final = 128
# A row that is refused undoes the whole transaction, as its group does anyhow. To undo but the
# statement, SQLite would first copy every page that it changes.
_CHANGE: Final = re.compile(r"^\s*(INSERT|UPDATE)\b")
_LOCK: Final = re.compile(r"\{lock_\w\}")
_TEXT: Final = re.compile(r"\{text:([\w.]+)\}")


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
        self._data_version: int | None = None
        """Of `_connection`, which another one's commits change; None before it was asked for."""
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

    def others_wrote(self) -> bool:
        assert self._connection is not None
        before = self._data_version
        try:
            found = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise _unavailable(error) from error
        self._data_version = found[0]
        return self._data_version != before

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
        self._log = self._data_version = None
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

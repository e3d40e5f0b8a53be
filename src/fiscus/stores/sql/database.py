"""One database, SQLite or PostgreSQL: how to connect, read, change definitions, and be a ledger.

Reads and definitions use SQLAlchemy on a pool; the ledger has a connection of its own.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, contextmanager
from math import inf
from pathlib import Path
from random import uniform
from typing import Any, Final, Literal, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection

from fiscus.errors import FiscusError, ServiceUnavailable
from fiscus.runtime.portions import ShouldContinue
from fiscus.stores.sql.failures import (
    disk_full,
    is_full,
    not_writable,
    perhaps_changed,
    takes_too_long,
    unavailable,
    unusable,
)
from fiscus.stores.sql.ledger.read import USE_SEED
from fiscus.stores.sql.ledger.store import SqlLedgerStore
from fiscus.stores.sql.postgres.answering import STATEMENT_SECONDS, AnsweringConnection
from fiscus.stores.sql.postgres.connections import (
    become_app_role,
    connect_answering,
    postgres_options,
)
from fiscus.stores.sql.postgres.driver import PostgresDriver
from fiscus.stores.sql.postgres.errors import may_have_committed
from fiscus.stores.sql.sqlite import files, forks
from fiscus.stores.sql.sqlite.connections import configure, ended_after
from fiscus.stores.sql.sqlite.driver import SqliteDriver
from fiscus.stores.sql.sqlite.errors import must_reopen, was_interrupted
from fiscus.stores.sql.sqlite.files import FileId, file_at
from fiscus.stores.sql.sqlite.write_lock import WriteLock
from fiscus.stores.sql.urls import DATABASE_SETTING, parse_url, unwritable_file

T = TypeVar("T")

Synchronous = Literal["FULL", "NORMAL", "OFF"]

ALL_TENANTS: Final = "*"
"""For the few statements that are no tenant's: finding an API key, the worker's rounds."""

HARDLY_WAIT: Final = sa.text(
    "SELECT set_config('lock_timeout', '100ms', true), set_config('statement_timeout', '1s', true)"
)
"""For changes of tables on PostgreSQL, which can be made later: whoever comes after one that waits
waits too, and then until it is made."""

_IN_ORDER: Final = sa.text("SELECT set_config('enable_sort', 'off', true)")
"""For the oldest rows of many on PostgreSQL, which takes row-level security to let few through, so
that it expects less than is asked for, and would sort the whole table to find so little."""

_IN_TIME: Final = sa.text("SELECT set_config('statement_timeout', :most, true)")

_WRITE_ATTEMPTS: Final = 5
_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant, :seed))")
_TURN_SEED: Final = 0x666973637573


class Database:
    """Open connections to one database.

    `url` is `sqlite:///path` or `postgresql://user@host/name`; `sqlite_synchronous` is SQLite's
    durability (`FULL`: a commit survives a power cut).
    """

    def __init__(
        self, url: str, *, sqlite_synchronous: Synchronous = "FULL", pool_size: int = 8
    ) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._synchronous = sqlite_synchronous
        self._file: FileId | None = None
        """SQLite's file, once it was opened."""
        self.engine = self._make_engine(pool_size)
        self._write_lock = WriteLock.at(self.sqlite_path) if self.is_sqlite else None
        self._snapshots = (
            self.engine
            if self.is_sqlite
            else self.engine.execution_options(isolation_level="REPEATABLE READ")
        )
        if self.is_sqlite:
            forks.register(self)

    @property
    def sqlite_path(self) -> Path:
        assert self.url.database is not None
        return Path(self.url.database)

    def ledger_store(self, deadline_seconds: float = 2.0) -> SqlLedgerStore:
        """`deadline_seconds`: how long the ledger's callers wait."""
        if self._write_lock is not None:
            return SqlLedgerStore(
                SqliteDriver(self.sqlite_path, self._synchronous, self._write_lock)
            )
        return SqlLedgerStore(PostgresDriver(self.connect_psycopg, deadline_seconds))

    @property
    def has_its_file(self) -> bool:
        """Whether the file that SQLite writes to is still where it was opened."""
        return self._file is None or self._file == file_at(self.sqlite_path)

    def read(self, *tenants: str) -> AbstractContextManager[Connection]:
        """A connection that sees the rows of `tenants` only, in all its statements as they are now:
        what several of them tell is one state, whatever is committed in between.

        Raises `ServiceUnavailable`, also when a statement takes longer than `STATEMENT_SECONDS`; on
        SQLite when all of them together do.
        """
        return self._read(STATEMENT_SECONDS, tenants)

    def read_at_length(self, *tenants: str) -> AbstractContextManager[Connection]:
        """As `read`, for statements that may take longer than an answer may."""
        return self._read(inf, tenants)

    def read_in_time(self, seconds: float, *tenants: str) -> AbstractContextManager[Connection]:
        """As `read`, for what nobody needs enough to have it take longer than `seconds`."""
        return self._read(seconds, tenants)

    def write(self, tenant: str, change: Callable[[Connection], T]) -> T:
        """Run `change` on the rows of `tenant` in one transaction and commit it; what it returns.

        Changes of one tenant take turns, on SQLite all changes do, so what `change` reads stays
        true until it is committed, whatever another such change does. The ledger takes no part in
        these turns: it locks the rows it decides from. `change` may run more than once.

        Raises `ServiceUnavailable`, as `OutcomeUnknown` when the change may have been made.
        """
        for attempt in range(_WRITE_ATTEMPTS):
            try:
                return self._write_once(tenant, change)
            except exc.DBAPIError as error:
                if _may_try_again(error) and attempt < _WRITE_ATTEMPTS - 1:
                    time.sleep(uniform(0.001, 0.01) * 2**attempt)  # noqa: S311 - not a secret
                    continue
                if (failure := self._failure(error)) is None:
                    raise
                raise failure from error
            except exc.TimeoutError as error:
                raise unavailable() from error
            except OSError as error:
                raise self._unavailable() from error
        raise AssertionError("the last attempt returns or raises")

    def drop_in_portions(self, delete: sa.Delete, goes_on: ShouldContinue) -> int:
        """Run a delete that takes some of the rows until it finds none; how many it found.

        Each time is a transaction of its own, so that others have their turns in between.
        """

        def drop(connection: Connection) -> int:
            if not self.is_sqlite:
                connection.execute(_IN_ORDER)
            return connection.execute(delete).rowcount

        dropped = 0
        while goes_on() and (some := self.write(ALL_TENANTS, drop)):
            dropped += some
        return dropped

    def without_groups(self, connection: Connection, tenant: str) -> None:
        """Within `write`: wait for the ledger's groups with this tenant, and have the others wait.

        For changes that only an unused definition may undergo: what groups before have used is seen
        from here on, and those after see the change. (On SQLite a change has all that by its turn.)
        """
        if not self.is_sqlite:
            connection.execute(_LOCK, {"seed": USE_SEED, "tenant": tenant})

    def close(self) -> None:
        self.engine.dispose()
        forks.unregister(self)
        if self._write_lock is not None:
            self._write_lock.close()

    def _write_once(self, tenant: str, change: Callable[[Connection], T]) -> T:
        if self._write_lock is not None:
            with self._write_lock.held(), self.engine.connect() as connection:
                if not self.has_its_file:
                    raise unavailable()  # nobody would ever find what is written now
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                log = file_at(files.log_beside(self.sqlite_path))
                if log is None or log != connection.info.setdefault("log", log):
                    raise unavailable()
                result = change(connection)
                connection.commit()
                return result
        with self.engine.connect() as connection:
            # At READ COMMITTED every statement after this one sees what the turn before committed.
            # SERIALIZABLE would take its snapshot first and abort all but one of those who waited.
            connection.execute(_LOCK, {"seed": _TURN_SEED, "tenant": tenant})
            self._set_tenants(connection, [tenant])
            result = change(connection)
            try:
                connection.commit()
            except exc.DBAPIError as error:
                if may_have_committed(error.orig):
                    raise perhaps_changed() from error
                raise
            return result

    @contextmanager
    def _read(self, seconds: float, tenants: Collection[str]) -> Generator[Connection]:
        try:
            with self._snapshots.connect() as connection:
                if self.is_sqlite:
                    connection.exec_driver_sql("BEGIN")
                self._set_tenants(connection, tenants)
                with _ended_after(seconds, connection):
                    yield connection
        except exc.TimeoutError as error:
            raise unavailable() from error
        except exc.DBAPIError as error:
            if (failure := self._failure(error)) is None:
                raise
            raise failure from error

    def _set_tenants(self, connection: Connection, tenants: Collection[str]) -> None:
        if not self.is_sqlite:
            connection.execute(
                sa.text("SELECT set_config('fiscus.tenants', :tenants, true)"),
                {"tenants": ",".join(tenants)},
            )

    def _failure(self, error: exc.DBAPIError) -> FiscusError | None:
        """What to raise when the store is to blame; None when what was asked of it is.

        Internal errors of PostgreSQL tell of a server that may only be read or of damaged files.
        """
        if isinstance(error.orig, psycopg.errors.QueryCanceled) or was_interrupted(error.orig):
            return takes_too_long()
        if is_full(error):
            return disk_full()
        if isinstance(error, exc.OperationalError | exc.InternalError):
            return self._unavailable()
        return unusable(error)

    def _unavailable(self) -> ServiceUnavailable:
        refused = files.unwritable(self.sqlite_path) if self.is_sqlite else None
        return unavailable() if refused is None else not_writable(refused)

    def _make_engine(self, pool_size: int) -> sa.Engine:
        if self.is_sqlite:
            files.make_folder(self.sqlite_path.parent, DATABASE_SETTING)
            engine = sa.create_engine(
                self.url, pool_size=pool_size, connect_args={"check_same_thread": False}
            )
            event.listen(engine, "do_connect", self._connect_existing)
            event.listen(engine, "connect", self._on_sqlite_connect)
            event.listen(engine, "handle_error", _leave_bad_store)
            return engine
        engine = sa.create_engine(
            self.url.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            pool_pre_ping=True,
            connect_args=postgres_options(self.url),
        )
        event.listen(engine, "do_connect", connect_answering)
        event.listen(engine, "connect", become_app_role)
        event.listen(engine, "handle_error", _leave_bad_store)
        return engine

    def _connect_existing(
        self, _dialect: sa.Dialect, _record: Any, arguments: list[Any], parameters: dict[str, Any]
    ) -> None:
        """Once it was opened, make no file anew in place of one that was removed."""
        if self._file is not None:
            arguments[0] = files.existing(self.sqlite_path)
            parameters["uri"] = True

    def _on_sqlite_connect(self, connection: Any, _record: Any) -> None:
        if self._file is None:
            self._file = file_at(self.sqlite_path)
        # SQLAlchemy must not begin transactions of its own; write() says BEGIN IMMEDIATE.
        connection.isolation_level = None
        configure(connection, self._synchronous)

    def connect_psycopg(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A PostgreSQL connection outside the pool; the caller closes it."""
        url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = AnsweringConnection.connect(url, **postgres_options(self.url))
        become_app_role(connection)
        return connection


@contextmanager
def _ended_after(seconds: float, connection: Connection) -> Generator[None]:
    """What is read meanwhile is ended when it takes longer."""
    reading = connection.connection.dbapi_connection
    if isinstance(reading, sqlite3.Connection):
        with ended_after(seconds, reading):
            yield
        return
    assert isinstance(reading, AnsweringConnection)
    if seconds != STATEMENT_SECONDS:  # which the session has
        most_ms = 0 if seconds == inf else round(seconds * 1000)
        connection.execute(_IN_TIME, {"most": f"{most_ms}ms"})
    reading.statements_may_last = seconds == inf
    try:
        yield
    finally:
        reading.statements_may_last = False


def _leave_bad_store(context: sa.ExceptionContext) -> None:
    """Have connections made anew, which after a failover lead to the wrong server, and of SQLite's
    file remember what it was."""
    error = context.original_exception
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction) or (
        isinstance(error, sqlite3.Error) and must_reopen(error)
    ):
        context.is_disconnect = True


def require_writable(url: str) -> None:
    """Raises `ServiceUnavailable` when SQLite's files may not be written to."""
    if (refused := unwritable_file(url)) is not None:
        raise not_writable(refused)


def _may_try_again(error: exc.DBAPIError) -> bool:
    return isinstance(error.orig, psycopg.errors.DeadlockDetected | psycopg.errors.UniqueViolation)

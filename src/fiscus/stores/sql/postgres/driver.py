"""PostgreSQL as a ledger's driver: a group's statements travel together, in a pipeline."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import psycopg
from psycopg import errors

from fiscus.batching.thread_batcher import GroupOutcomeUnknown
from fiscus.ledger.port import (
    GroupConflict,
    GroupRejected,
    NoPartition,
    RowsLocked,
    StoreFull,
    StoreUnavailable,
)
from fiscus.money import plain
from fiscus.stores.sql.bulk import SHAPES_KEPT, Row, Statement
from fiscus.stores.sql.postgres.answering import ServerHangs
from fiscus.stores.sql.postgres.errors import TABLES_NOT_READY, may_have_committed

_TEXT: Final = re.compile(r"\{text:([\w.]+)\}")
_LOCKS: Final = {
    "{lock_v}": "ORDER BY v.reservation_id FOR UPDATE OF v",
    "{lock_c}": "ORDER BY c.consumption_id FOR UPDATE OF c",
    "{lock_p}": "ORDER BY p.budget_id, p.scope_id, p.period_start FOR UPDATE OF p",
    "{lock_q}": "ORDER BY q.quota_id, q.scope_id FOR UPDATE OF q",
}
# A group's statements look rows up by key. The planner, which does not know how many, would rather
# read whole tables while they are small, and row-level security looks at every row of them.
_BY_KEY: Final = (
    "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; "
    "SET enable_material = off"
)
_AGAIN: Final = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.UniqueViolation,
)
# An internal error tells of a server that may only be read (after a failover), of a session that it
# has ended or of damaged files, others of tables that are missing or may not be used: no command is
# to blame, and another connection may do better.
_GONE: Final = (
    *TABLES_NOT_READY,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    OSError,
)
_BEGIN: Final = "SELECT set_config('fiscus.tenants', %s, true)"
_BEGIN_IMPATIENT: Final = f"{_BEGIN}, set_config('lock_timeout', '{{impatient_ms}}', true)"


class PostgresDriver:
    """One connection in its owner's thread. Row-level security goes by the group's tenants."""

    locks_store = False

    def __init__(
        self, connect: Callable[[], psycopg.Connection[Row]], deadline_seconds: float
    ) -> None:
        """`deadline_seconds`: how long the ledger's callers wait."""
        self._connect = connect
        deadline_ms = deadline_seconds * 1000
        # Everybody waits while one group does, and groups that need locked rows are done twice.
        lock_ms = max(20, round(deadline_ms / 8))
        self._on_open = (
            f"{_BY_KEY}; SET lock_timeout = {lock_ms}; "
            # The callers of a group that takes longer are gone, so what it locked it may lose: its
            # process may be frozen, and those of others wait.
            f"SET idle_in_transaction_session_timeout = {max(200, round(deadline_ms * 1.5))}"
        ).encode()
        self._begin = _BEGIN.encode()
        self._begin_impatient = _BEGIN_IMPATIENT.format(impatient_ms=max(5, lock_ms // 5)).encode()
        self._patient = True
        self._connection: psycopg.Connection[Row] | None = None
        self._pipeline: psycopg.Pipeline | None = None
        self._leave_pipeline = contextlib.ExitStack()
        self._had_ended = False
        """Whether the connection that failed last was ended by the other side."""
        self._tenants: Collection[str] | None = None
        self._texts: dict[tuple[str, str, int], bytes] = {}

    def time(self, moment: datetime) -> datetime:
        return moment

    def amount(self, amount: Decimal) -> Decimal:
        return amount

    def read_time(self, value: Any) -> datetime:
        return value

    def read_date(self, value: Any) -> date:
        return value

    def read_amount(self, value: Any) -> Decimal:
        return plain(value)

    def begin(self, tenants: Collection[str], *, patient: bool) -> None:
        self._tenants = tenants
        self._patient = patient

    def others_wrote(self) -> bool:
        return True

    def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        tenants = self._tenants
        was_kept = self._connection is not None
        try:
            return self._together(statements, commit=False)
        except StoreUnavailable:
            is_first = tenants is not None
            if not (is_first and was_kept and self._had_ended):
                raise
            # The session ended while nobody used it, by a restart or a limit on idle ones: nothing
            # was done in this transaction yet.
            self._tenants = tenants
            return self._together(statements, commit=False)

    def commit(self, statements: Sequence[Statement]) -> None:
        self._together(statements, commit=True)

    def rollback(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.rollback()
        except psycopg.Error:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            with contextlib.suppress(psycopg.Error):  # it has nothing to be sent on any more
                self._leave_pipeline.close()

    def _open(self) -> tuple[psycopg.Connection[Row], psycopg.Pipeline]:
        connection = self._connect()
        connection.execute(self._on_open)
        connection.commit()
        # For as long as the connection lasts: to leave a pipeline is a round trip of its own, and
        # ends with a message upon which the server no longer minds that the session is idle.
        pipeline = self._leave_pipeline.enter_context(connection.pipeline())
        self._connection, self._pipeline = connection, pipeline
        return connection, pipeline

    def _together(self, statements: Sequence[Statement], *, commit: bool) -> list[list[Row]]:
        try:
            connection, pipeline = self._connection, self._pipeline
            if connection is None or pipeline is None or connection.closed:
                if self._tenants is None:
                    raise StoreUnavailable("PostgreSQL: the connection ended before the commit")
                self.close()
                connection, pipeline = self._open()
            if self._tenants is not None:
                # psycopg begins the transaction with the first statement.
                connection.execute(
                    self._begin if self._patient else self._begin_impatient,
                    [",".join(self._tenants)],
                )
                self._tenants = None
            cursors = [
                connection.execute(
                    self._text(one), (*one.once, *one.columns.arrays(one.rows)), binary=True
                )
                for one in map(Statement.lean, statements)
            ]
            if commit:
                connection.commit()
                return []
            pipeline.sync()
            return [
                cursor.fetchall() if one.reads else []
                for one, cursor in zip(statements, cursors, strict=True)
            ]
        except errors.LockNotAvailable as error:
            raise RowsLocked(str(error)) from error
        except _AGAIN as error:
            raise GroupConflict(str(error)) from error
        except _GONE as error:
            ended = self._connection is not None and self._connection.closed
            self._had_ended = ended and not isinstance(error, ServerHangs)
            self.close()
            if commit and may_have_committed(error):
                raise GroupOutcomeUnknown(f"PostgreSQL: {error}") from error
            kind = StoreFull if isinstance(error, errors.DiskFull) else StoreUnavailable
            raise kind(f"PostgreSQL: {error}") from error
        except errors.CheckViolation as error:
            # the tables have no other checks than where each partition begins and ends
            raise NoPartition(f"PostgreSQL: {error}") from error
        except psycopg.Error as error:
            raise GroupRejected(f"PostgreSQL: {error}") from error

    def _text(self, statement: Statement) -> bytes:
        key = (statement.sql, statement.columns.list, statement.columns.width)
        encoded = self._texts.get(key)
        if encoded is None:
            text = _TEXT.sub(r"trim_scale(\1)::text", statement.sql)
            text = text.replace("{columns}", statement.columns.list)
            for name, lock in _LOCKS.items():
                text = text.replace(name, lock)
            text = text.replace("{rows}", statement.columns.unnested)
            if len(self._texts) >= SHAPES_KEPT:
                self._texts.clear()
            encoded = self._texts[key] = text.encode()
        return encoded

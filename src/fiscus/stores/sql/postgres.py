"""PostgreSQL as a ledger's driver: a group's statements travel together, in a pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import psycopg
from psycopg import errors

from fiscus.ledger.port import GroupConflict, GroupRejected, StoreUnavailable
from fiscus.money import plain
from fiscus.stores.sql.bulk import Row, Statement

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
    errors.LockNotAvailable,
)


class PostgresDriver:
    """One connection in its owner's thread. Row-level security goes by the group's tenants."""

    locks_store = False

    def __init__(self, connect: Callable[[], psycopg.Connection[Row]]) -> None:
        self._connect = connect
        self._connection: psycopg.Connection[Row] | None = None
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

    def begin(self, tenants: Collection[str]) -> None:
        self._tenants = tenants

    def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        return self._pipeline(statements, commit=False)

    def commit(self, statements: Sequence[Statement]) -> None:
        self._pipeline(statements, commit=True)

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

    def _open(self) -> psycopg.Connection[Row]:
        connection = self._connect()
        connection.execute(_BY_KEY)
        connection.commit()
        return connection

    def _pipeline(self, statements: Sequence[Statement], *, commit: bool) -> list[list[Row]]:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._open()
            connection = self._connection
            with connection.pipeline():
                if self._tenants is not None:
                    # psycopg begins the transaction with the first statement.
                    connection.execute(
                        "SELECT set_config('fiscus.tenants', %s, true)",
                        [",".join(sorted(self._tenants))],
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
                # In a pipeline a cursor knows its columns only once its results are fetched.
                return [
                    cursor.fetchall() if one.reads else []
                    for one, cursor in zip(statements, cursors, strict=True)
                ]
        except _AGAIN as error:
            raise GroupConflict(str(error)) from error
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
            self.close()
            raise StoreUnavailable(f"PostgreSQL: {error}") from error
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
            encoded = self._texts[key] = text.encode()
        return encoded

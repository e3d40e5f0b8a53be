"""What health checks ask of the store, and what the worker has it do."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.clock import Clock
from fiscus.engine import PoolUse
from fiscus.errors import ServiceUnavailable
from fiscus.runtime.portions import ShouldContinue, to_the_end
from fiscus.stores.sql.database import ALL_TENANTS, HARDLY_WAIT, Database
from fiscus.stores.sql.failures import not_writable
from fiscus.stores.sql.migrate import revisions_of
from fiscus.stores.sql.sqlite.connections import read_some
from fiscus.stores.sql.sqlite.files import lock_file, unlock_file, unwritable
from fiscus.stores.sql.tables import idempotency_keys

MONTHS_AHEAD: Final = 3
_LEADER_LOCK: Final = 0x6669736375730002
_COUNTING_LOCK: Final = 0x6669736375730003
# A database may hold several Fiscuses, each in a schema of its own.
_TRY_LOCK: Final = """
    SELECT pg_try_advisory_lock(CASE current_schema() WHEN 'public' THEN %(number)s
                                ELSE hashtextextended(current_schema(), %(number)s) END)
"""
LOCK_SECONDS: Final = 60
"""How long a process that says nothing keeps what it alone may do. One that lives asks sooner."""
_BATCH: Final = 1000


class SqlProbe:
    """`engine.StoreProbe` on SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.kind = "sqlite" if database.is_sqlite else "postgresql"
        self.folder = database.sqlite_path.parent if database.is_sqlite else None

    def ping_ms(self) -> float:
        started = perf_counter()
        if self._database.is_sqlite:
            self._read_file()
        else:
            self._require_writable()
        return (perf_counter() - started) * 1000

    def _read_file(self) -> None:
        if not self._database.has_its_file:
            raise ServiceUnavailable(
                "The database's file was removed or replaced while Fiscus had it open",
                suggested_action="Stop Fiscus, put the right file in its place and start again.",
                retry_after_seconds=1,
            )
        if (refused := unwritable(self._database.sqlite_path)) is not None:
            raise not_writable(refused)
        try:
            read_some(self._database.sqlite_path)
        except sqlite3.Error as error:
            raise ServiceUnavailable(
                f"The database's file cannot be read: {error}",
                suggested_action="Look at the file and its disk; a damaged one needs its backup.",
                retry_after_seconds=1,
            ) from error

    def _require_writable(self) -> None:
        with self._database.read() as connection:
            if connection.execute(sa.text("SHOW transaction_read_only")).scalar_one() == "on":
                # a session that began so stays so, whatever becomes of the server
                connection.invalidate()
                raise ServiceUnavailable(
                    "The database may only be read",
                    suggested_action="Connect to the server that took over, or make it writable.",
                    retry_after_seconds=1,
                )

    def pending_migrations(self) -> list[str]:
        with self._database.read() as connection:
            return [one.revision for one in revisions_of(connection) if not one.applied]

    def pool_use(self) -> PoolUse:
        pool = self._database.engine.pool
        assert isinstance(pool, sa.QueuePool)
        return PoolUse(pool.checkedout(), pool.checkedin())


class SqlMaintenance:
    """`engine.Maintenance` on SQL, for one thread at a time; `claim_counters` may be another's."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._leading = _ProcessLock(_LEADER_LOCK)
        self._counting = _ProcessLock(_COUNTING_LOCK)
        self._counting_file: IO[bytes] | None = None

    def prepare_partitions(self) -> list[str]:
        if self._database.is_sqlite:
            return []
        query = sa.text(
            "SELECT fiscus_make_cost_partitions(:months_ahead) "
            "UNION ALL SELECT fiscus_make_quota_partitions(:months_ahead)"
        )

        def change(connection: Connection) -> list[str]:
            connection.execute(HARDLY_WAIT)
            return list(connection.execute(query, {"months_ahead": MONTHS_AHEAD}).scalars())

        return self._database.write(ALL_TENANTS, change)

    def drop_expired_answers(self, goes_on: ShouldContinue = to_the_end) -> int:
        now = self._clock.now()
        t = idempotency_keys
        key = sa.tuple_(t.c.tenant_id, t.c.operation, t.c.key)
        expired = (
            sa.select(t.c.tenant_id, t.c.operation, t.c.key)
            .where(t.c.expires_at <= now)
            .order_by(t.c.expires_at)
            .limit(_BATCH)
        )
        return self._database.drop_in_portions(sa.delete(t).where(key.in_(expired)), goes_on)

    def try_lead(self) -> bool:
        """As the port says. On PostgreSQL leading lasts as long as one connection of its own."""
        if self._database.is_sqlite:
            return True
        return self._leading.try_hold(self._database)

    def claim_counters(self) -> bool:
        """As the port says: by a lock that ends with the process, however it ends, on PostgreSQL
        with one connection of its own."""
        if not self._database.is_sqlite:
            return self._counting.try_hold(self._database)
        if self._counting_file is None:
            self._counting_file = lock_file(Path(f"{self._database.sqlite_path}-counters"))
        return self._counting_file is not None

    def close(self) -> None:
        """Stop leading, and counting."""
        self._leading.let_go()
        self._counting.let_go()
        if self._counting_file is not None:
            unlock_file(self._counting_file)
            self._counting_file = None


class _ProcessLock:
    """An advisory lock of PostgreSQL, held as long as one connection of its own.

    The server ends that of a process which is frozen or whose machine is gone; by itself it would
    find out about the latter after hours, and never about the former.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def try_hold(self, database: Database) -> bool:
        """Whether this process holds the lock, or could take it just now."""
        if self._connection is not None:
            try:
                self._connection.execute("SELECT 1")
            except psycopg.Error:
                self.let_go()
            else:
                return True
        try:
            connection = database.connect_psycopg()
        except psycopg.Error:
            return False
        try:
            connection.autocommit = True
            connection.execute(f"SET idle_session_timeout = {LOCK_SECONDS * 1000:.0f}".encode())
            row = connection.execute(_TRY_LOCK, {"number": self._number}).fetchone()
        except psycopg.Error:
            row = None  # the connection was lost in between, which says nothing of the lock
        if row is None or not row[0]:
            connection.close()
            return False
        self._connection = connection
        return True

    def let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

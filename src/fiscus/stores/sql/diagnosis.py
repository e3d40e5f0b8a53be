"""What `fiscus doctor` wants to know of a database, before any engine is opened on it."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.stores.sql.database import Database, database_is_there


class DatabaseFacts(NamedTuple):
    """A database as the application meets it."""

    kind: str
    """`sqlite` or `postgresql`."""
    version: str
    now: datetime | None
    """The database's clock; None where it is this machine's."""
    role: str | None
    bypasses_row_security: bool
    """Whether the role the application works as is bound by no row-level security."""
    owns_tables: bool
    unprotected_tables: list[str]
    """Tables of tenants' rows without forced row-level security."""


_SQLITE: Final = DatabaseFacts("sqlite", sqlite3.sqlite_version, None, None, False, False, [])


def diagnose(url: str) -> DatabaseFacts:
    """Look at a database, and make none. Raises `ServiceUnavailable` when it cannot be reached."""
    if not database_is_there(url):
        return _SQLITE
    database = Database(url, pool_size=1)
    try:
        with database.read() as connection:
            if database.is_sqlite:
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
                return _SQLITE
            return _postgres(connection)
    finally:
        database.close()


def _postgres(connection: Connection) -> DatabaseFacts:
    row = connection.execute(
        sa.text(
            """
            SELECT current_setting('server_version'), clock_timestamp(), current_user,
                   rolsuper OR rolbypassrls,
                   EXISTS (SELECT FROM pg_tables
                            WHERE schemaname = current_schema AND tablename = 'budgets'
                              AND tableowner = current_user)
              FROM pg_roles WHERE rolname = current_user
            """
        )
    ).one()
    unprotected = connection.execute(
        sa.text(
            """
            SELECT c.relname
              FROM pg_class c
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
             WHERE c.relnamespace = current_schema::regnamespace AND c.relkind IN ('r', 'p')
               AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
             ORDER BY c.relname
            """
        )
    ).scalars()
    version, now, role, bypasses, owns = row
    return DatabaseFacts(
        "postgresql", version, now.astimezone(UTC), role, bypasses, owns, list(unprotected)
    )

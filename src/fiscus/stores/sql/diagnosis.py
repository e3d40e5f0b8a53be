"""What `fiscus doctor` wants to know of a database, before any engine is opened on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.stores.sql.database import Database
from fiscus.stores.sql.migrate import looking
from fiscus.stores.sql.migrations.row_security import POLICY, policy_for
from fiscus.stores.sql.quotas.tables import metadata
from fiscus.stores.sql.urls import database_is_there, file_of, unwritable_file


class Right(NamedTuple):
    """`INSERT` on a table, or the like."""

    verb: str
    table: str


class TableFault(NamedTuple):
    """Something about a table that is not as it was made."""

    seen: str
    mend: str
    """What its owner has to execute."""


class DatabaseFacts(NamedTuple):
    """A database as the application meets it."""

    kind: str
    """`sqlite` or `postgresql`."""
    version: str
    is_there: bool = True
    """SQLite has none until somebody makes its file."""
    missing_tables: Sequence[str] = ()
    """Of those of the newest revision."""
    now: datetime | None = None
    """The database's clock; None where it is this machine's."""
    role: str | None = None
    may_only_be_read: bool = False
    not_writable: Path | None = None
    """Of SQLite's files and their folder, the one that this process may not write to."""
    bypasses_row_security: bool = False
    """Whether the role the application works as is bound by no row-level security."""
    owns_tables: bool = False
    unprotected_tables: Sequence[str] = ()
    """Tables of tenants' rows without forced row-level security."""
    policy_faults: Sequence[TableFault] = ()
    """What else lets tenants see too little or too much."""
    missing_rights: Sequence[Right] = ()
    """Which the application needs and its role has not."""
    partition_faults: Sequence[TableFault] = ()
    """Partitions for what is recorded from now on that were detached."""


_NEVER_UPDATED: Final = {
    "budget_anchors",
    "budget_versions",
    "cost_operations",
    "cost_records",
    "cost_series",
    "quota_usage",
    "quota_versions",
    "rate_limit_policy_versions",
}
_MONTHLY: Final = {"cost_records": "timestamp", "quota_usage": "at"}
"""Tables that PostgreSQL partitions by month, and the column that tells the month."""
_FORGOTTEN: Final = {"idempotency_keys", "quota_usage", "rate_limit_usage"}
"""Tables from which the application deletes."""


def rights_of_the_application() -> list[Right]:
    """All that the application does to its tables."""
    return [
        Right(verb, table)
        for table in sorted(metadata.tables)
        for verb in ("SELECT", "INSERT", "UPDATE", "DELETE")
        if not (verb == "UPDATE" and table in _NEVER_UPDATED)
        if not (verb == "DELETE" and table not in _FORGOTTEN)
    ]


def diagnose(url: str) -> DatabaseFacts:
    """Look at a database; makes and changes none.

    Raises `ServiceUnavailable` when it cannot be reached.
    """
    if (refused := unwritable_file(url)) is not None:
        return DatabaseFacts("sqlite", sqlite3.sqlite_version, not_writable=refused)
    if not database_is_there(url):
        return DatabaseFacts("sqlite", sqlite3.sqlite_version, is_there=False)
    if file_of(url) is not None:
        with looking(url) as connection:
            missing = _missing_tables(connection)
            return DatabaseFacts("sqlite", sqlite3.sqlite_version, missing_tables=missing)
    database = Database(url, pool_size=1)
    try:
        with database.read() as connection:
            return _postgres(connection)
    finally:
        database.close()


def _missing_tables(connection: Connection) -> list[str]:
    return sorted(metadata.tables.keys() - sa.inspect(connection).get_table_names())


def _postgres(connection: Connection) -> DatabaseFacts:
    row = connection.execute(
        sa.text(
            """
            SELECT current_setting('server_version'), clock_timestamp(), current_user,
                   current_setting('transaction_read_only')::boolean,
                   rolsuper OR rolbypassrls,
                   EXISTS (SELECT FROM pg_tables
                            WHERE schemaname = current_schema AND tablename = 'budgets'
                              AND tableowner = current_user)
              FROM pg_roles WHERE rolname = current_user
            """
        )
    ).one()
    unprotected, faults = _row_security(connection)
    version, now, role, read_only, bypasses, owns = row
    return DatabaseFacts(
        "postgresql",
        version,
        missing_tables=_missing_tables(connection),
        now=now.astimezone(UTC),
        role=role,
        may_only_be_read=read_only,
        bypasses_row_security=bypasses,
        owns_tables=owns,
        unprotected_tables=unprotected,
        policy_faults=faults,
        missing_rights=_missing_rights(connection),
        partition_faults=[*_without_default(connection), *_detached_months(connection)],
    )


def _row_security(connection: Connection) -> tuple[list[str], list[TableFault]]:
    """Our tables of tenants' rows without forced row-level security, and those without their
    policy, or with one by which more rows are seen.

    Partitions have none of their own: their rows are seen by way of the table.
    """
    rows = connection.execute(
        sa.text(
            """
            SELECT c.relname, c.relispartition, c.relrowsecurity AND c.relforcerowsecurity,
                   array_remove(array_agg(p.polname::text ORDER BY p.polname), NULL)
              FROM pg_class c
              JOIN pg_class root ON root.oid = coalesce(pg_partition_root(c.oid)::oid, c.oid)
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
              LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polpermissive
             WHERE c.relnamespace = current_schema::regnamespace AND c.relkind IN ('r', 'p')
               AND root.relname = ANY (CAST(:tables AS text[]))
             GROUP BY c.oid
             ORDER BY c.relname
            """
        ),
        {"tables": list(metadata.tables)},
    )
    unprotected: list[str] = []
    faults: list[TableFault] = []
    for table, is_partition, is_forced, policies in rows:
        if not is_forced:
            unprotected.append(table)
        if POLICY not in policies and not is_partition:
            made = " ".join(policy_for(table).split())
            faults.append(TableFault(f"{table} has no policy {POLICY}", f"{made};"))
        for policy in policies:
            if policy != POLICY or is_partition:
                quoted = policy.replace('"', '""')
                faults.append(
                    TableFault(
                        f"{table} has another policy, {policy}",
                        f'DROP POLICY "{quoted}" ON {table};',
                    )
                )
    return unprotected, faults


def _missing_rights(connection: Connection) -> list[Right]:
    needed = rights_of_the_application()
    rows = connection.execute(
        sa.text(
            """
            SELECT needed.verb, needed.name
              FROM unnest(CAST(:verbs AS text[]), CAST(:names AS text[]))
                   AS needed (verb, name)
              JOIN pg_class c ON c.relname = needed.name
                             AND c.relnamespace = current_schema::regnamespace
             WHERE NOT has_table_privilege(c.oid, needed.verb)
            """
        ),
        {"verbs": [one.verb for one in needed], "names": [one.table for one in needed]},
    )
    return [Right(*row) for row in rows]


def _without_default(connection: Connection) -> Iterator[TableFault]:
    """Tables without a partition for rows of no month."""
    rows = connection.execute(
        sa.text(
            """
            SELECT c.relname, EXISTS (SELECT FROM pg_tables
                                       WHERE schemaname = current_schema
                                         AND tablename = c.relname || '_default')
              FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
             WHERE c.relnamespace = current_schema::regnamespace AND p.partdefid = 0
               AND c.relname = ANY (CAST(:tables AS text[]))
             ORDER BY c.relname
            """
        ),
        {"tables": list(_MONTHLY)},
    )
    for table, is_there in rows:
        default = f"{table}_default"
        mend = (
            f"ALTER TABLE {table} ATTACH PARTITION {default} DEFAULT;"
            if is_there
            else f"CREATE TABLE {default} PARTITION OF {table} DEFAULT; "
            f"ALTER TABLE {default} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        )
        yield TableFault(f"{table} has no default partition", mend)


def _detached_months(connection: Connection) -> Iterator[TableFault]:
    """This month and those ahead, where they are tables apart.

    One that is no table is made by the worker, as far as it can be. Those of the past may have been
    detached for good.
    """
    rows = connection.execute(
        sa.text(
            """
            SELECT c.relname, name, to_date(right(c.relname, 7), 'YYYY_MM'),
                   (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month')::date
              FROM unnest(CAST(:tables AS text[])) AS monthly (name)
              JOIN pg_class c ON c.relname ~ ('^' || name || '_[0-9]{4}_(0[1-9]|1[0-2])$')
             WHERE c.relnamespace = current_schema::regnamespace
               AND c.relkind = 'r' AND NOT c.relispartition
               AND right(c.relname, 7) >= to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')
             ORDER BY c.relname
            """
        ),
        {"tables": list(_MONTHLY)},
    )
    for month, table, first, after in rows:
        attaching = _attaching(month, table, f"'{first} 00:00Z'", f"'{after} 00:00Z'")
        yield TableFault(f"{month} is no partition of {table}", attaching)


def _attaching(month: str, table: str, start: str, end: str) -> str:
    """Statements that attach a month; before that they move its rows out of the default partition,
    which would keep it from being attached."""
    default, time = f"{table}_default", _MONTHLY[table]
    return (
        f"BEGIN; ALTER TABLE {month} NO FORCE ROW LEVEL SECURITY; "
        f"ALTER TABLE {default} NO FORCE ROW LEVEL SECURITY; "
        f"WITH moved AS (DELETE FROM {default} WHERE {time} >= {start} AND {time} < {end} "
        f"RETURNING *) INSERT INTO {month} SELECT * FROM moved; "
        f"ALTER TABLE {month} FORCE ROW LEVEL SECURITY; "
        f"ALTER TABLE {default} FORCE ROW LEVEL SECURITY; "
        f"ALTER TABLE {table} ATTACH PARTITION {month} FOR VALUES FROM ({start}) TO ({end}); "
        "COMMIT;"
    )

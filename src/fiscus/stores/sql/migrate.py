"""Migrations: the tables of a database brought to a revision, or looked at.

Each run is one transaction under a lock, on SQLite in the turn of whoever writes, so processes that
start together migrate once and a migration that fails leaves nothing behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection

from fiscus.errors import ServiceUnavailable, ValidationError
from fiscus.runtime.logs import get_logger
from fiscus.stores.sql.alembic_unheard import (
    CommandError,
    Config,
    Script,
    ScriptDirectory,
    command,
    unheard,
)
from fiscus.stores.sql.database import ALL_TENANTS, require_writable
from fiscus.stores.sql.failures import disk_full, first_line, is_full, unusable
from fiscus.stores.sql.postgres.connections import (
    PLAIN_SESSION,
    become_app_role,
    postgres_options,
)
from fiscus.stores.sql.sqlite.connections import BUSY_TIMEOUT_MS
from fiscus.stores.sql.sqlite.files import make_folder
from fiscus.stores.sql.sqlite.write_lock import WriteLock
from fiscus.stores.sql.urls import DATABASE_SETTING, database_is_there, parse_url

log = get_logger(__name__)

HEAD: Final = "head"
_SCRIPTS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x6669736375730001
MayNot = Callable[[str], ServiceUnavailable]
"""The error that says what a login may not do, from the database's words."""
_VERSION_TABLE: Final = sa.table("alembic_version", sa.column("version_num"))


class Revision(NamedTuple):
    """One migration, and whether a database has it."""

    revision: str
    applied: bool
    title: str


def upgrade(url: str, to: str = HEAD, *, setting: str = DATABASE_SETTING) -> None:
    """Bring the database at `url`, which is that of `setting`, up to revision `to`.

    Raises `ServiceUnavailable` when it cannot be reached, the login may not change it, a newer
    Fiscus migrated it or its tables are not those of its revision, and `ValidationError` for an
    unknown revision.
    """
    require_known(to)
    _run(url, command.upgrade, to, needs_owner, setting)


def downgrade(url: str, to: str, *, setting: str = DATABASE_SETTING) -> None:
    """Take the database at `url` down to revision `to`, or to `base`: nothing. Data is lost.

    Makes nothing where there is no database. Raises as `upgrade`.
    """
    require_known(to)
    if database_is_there(url, setting):
        _run(url, command.downgrade, to, _may_not_take_down, setting)


def status(url: str, *, setting: str = DATABASE_SETTING) -> list[Revision]:
    """Every revision, oldest first; makes nothing, also where there is no database yet.

    Raises `ServiceUnavailable` when it cannot be read.
    """
    if not database_is_there(url, setting):
        return [Revision(one.revision, False, one.doc) for one in _scripts()]
    with looking(url, setting=setting) as connection:
        return revisions_of(connection)


@contextmanager
def looking(url: str, *, setting: str = DATABASE_SETTING) -> Generator[Connection]:
    """A connection to a database that is there, which leaves a file of SQLite's as it is.

    It may be somebody else's, and to have it journaled ahead is for good. Raises as `status`.
    """
    engine = _engine(url, setting)
    if not _is_sqlite(engine):
        event.listen(engine, "connect", become_app_role)
    try:
        with _explained(url, needs_owner, setting), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def revisions_of(connection: Connection) -> list[Revision]:
    """As `status`, on a connection that is open."""
    _require_utf8(connection)
    known = _scripts()
    current = _current(connection)
    names = [script.revision for script in known]
    if current is not None and current not in names:
        raise _newer(current)
    applied = 0 if current is None else names.index(current) + 1
    return [
        Revision(script.revision, place <= applied, script.doc)
        for place, script in enumerate(known, start=1)
    ]


def _scripts() -> list[Script]:
    """Every revision's, oldest first."""
    return list(ScriptDirectory(str(_SCRIPTS)).walk_revisions())[::-1]


def _current(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(_VERSION_TABLE.name):
        return None
    return connection.execute(sa.select(_VERSION_TABLE.c.version_num)).scalar()


def _require_utf8(connection: Connection) -> None:
    """Raises `ServiceUnavailable` when a database cannot hold every text."""
    if connection.dialect.name == "sqlite":
        return
    encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        error = ServiceUnavailable(
            f"The database's encoding is {encoding}, which cannot hold every text; Fiscus needs "
            "UTF8",
            suggested_action="Make another one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE "
            f"template0, and name it in {DATABASE_SETTING}.",
        )
        error.retriable = False
        raise error


def require_known(revision: str) -> None:
    """Raises `ValidationError` unless there is such a revision."""
    if revision not in {"base", HEAD, *_revisions()}:
        raise ValidationError(
            f"{revision} is not a revision of this version",
            field="revision",
            suggested_action="List the revisions with `fiscus migrate status`.",
        )


def _run(url: str, step: Any, to: str, refused: MayNot, setting: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    engine = _engine(url, setting)
    try:
        with _explained(url, refused, setting), _locked(engine) as connection:
            _require_utf8(connection)
            current = _current(connection)
            if current is not None and current not in _revisions():
                raise _newer(current)
            config.attributes["connection"] = connection
            try:
                with unheard():
                    step(config, to)
            except exc.DBAPIError as error:
                if _is_about_tables(error):
                    raise _other_tables(current, first_line(error)) from error
                raise
            reached = _current(connection)
        if reached != current:
            log.info("database_migrated", revision_before=current, revision=reached)
    finally:
        engine.dispose()


def _revisions() -> list[str]:
    return [script.revision for script in _scripts()]


def _engine(url: str, setting: str) -> sa.Engine:
    parsed = parse_url(url, setting)
    if parsed.get_backend_name() == "sqlite":
        assert parsed.database is not None
        make_folder(Path(parsed.database).parent, setting)
        engine = sa.create_engine(parsed, poolclass=sa.NullPool)
        event.listen(engine, "connect", _on_sqlite_connect)
        return engine
    return sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        poolclass=sa.NullPool,
        connect_args=postgres_options(parsed, PLAIN_SESSION),
    )


def _is_sqlite(engine: sa.Engine) -> bool:
    return engine.dialect.name == "sqlite"


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


@contextmanager
def _locked(engine: sa.Engine) -> Generator[Connection]:
    """A connection in a transaction that no other migration runs beside, committed at the end."""
    if _is_sqlite(engine):
        assert engine.url.database is not None
        with (
            closing(WriteLock.at(Path(engine.url.database))) as write_lock,
            write_lock.held(),
            engine.connect() as connection,
        ):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()
        return
    with engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        connection.execute(sa.select(sa.func.set_config("fiscus.tenants", ALL_TENANTS, sa.true())))
        yield connection
        connection.commit()


@contextmanager
def _explained(url: str, refused: MayNot, setting: str) -> Generator[None]:
    """The errors of the database and of Alembic as ours; `refused`: what the login may not do."""
    try:
        yield
    except exc.OperationalError as error:
        if is_full(error):
            raise disk_full() from error
        require_writable(url)
        raise ServiceUnavailable(
            f"The database cannot be reached: {first_line(error)}",
            suggested_action=f"See that it runs and that {setting} is right, user and "
            "password too; `fiscus doctor` looks at it.",
            retry_after_seconds=1,
        ) from error
    except exc.DatabaseError as error:
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise refused(first_line(error)) from error
        if (reason := unusable(error, setting)) is None:
            raise
        raise reason from error
    except OSError as error:  # the turn did not come
        require_writable(url)
        raise ServiceUnavailable(
            f"The database cannot be written to now: {error}",
            suggested_action="Try again when whoever writes to it has done so.",
            retry_after_seconds=1,
        ) from error
    except CommandError as error:
        raise ServiceUnavailable(
            f"The migration cannot run: {error}",
            suggested_action="Look at `fiscus migrate status`.",
        ) from error


def _is_about_tables(error: exc.DBAPIError) -> bool:
    """Whether a statement met tables that are not as it takes them to be."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode == sqlite3.SQLITE_ERROR
    if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
        return False
    # class 42: there already, not there, of another type
    return isinstance(error.orig, psycopg.Error) and (error.orig.sqlstate or "").startswith("42")


def needs_owner(reason: str) -> ServiceUnavailable:
    """This login may not do what is needed to the tables."""
    return ServiceUnavailable(
        f"The database's tables are not ready for this version of Fiscus ({reason})",
        suggested_action="Run `fiscus migrate up` with FISCUS_MIGRATION_DATABASE_URL set to a "
        "login that owns the database and may create roles.",
    )


def _may_not_take_down(reason: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"This login may not take down the database's tables ({reason})",
        suggested_action="Run it with FISCUS_MIGRATION_DATABASE_URL set to the login that owns "
        "them.",
    )


def _newer(current: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"The database is at revision {current}, which this version of Fiscus does not know",
        suggested_action="Run the version of Fiscus that migrated it, or a later one.",
    )


def _other_tables(current: str | None, words: str) -> ServiceUnavailable:
    what = (
        "The database holds tables that no migration is noted for"
        if current is None
        else f"The database's tables are not those of revision {current}, which is noted for them"
    )
    error = ServiceUnavailable(
        f"{what}: {words}",
        suggested_action="Restore the database from a backup, or begin anew in an empty one: "
        f"{DATABASE_SETTING} says where.",
    )
    error.retriable = False
    return error

"""What is told of a database that fails: errors in words, with what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import exc

from fiscus.errors import (
    UNKNOWN_OUTCOME,
    FiscusError,
    OutcomeUnknown,
    ServiceUnavailable,
    ValidationError,
)
from fiscus.stores.sql.postgres.errors import TABLES_NOT_READY
from fiscus.stores.sql.sqlite import errors as sqlite_errors
from fiscus.stores.sql.urls import DATABASE_SETTING

_LESS_TO_DO_SECONDS: Final = 120
"""When to try again what took too long: so late that no client does so by itself."""


def unavailable() -> ServiceUnavailable:
    return ServiceUnavailable(
        "The database cannot be reached, or did not answer in time",
        suggested_action="Try again after the time in Retry-After.",
        retry_after_seconds=1,
    )


def takes_too_long() -> ServiceUnavailable:
    return ServiceUnavailable(
        "The database would take longer for this answer than it may",
        suggested_action="Ask for less at once, such as a shorter range, or try again when the "
        "database has less to do.",
        retry_after_seconds=_LESS_TO_DO_SECONDS,
    )


def perhaps_changed() -> OutcomeUnknown:
    return OutcomeUnknown(
        "The connection to the database was lost while a change was committed; it may have been "
        "made",
        details={**UNKNOWN_OUTCOME},
        suggested_action="Look whether it was made, or repeat it with its idempotency key.",
    )


def is_full(error: exc.DBAPIError) -> bool:
    """Whether the database's disk has no room."""
    if isinstance(error.orig, sqlite3.Error):
        return sqlite_errors.is_full(error.orig)
    return isinstance(error.orig, psycopg.errors.DiskFull)


def disk_full() -> ServiceUnavailable:
    return ServiceUnavailable(
        "The database's disk is full",
        suggested_action="Have room made on it, and try again.",
        retry_after_seconds=1,
    )


def unusable(error: exc.DBAPIError, setting: str = DATABASE_SETTING) -> FiscusError | None:
    """What is wrong for good, so that trying again is of no use; None for any other error."""
    if isinstance(error.orig, sqlite3.Error):
        return _damaged(str(error.orig)) if sqlite_errors.is_damage(error.orig) else None
    if isinstance(error.orig, TABLES_NOT_READY):
        return ServiceUnavailable(
            f"The database's tables cannot be used: {first_line(error)}",
            suggested_action="Run `fiscus doctor`, which says what is missing.",
        )
    if isinstance(error.orig, psycopg.ProgrammingError) and error.orig.sqlstate is None:
        # libpq's own, which never came to a server
        return ValidationError(
            f"{setting} cannot be used: {first_line(error)}",
            field=setting,
            suggested_action="Correct it: postgresql://user:password@host/name.",
        )
    return None


def first_line(error: exc.DBAPIError) -> str:
    """The database's own words, without the statement."""
    return str(error.orig).strip().partition("\n")[0]


def not_writable(refused: Path) -> ServiceUnavailable:
    """Fiscus may not write to `refused`, SQLite's file, one beside it or their folder.

    Where that is says `fiscus doctor`: anybody who asks a probe is told this.
    """
    what = "their folder" if refused.is_dir() else refused.name
    error = ServiceUnavailable(
        f"SQLite's files of Fiscus's data cannot be written: {what} is not writable",
        suggested_action="Give the user that runs Fiscus the right to write to it; `fiscus doctor` "
        "says where it is.",
    )
    error.retriable = False
    return error


def _damaged(words: str) -> ServiceUnavailable:
    error = ServiceUnavailable(
        f"The SQLite file of Fiscus's data cannot be read: {words}",
        suggested_action="Stop Fiscus and restore the file from a backup, or begin anew elsewhere: "
        f"FISCUS_DATA_DIR or {DATABASE_SETTING} says where.",
    )
    error.retriable = False
    return error

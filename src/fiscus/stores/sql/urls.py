"""Which database a URL names, and whether SQLite's file is there; opens none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from fiscus.errors import ValidationError
from fiscus.stores.sql.sqlite import files

DATABASE_SETTING: Final = "FISCUS_DATABASE_URL"


def parse_url(url: str, setting: str = DATABASE_SETTING) -> URL:
    """The URL of a supported database, SQLite's with its whole path: a program may go to another
    folder. Raises `ValidationError` naming the setting."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):  # ValueError: its port is no number
        raise _bad_url(setting) from None
    backend = parsed.get_backend_name()
    if backend not in {"sqlite", "postgresql"} or not parsed.database:
        raise _bad_url(setting)
    if backend == "sqlite" and (parsed.query or parsed.database.startswith((":memory:", "file:"))):
        raise _bad_url(setting)  # each connection would have a database of its own
    if backend == "sqlite":
        # the folder that this process is in may be gone, which whoever opens the file tells
        with suppress(FileNotFoundError):
            return parsed.set(database=str(Path(parsed.database).absolute()))
    return parsed


def file_of(url: str, setting: str = DATABASE_SETTING) -> Path | None:
    """SQLite's file, or None where the database is a server's."""
    parsed = parse_url(url, setting)
    assert parsed.database is not None
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" else None


def database_is_there(url: str, setting: str = DATABASE_SETTING) -> bool:
    """False for SQLite's file when there is none; what a server has is known when it is asked."""
    file = file_of(url, setting)
    return file is None or file.exists()


def unwritable_file(url: str) -> Path | None:
    """As `files.unwritable`; None for PostgreSQL, which is asked itself."""
    file = file_of(url)
    return None if file is None else files.unwritable(file)


def _bad_url(setting: str) -> ValidationError:
    return ValidationError(
        f"{setting} is not the URL of a database Fiscus can use",
        field=setting,
        suggested_action="Use sqlite:///path/to/file.db or postgresql://user:password@host/name.",
    )

"""What SQLite's errors tell, by their codes."""

from __future__ import annotations

import sqlite3


def must_reopen(error: sqlite3.Error) -> bool:
    """Whether only a new connection may find things mended: what it knows of a damaged file may be
    wrong, and where it could not write when it was opened it never will."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return is_damage(error) or code & 0xFF == sqlite3.SQLITE_READONLY


def was_interrupted(error: BaseException | None) -> bool:
    """Whether it comes of `ended_after`."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code == sqlite3.SQLITE_INTERRUPT


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, or none of SQLite's, which no statement is to blame for."""
    # made by the module itself, an error has no code
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk has no room for what is written, or for the index of the log."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}

"""What PostgreSQL's errors tell."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import errors

TABLES_NOT_READY: Final = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.UndefinedFunction,
    errors.InsufficientPrivilege,
)
"""What is asked for is missing, or this login may not use it."""


def may_have_committed(error: BaseException | None) -> bool:
    """Whether a commit that met `error` may be durable: its answer was lost with the connection.

    What the server refused, such as for want of disk, it has not done. Classes 08 and 57 tell of
    connections that end, whatever they were at.
    """
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return state is None or state[:2] in ("08", "57")

"""Connections to PostgreSQL: how to make them, and the role they work as."""

from __future__ import annotations

from typing import Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import URL

from fiscus.stores.sql.postgres.answering import (
    CONNECT_SECONDS,
    STATEMENT_SECONDS,
    AnsweringConnection,
)

APP_ROLE: Final = "(left(current_database(), 59) || '_app')::name"
"""SQL for the role the application works as: `fiscus_app` in a database named `fiscus`.

Roles belong to the whole server, so each database has its own."""

PLAIN_SESSION: Final = (
    r"-c timezone=UTC -c DateStyle=ISO -c default_transaction_isolation=read\ committed"
)
"""What Fiscus takes for granted of a session, and a server or database may be set to otherwise."""
_SESSION: Final = f"{PLAIN_SESSION} -c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout=5s"
_KEEPALIVE_SECONDS: Final = "30"
"""Less than firewalls and proxies let a connection be idle before they forget it."""


def postgres_options(url: URL, session: str = _SESSION) -> dict[str, Any]:
    """How to connect to PostgreSQL, beside what the URL says, whose `options` stay: they may name
    another `search_path`."""
    given = url.normalized_query
    return {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": given.get("application_name", ("fiscus",))[-1],
        "client_encoding": "UTF8",
        "options": " ".join((*given.get("options", ()), session)),
        "keepalives_idle": given.get("keepalives_idle", (_KEEPALIVE_SECONDS,))[-1],
        "tcp_user_timeout": 5000,
    }


def connect_answering(
    _dialect: sa.Dialect, _record: Any, arguments: list[Any], parameters: dict[str, Any]
) -> AnsweringConnection:
    return AnsweringConnection.connect(*arguments, **parameters)


def become_app_role(connection: psycopg.Connection[Any], _record: Any = None) -> None:
    """Become the unprivileged role when this login may, so that row-level security binds it."""
    # Before PostgreSQL 16 every member of a role may become it.
    right = "SET" if connection.info.server_version >= 160000 else "MEMBER"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT quote_ident(rolname) FROM pg_roles "
            f"WHERE rolname = {APP_ROLE} AND rolname <> current_user "
            f"AND pg_has_role(current_user, oid, '{right}')"
        )
        row = cursor.fetchone()
        if row is not None:
            cursor.execute(f"SET ROLE {row[0]}".encode())
    connection.commit()

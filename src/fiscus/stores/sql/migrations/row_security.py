"""Row-level security on PostgreSQL: the application's role, and what it may see and do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from fiscus.stores.sql.postgres.connections import APP_ROLE

POLICY: Final = "tenant_rows"
# In sub-selects, so that a statement reads the setting once and not for each row.
_TENANTS: Final = "current_setting('fiscus.tenants', true)"
_VISIBLE: Final = f"""
    tenant_id = ANY ((SELECT string_to_array({_TENANTS}, ','))::text[])
    OR (SELECT {_TENANTS}) = '*'
"""


def protect(tables: Mapping[str, str]) -> None:
    """Bind everybody to their transaction's tenants in `tables`, each with what the application may
    do to it: what is immutable cannot be updated."""
    role = app_role()
    for table, may in tables.items():
        op.execute(f"GRANT {may} ON {table} TO {role}")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(policy_for(table))


def policy_for(table: str) -> str:
    """The statement that makes the policy by which transactions see their tenants' rows alone."""
    return f"CREATE POLICY {POLICY} ON {table} USING ({_VISIBLE}) WITH CHECK ({_VISIBLE})"


def app_role() -> str:
    """The application's role, made where it is missing, which this login may become."""
    role = _quoted(f"SELECT {APP_ROLE}")
    if not _scalar(f"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = {APP_ROLE})"):
        op.execute(f"CREATE ROLE {role} NOLOGIN")
    # Since PostgreSQL 16 who made a role is a member that may grant it, but not become it.
    version = op.get_bind().dialect.server_version_info
    right = "SET" if version is not None and version >= (16,) else "MEMBER"
    if not _scalar(f"SELECT pg_has_role(current_user, {APP_ROLE}, '{right}')"):
        op.execute(f"GRANT {role} TO CURRENT_USER")
    return role


def schema() -> str:
    return _quoted("SELECT current_schema()")


def _quoted(query: str) -> str:
    """The name that `query` answers, as an identifier."""
    name = _scalar(query)
    return op.get_bind().dialect.identifier_preparer.quote(name)


def _scalar(query: str) -> Any:
    return op.get_bind().execute(sa.text(query)).scalar_one()

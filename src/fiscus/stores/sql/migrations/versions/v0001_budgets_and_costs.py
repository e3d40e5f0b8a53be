"""Tenants, budgets, reservations, costs, keys"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from fiscus.stores.sql.database import APP_ROLE

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SCOPE: Final = sa.String(128)
_TENANT_TABLES: Final = {
    "tenants": "SELECT, INSERT, UPDATE",
    "budgets": "SELECT, INSERT, UPDATE",
    "budget_versions": "SELECT, INSERT",
    "budget_periods": "SELECT, INSERT, UPDATE",
    "budget_anchors": "SELECT, INSERT",
    "reservations": "SELECT, INSERT, UPDATE",
    "reservation_lines": "SELECT, INSERT",
    "cost_records": "SELECT, INSERT",
    "cost_operations": "SELECT, INSERT",
    "cost_series": "SELECT, INSERT",
    "cost_rollups": "SELECT, INSERT, UPDATE",
    "idempotency_keys": "SELECT, INSERT, UPDATE, DELETE",
    "api_keys": "SELECT, INSERT, UPDATE",
}
"""Each table with what the application may do to it: what is immutable cannot be updated."""


def upgrade() -> None:
    _make_definitions()
    _make_usage()
    _make_costs()
    _make_access()
    if op.get_bind().dialect.name == "postgresql":
        _protect()
        _partition()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION fiscus_make_cost_partitions(integer)")
    # The application's role stays: it belongs to the server, and logins may be members of it.
    for table in reversed(_TENANT_TABLES):
        op.drop_table(table)


# -- tables


def _id() -> sa.types.TypeEngine[str]:
    return sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")


def _moment() -> sa.types.TypeEngine[Any]:
    return sa.BigInteger().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def _amount(digits: int = 38) -> sa.types.TypeEngine[Any]:
    return sa.Text().with_variant(sa.Numeric(digits, 12), "postgresql")


def _required(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _tenant() -> sa.Column[Any]:
    return _required("tenant_id", _SCOPE)


def _make_definitions() -> None:
    op.create_table(
        "tenants",
        _tenant(),
        _required("currency", sa.String(3)),
        _required("timezone", sa.String(64)),
        _required("require_budget", sa.Boolean()),
        _required("rollup_tags", sa.Text()),
        _required("version", sa.Integer()),
        _required("definitions_version", sa.BigInteger()),
        _required("created_at", _moment()),
        _required("updated_at", _moment()),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenants"),
    )
    op.create_table(
        "budgets",
        _required("budget_id", _id()),
        _tenant(),
        _required("version", sa.Integer()),
        _required("definitions_version", sa.BigInteger()),
        _required("budget_name", sa.String(200)),
        _required("budget_amount", _amount()),
        _required("currency", sa.String(3)),
        _required("period_type", sa.String(16)),
        _required("allocated_to_type", sa.String(16)),
        _required("allocated_to_id", _SCOPE),
        _required("enforcement_action", sa.String(16)),
        _required("definition", sa.Text()),
        _required("created_at", _moment()),
        _required("updated_at", _moment()),
        sa.Column("deleted_at", _moment()),
        sa.PrimaryKeyConstraint("budget_id", name="pk_budgets"),
    )
    op.create_index(
        "ix_budgets_tenant_id_definitions_version", "budgets", ["tenant_id", "definitions_version"]
    )
    op.create_index("ix_budgets_newest", "budgets", ["tenant_id", "budget_id"])
    op.create_table(
        "budget_versions",
        _required("budget_id", _id()),
        _required("version", sa.Integer()),
        _tenant(),
        _required("definition", sa.Text()),
        _required("changed_by", sa.String(256)),
        _required("changed_at", _moment()),
        sa.PrimaryKeyConstraint("budget_id", "version", name="pk_budget_versions"),
    )


def _make_usage() -> None:
    op.create_table(
        "budget_periods",
        _required("budget_id", _id()),
        _required("scope_id", _SCOPE),
        _required("period_start", _moment()),
        _tenant(),
        _required("period_end", _moment()),
        _required("spent", _amount(60)),
        _required("reserved", _amount(60)),
        _required("throttle_credit", _amount()),
        sa.PrimaryKeyConstraint("budget_id", "scope_id", "period_start", name="pk_budget_periods"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_budget_periods_newest", "budget_periods", ["budget_id", "period_start", "scope_id"]
    )
    op.create_table(
        "budget_anchors",
        _required("budget_id", _id()),
        _required("scope_id", _SCOPE),
        _tenant(),
        _required("anchor", sa.Date()),
        sa.PrimaryKeyConstraint("budget_id", "scope_id", name="pk_budget_anchors"),
    )
    op.create_table(
        "reservations",
        _required("reservation_id", _id()),
        _tenant(),
        _required("status", sa.String(8)),
        _required("resource_type", sa.Text()),
        _required("estimated_cost", _amount()),
        _required("currency", sa.String(3)),
        sa.Column("project_id", _SCOPE),
        sa.Column("user_id", _SCOPE),
        sa.Column("feature_id", _SCOPE),
        sa.Column("service_name", sa.Text()),
        sa.Column("tags", sa.Text()),
        sa.Column("operation_id", _SCOPE),
        _required("created_at", _moment()),
        _required("expires_at", _moment()),
        sa.Column("record_id", _id()),
        sa.Column("actual_cost", _amount()),
        sa.Column("settlement", sa.Text()),
        sa.PrimaryKeyConstraint("reservation_id", name="pk_reservations"),
        sqlite_with_rowid=False,
    )
    # SQLite logs whole pages, so new holds go to the end; PostgreSQL finds a tenant's at once.
    pending = sa.text("status = 'pending'")
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(
            "ix_reservations_pending_by_expiry",
            "reservations",
            ["expires_at", "tenant_id", "status"],
            sqlite_where=pending,
        )
    else:
        op.create_index(
            "ix_reservations_pending_by_tenant",
            "reservations",
            ["tenant_id", "expires_at"],
            postgresql_where=pending,
        )
    op.create_table(
        "reservation_lines",
        _required("reservation_id", _id()),
        _required("budget_id", _id()),
        _required("scope_id", _SCOPE),
        _required("period_start", _moment()),
        _tenant(),
        _required("amount", _amount(60)),
        _required("rate", sa.Text().with_variant(sa.Numeric(), "postgresql")),
        _required("rate_date", sa.Date()),
        sa.PrimaryKeyConstraint(
            "reservation_id", "budget_id", "scope_id", name="pk_reservation_lines"
        ),
        sqlite_with_rowid=False,
    )


def _make_costs() -> None:
    op.create_table(
        "cost_records",
        _required("record_id", _id()),
        _required("timestamp", _moment()),
        _tenant(),
        _required("recorded_at", _moment()),
        _required("resource_type", sa.Text()),
        _required("cost_amount", _amount()),
        _required("currency", sa.String(3)),
        _required("charge_category", sa.String(16)),
        _required("attributed_to_type", sa.String(16)),
        _required("attributed_to_id", _SCOPE),
        sa.Column("project_id", _SCOPE),
        sa.Column("user_id", _SCOPE),
        sa.Column("feature_id", _SCOPE),
        sa.Column("usage_quantity", _amount()),
        sa.Column("usage_unit", sa.Text()),
        sa.Column("usage", sa.Text()),
        sa.Column("resource_id", sa.Text()),
        sa.Column("service_name", sa.Text()),
        sa.Column("region", sa.Text()),
        sa.Column("tags", sa.Text()),
        sa.Column("flags", sa.Text()),
        sa.Column("reservation_id", _id()),
        sa.Column("operation_id", _SCOPE),
        sa.PrimaryKeyConstraint("record_id", "timestamp", name="pk_cost_records"),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (timestamp)",
    )
    op.create_index(
        "ix_cost_records_tenant_id_timestamp", "cost_records", ["tenant_id", "timestamp"]
    )
    op.create_table(
        "cost_operations",
        _tenant(),
        _required("operation_id", _SCOPE),
        _required("record_id", _id()),
        _required("recorded_at", _moment()),
        _required("timestamp", _moment()),
        _required("cost_amount", _amount()),
        _required("currency", sa.String(3)),
        sa.PrimaryKeyConstraint("tenant_id", "operation_id", name="pk_cost_operations"),
    )
    op.create_table(
        "cost_series",
        _required("series_id", sa.String(32)),
        _tenant(),
        _required("resource_type", sa.Text()),
        sa.Column("service_name", sa.Text()),
        sa.Column("region", sa.Text()),
        sa.Column("project_id", _SCOPE),
        sa.Column("user_id", _SCOPE),
        sa.Column("feature_id", _SCOPE),
        _required("attributed_to_type", sa.String(16)),
        _required("attributed_to_id", _SCOPE),
        _required("charge_category", sa.String(16)),
        _required("currency", sa.String(3)),
        sa.Column("usage_unit", sa.Text()),
        sa.Column("tags", sa.Text()),
        sa.PrimaryKeyConstraint("series_id", name="pk_cost_series"),
    )
    op.create_index("ix_cost_series_tenant_id", "cost_series", ["tenant_id"])
    op.create_table(
        "cost_rollups",
        _tenant(),
        _required("bucket", _moment()),
        _required("series_id", sa.String(32)),
        _required("cost_amount", _amount(60)),
        _required("usage_quantity", _amount(60)),
        _required("record_count", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant_id", "bucket", "series_id", name="pk_cost_rollups"),
        sqlite_with_rowid=False,
    )


def _make_access() -> None:
    op.create_table(
        "idempotency_keys",
        _tenant(),
        _required("operation", sa.String(32)),
        _required("key", sa.String(256)),
        _required("body_hash", sa.String(64)),
        _required("answer", sa.Text()),
        _required("expires_at", _moment()),
        sa.PrimaryKeyConstraint("tenant_id", "operation", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])
    op.create_table(
        "api_keys",
        _required("key_id", _id()),
        _tenant(),
        _required("name", sa.String(200)),
        _required("key_hash", sa.String(64)),
        _required("hint", sa.String(16)),
        _required("roles", sa.Text()),
        _required("created_by", sa.String(256)),
        _required("created_at", _moment()),
        sa.Column("expires_at", _moment()),
        sa.Column("revoked_at", _moment()),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
    )
    op.create_index("ix_api_keys_newest", "api_keys", ["tenant_id", "key_id"])


# -- PostgreSQL only

# In sub-selects, so that a statement reads the setting once and not for each row.
_TENANTS: Final = "current_setting('fiscus.tenants', true)"
_VISIBLE: Final = f"""
    tenant_id = ANY ((SELECT string_to_array({_TENANTS}, ','))::text[])
    OR (SELECT {_TENANTS}) = '*'
"""


def _protect() -> None:
    """Give the application a role that owns nothing, and bind it to its transaction's tenants."""
    role = _app_role()
    op.execute(f"GRANT USAGE ON SCHEMA {_schema()} TO {role}")
    op.execute(f"GRANT SELECT ON alembic_version TO {role}")
    for table, may in _TENANT_TABLES.items():
        op.execute(f"GRANT {may} ON {table} TO {role}")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_rows ON {table} USING ({_VISIBLE}) WITH CHECK ({_VISIBLE})"
        )


def _partition() -> None:
    """Partition cost records by month, with a function that makes the months ahead.

    The application may call the function and nothing else of the kind: it runs as the owner.
    A month whose rows already sit in the default partition stays there.
    """
    role = _app_role()
    op.create_index(
        "ix_cost_records_timestamp", "cost_records", ["timestamp"], postgresql_using="brin"
    )
    op.execute("CREATE TABLE cost_records_default PARTITION OF cost_records DEFAULT")
    op.execute("ALTER TABLE cost_records_default ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE cost_records_default FORCE ROW LEVEL SECURITY")
    op.execute(
        f"""
        CREATE FUNCTION fiscus_make_cost_partitions(months_ahead integer) RETURNS SETOF text
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {_schema()}, pg_temp AS $$
        DECLARE
            this_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
            first timestamp;
            made text;
        BEGIN
            IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 24 THEN
                RAISE EXCEPTION 'months_ahead must be 0 to 24';
            END IF;
            FOR step IN -1..months_ahead LOOP
                first := this_month + make_interval(months => step);
                made := 'cost_records_' || to_char(first, 'YYYY_MM');
                CONTINUE WHEN to_regclass(made) IS NOT NULL;
                BEGIN
                    EXECUTE format(
                        'CREATE TABLE %I PARTITION OF cost_records FOR VALUES FROM (%L) TO (%L)',
                        made, first AT TIME ZONE 'UTC',
                        (first + interval '1 month') AT TIME ZONE 'UTC');
                    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', made);
                    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', made);
                    RETURN NEXT made;
                EXCEPTION WHEN check_violation OR duplicate_table THEN
                    NULL;
                END;
            END LOOP;
        END $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION fiscus_make_cost_partitions(integer) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION fiscus_make_cost_partitions(integer) TO {role}")
    op.execute("SELECT fiscus_make_cost_partitions(3)")


def _app_role() -> str:
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


def _schema() -> str:
    return _quoted("SELECT current_schema()")


def _quoted(query: str) -> str:
    """The name that `query` answers, as an identifier."""
    name = _scalar(query)
    return op.get_bind().dialect.identifier_preparer.quote(name)


def _scalar(query: str) -> Any:
    return op.get_bind().execute(sa.text(query)).scalar_one()

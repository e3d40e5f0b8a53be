"""Tenants, budgets, reservations, costs, keys"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from fiscus.stores.sql.migrations.columns import SCOPE, amount, moment, required, tenant, uuid_type
from fiscus.stores.sql.migrations.months import partition
from fiscus.stores.sql.migrations.row_security import app_role, protect, schema

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES: Final = {
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
"""Each table with what the application may do to it."""


def upgrade() -> None:
    _make_definitions()
    _make_usage()
    _make_costs()
    _make_access()
    if op.get_bind().dialect.name == "postgresql":
        _admit()
        protect(_TABLES)
        op.create_index(
            "ix_cost_records_timestamp", "cost_records", ["timestamp"], postgresql_using="brin"
        )
        partition("cost_records", "timestamp", "fiscus_make_cost_partitions")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION fiscus_make_cost_partitions(integer)")
    # The application's role stays: it belongs to the server, and logins may be members of it.
    for table in reversed(_TABLES):
        op.drop_table(table)


# -- tables


def _make_definitions() -> None:
    op.create_table(
        "tenants",
        tenant(),
        required("currency", sa.String(3)),
        required("timezone", sa.String(64)),
        required("require_budget", sa.Boolean()),
        required("rollup_tags", sa.Text()),
        required("version", sa.Integer()),
        required("definitions_version", sa.BigInteger()),
        required("created_at", moment()),
        required("updated_at", moment()),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenants"),
    )
    op.create_table(
        "budgets",
        required("budget_id", uuid_type()),
        tenant(),
        required("version", sa.Integer()),
        required("definitions_version", sa.BigInteger()),
        required("budget_name", sa.String(200)),
        required("budget_amount", amount()),
        required("currency", sa.String(3)),
        required("period_type", sa.String(16)),
        required("allocated_to_type", sa.String(16)),
        required("allocated_to_id", SCOPE),
        required("enforcement_action", sa.String(16)),
        required("definition", sa.Text()),
        required("created_at", moment()),
        required("updated_at", moment()),
        sa.Column("deleted_at", moment()),
        sa.PrimaryKeyConstraint("budget_id", name="pk_budgets"),
    )
    op.create_index(
        "ix_budgets_tenant_id_definitions_version", "budgets", ["tenant_id", "definitions_version"]
    )
    op.create_index("ix_budgets_newest", "budgets", ["tenant_id", "budget_id"])
    op.create_table(
        "budget_versions",
        required("budget_id", uuid_type()),
        required("version", sa.Integer()),
        tenant(),
        required("definition", sa.Text()),
        required("changed_by", sa.String(256)),
        required("changed_at", moment()),
        sa.PrimaryKeyConstraint("budget_id", "version", name="pk_budget_versions"),
    )


def _make_usage() -> None:
    op.create_table(
        "budget_periods",
        required("budget_id", uuid_type()),
        required("scope_id", SCOPE),
        required("period_start", moment()),
        tenant(),
        required("period_end", moment()),
        required("spent", amount(60)),
        required("reserved", amount(60)),
        required("throttle_credit", amount()),
        sa.PrimaryKeyConstraint("budget_id", "scope_id", "period_start", name="pk_budget_periods"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_budget_periods_newest", "budget_periods", ["budget_id", "period_start", "scope_id"]
    )
    op.create_table(
        "budget_anchors",
        required("budget_id", uuid_type()),
        required("scope_id", SCOPE),
        tenant(),
        required("anchor", sa.Date()),
        sa.PrimaryKeyConstraint("budget_id", "scope_id", name="pk_budget_anchors"),
    )
    op.create_table(
        "reservations",
        required("reservation_id", uuid_type()),
        tenant(),
        required("status", sa.String(8)),
        required("resource_type", sa.Text()),
        required("estimated_cost", amount()),
        required("currency", sa.String(3)),
        sa.Column("project_id", SCOPE),
        sa.Column("user_id", SCOPE),
        sa.Column("feature_id", SCOPE),
        sa.Column("service_name", sa.Text()),
        sa.Column("tags", sa.Text()),
        sa.Column("operation_id", SCOPE),
        required("created_at", moment()),
        required("expires_at", moment()),
        sa.Column("record_id", uuid_type()),
        sa.Column("actual_cost", amount()),
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
        required("reservation_id", uuid_type()),
        required("budget_id", uuid_type()),
        required("scope_id", SCOPE),
        required("period_start", moment()),
        tenant(),
        required("amount", amount(60)),
        required("rate", sa.Text().with_variant(sa.Numeric(), "postgresql")),
        required("rate_date", sa.Date()),
        sa.PrimaryKeyConstraint(
            "reservation_id", "budget_id", "scope_id", name="pk_reservation_lines"
        ),
        sqlite_with_rowid=False,
    )


def _make_costs() -> None:
    op.create_table(
        "cost_records",
        required("record_id", uuid_type()),
        required("timestamp", moment()),
        tenant(),
        required("recorded_at", moment()),
        required("resource_type", sa.Text()),
        required("cost_amount", amount()),
        required("currency", sa.String(3)),
        required("charge_category", sa.String(16)),
        required("attributed_to_type", sa.String(16)),
        required("attributed_to_id", SCOPE),
        sa.Column("project_id", SCOPE),
        sa.Column("user_id", SCOPE),
        sa.Column("feature_id", SCOPE),
        sa.Column("usage_quantity", amount()),
        sa.Column("usage_unit", sa.Text()),
        sa.Column("usage", sa.Text()),
        sa.Column("resource_id", sa.Text()),
        sa.Column("service_name", sa.Text()),
        sa.Column("region", sa.Text()),
        sa.Column("tags", sa.Text()),
        sa.Column("flags", sa.Text()),
        sa.Column("reservation_id", uuid_type()),
        sa.Column("operation_id", SCOPE),
        sa.PrimaryKeyConstraint("record_id", "timestamp", name="pk_cost_records"),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (timestamp)",
    )
    op.create_index(
        "ix_cost_records_tenant_id_timestamp", "cost_records", ["tenant_id", "timestamp"]
    )
    op.create_table(
        "cost_operations",
        tenant(),
        required("operation_id", SCOPE),
        required("record_id", uuid_type()),
        required("recorded_at", moment()),
        required("timestamp", moment()),
        required("cost_amount", amount()),
        required("currency", sa.String(3)),
        sa.PrimaryKeyConstraint("tenant_id", "operation_id", name="pk_cost_operations"),
    )
    op.create_table(
        "cost_series",
        required("series_id", sa.String(32)),
        tenant(),
        required("resource_type", sa.Text()),
        sa.Column("service_name", sa.Text()),
        sa.Column("region", sa.Text()),
        sa.Column("project_id", SCOPE),
        sa.Column("user_id", SCOPE),
        sa.Column("feature_id", SCOPE),
        required("attributed_to_type", sa.String(16)),
        required("attributed_to_id", SCOPE),
        required("charge_category", sa.String(16)),
        required("currency", sa.String(3)),
        sa.Column("usage_unit", sa.Text()),
        sa.Column("tags", sa.Text()),
        sa.PrimaryKeyConstraint("series_id", name="pk_cost_series"),
    )
    op.create_index("ix_cost_series_tenant_id", "cost_series", ["tenant_id"])
    op.create_table(
        "cost_rollups",
        tenant(),
        required("bucket", moment()),
        required("series_id", sa.String(32)),
        required("cost_amount", amount(60)),
        required("usage_quantity", amount(60)),
        required("record_count", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant_id", "bucket", "series_id", name="pk_cost_rollups"),
        sqlite_with_rowid=False,
    )


def _make_access() -> None:
    op.create_table(
        "idempotency_keys",
        tenant(),
        required("operation", sa.String(32)),
        required("key", sa.String(256)),
        required("body_hash", sa.String(64)),
        required("answer", sa.Text()),
        required("expires_at", moment()),
        sa.PrimaryKeyConstraint("tenant_id", "operation", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])
    op.create_table(
        "api_keys",
        required("key_id", uuid_type()),
        tenant(),
        required("name", sa.String(200)),
        required("key_hash", sa.String(64)),
        required("hint", sa.String(16)),
        required("roles", sa.Text()),
        required("created_by", sa.String(256)),
        required("created_at", moment()),
        sa.Column("expires_at", moment()),
        sa.Column("revoked_at", moment()),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
    )
    op.create_index("ix_api_keys_newest", "api_keys", ["tenant_id", "key_id"])


# -- PostgreSQL only


def _admit() -> None:
    """Give the application a role that owns nothing."""
    role = app_role()
    op.execute(f"GRANT USAGE ON SCHEMA {schema()} TO {role}")
    op.execute(f"GRANT SELECT ON alembic_version TO {role}")

"""Quotas, what was consumed of them and asked for; whether a tenant requires them"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from fiscus.stores.sql.migrations.columns import SCOPE, amount, moment, required, tenant, uuid_type
from fiscus.stores.sql.migrations.months import dropping, partition
from fiscus.stores.sql.migrations.row_security import protect

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES: Final = {
    "quotas": "SELECT, INSERT, UPDATE",
    "quota_versions": "SELECT, INSERT",
    "quota_balances": "SELECT, INSERT, UPDATE",
    "quota_consumptions": "SELECT, INSERT, UPDATE",
    "quota_consumption_lines": "SELECT, INSERT, UPDATE",
    "quota_usage": "SELECT, INSERT, DELETE",
    "quota_requests": "SELECT, INSERT, UPDATE",
}
"""Each table with what the application may do to it."""


def upgrade() -> None:
    _make_definitions()
    _make_usage()
    _make_requests()
    op.add_column(
        "tenants",
        sa.Column("require_quota", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    if op.get_bind().dialect.name == "postgresql":
        protect(_TABLES)
        partition("quota_usage", "at", "fiscus_make_quota_partitions")
        dropping("quota_usage", "fiscus_drop_quota_partitions")


def downgrade() -> None:
    op.drop_column("tenants", "require_quota")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION fiscus_make_quota_partitions(integer)")
        op.execute("DROP FUNCTION fiscus_drop_quota_partitions(timestamptz)")
    for table in reversed(_TABLES):
        op.drop_table(table)


def _make_definitions() -> None:
    op.create_table(
        "quotas",
        required("quota_id", uuid_type()),
        tenant(),
        required("version", sa.Integer()),
        required("definitions_version", sa.BigInteger()),
        required("scope_type", sa.String(16)),
        required("scope_id", SCOPE),
        required("resource_type", sa.Text()),
        required("period_start", moment()),
        required("period_end", moment()),
        required("auto_renew", sa.Boolean()),
        required("renewal_status", sa.String(16)),
        sa.Column("renew_at", moment()),
        required("renewal_tries", sa.Integer()),
        sa.Column("renewal_error", sa.Text()),
        sa.Column("renewed_from", uuid_type()),
        required("definition", sa.Text()),
        required("created_at", moment()),
        required("updated_at", moment()),
        sa.Column("deleted_at", moment()),
        sa.PrimaryKeyConstraint("quota_id", name="pk_quotas"),
        sa.UniqueConstraint("renewed_from", name="uq_quotas_renewed_from"),
    )
    for name, columns in (
        ("ix_quotas_tenant_id_definitions_version", ["tenant_id", "definitions_version"]),
        ("ix_quotas_newest", ["tenant_id", "quota_id"]),
        ("ix_quotas_running", ["tenant_id", "period_end"]),
        ("ix_quotas_place", ["tenant_id", "scope_id", "resource_type", "period_end"]),
    ):
        op.create_index(name, "quotas", columns)
    due = sa.text("renew_at IS NOT NULL")
    op.create_index("ix_quotas_due", "quotas", ["renew_at"], sqlite_where=due, postgresql_where=due)
    op.create_table(
        "quota_versions",
        required("quota_id", uuid_type()),
        required("version", sa.Integer()),
        tenant(),
        required("definition", sa.Text()),
        required("changed_by", sa.String(256)),
        required("changed_at", moment()),
        sa.PrimaryKeyConstraint("quota_id", "version", name="pk_quota_versions"),
    )


def _make_usage() -> None:
    op.create_table(
        "quota_balances",
        required("quota_id", uuid_type()),
        required("scope_id", SCOPE),
        tenant(),
        required("used", amount(60)),
        required("burst_used", amount(60)),
        sa.PrimaryKeyConstraint("quota_id", "scope_id", name="pk_quota_balances"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quota_consumptions",
        required("consumption_id", uuid_type()),
        tenant(),
        required("resource_type", sa.Text()),
        required("amount", amount()),
        required("released", amount()),
        sa.Column("project_id", SCOPE),
        sa.Column("user_id", SCOPE),
        sa.Column("feature_id", SCOPE),
        sa.Column("operation_id", SCOPE),
        required("created_at", moment()),
        sa.PrimaryKeyConstraint("consumption_id", name="pk_quota_consumptions"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quota_consumption_lines",
        required("consumption_id", uuid_type()),
        required("quota_id", uuid_type()),
        required("scope_id", SCOPE),
        tenant(),
        required("amount", amount()),
        required("burst", amount()),
        required("released", amount()),
        required("burst_released", amount()),
        sa.Column("premium_rate", amount()),
        sa.Column("premium_currency", sa.String(3)),
        sa.PrimaryKeyConstraint(
            "consumption_id", "quota_id", "scope_id", name="pk_quota_consumption_lines"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quota_usage",
        required("usage_id", uuid_type()),
        required("at", moment()),
        tenant(),
        required("quota_id", uuid_type()),
        required("scope_id", SCOPE),
        required("kind", sa.String(8)),
        required("amount", amount()),
        required("burst", amount()),
        required("used_after", amount(60)),
        required("consumption_id", uuid_type()),
        sa.Column("project_id", SCOPE),
        sa.Column("user_id", SCOPE),
        sa.Column("feature_id", SCOPE),
        sa.PrimaryKeyConstraint("usage_id", "at", name="pk_quota_usage"),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index("ix_quota_usage_newest", "quota_usage", ["quota_id", "at", "usage_id"])
    op.create_index("ix_quota_usage_scope", "quota_usage", ["tenant_id", "scope_id", "at"])
    op.create_index("ix_quota_usage_at", "quota_usage", ["at"], postgresql_using="brin")


def _make_requests() -> None:
    op.create_table(
        "quota_requests",
        required("request_id", uuid_type()),
        tenant(),
        required("quota_id", uuid_type()),
        required("additional_amount", amount()),
        required("reason", sa.String(500)),
        required("status", sa.String(8)),
        required("requested_by", sa.String(256)),
        required("requested_at", moment()),
        sa.Column("decided_by", sa.String(256)),
        sa.Column("decided_at", moment()),
        sa.Column("comment", sa.String(500)),
        sa.PrimaryKeyConstraint("request_id", name="pk_quota_requests"),
    )
    op.create_index("ix_quota_requests_newest", "quota_requests", ["tenant_id", "request_id"])

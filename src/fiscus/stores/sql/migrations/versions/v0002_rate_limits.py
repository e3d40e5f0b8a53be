"""Rate limit policies, their emergencies and use; the highest priority of API keys"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from fiscus.stores.sql.migrations.columns import SCOPE, moment, required, tenant, uuid_type
from fiscus.stores.sql.migrations.row_security import protect

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES: Final = {
    "rate_limit_policies": "SELECT, INSERT, UPDATE",
    "rate_limit_policy_versions": "SELECT, INSERT",
    "rate_limit_emergencies": "SELECT, INSERT, UPDATE",
    "rate_limit_usage": "SELECT, INSERT, UPDATE, DELETE",
}
"""Each table with what the application may do to it."""


def upgrade() -> None:
    _make_policies()
    _make_usage()
    op.add_column(
        "api_keys",
        sa.Column("highest_priority", sa.String(16), nullable=False, server_default="normal"),
    )
    if op.get_bind().dialect.name == "postgresql":
        protect(_TABLES)


def downgrade() -> None:
    op.drop_column("api_keys", "highest_priority")
    for table in reversed(_TABLES):
        op.drop_table(table)


def _make_policies() -> None:
    op.create_table(
        "rate_limit_policies",
        required("policy_id", uuid_type()),
        tenant(),
        required("version", sa.Integer()),
        required("generation", sa.Integer()),
        required("scope_type", sa.String(16)),
        required("scope_id", SCOPE),
        required("resource_type", sa.Text()),
        required("algorithm", sa.String(32)),
        required("shadow", sa.Boolean()),
        required("definition", sa.Text()),
        required("follows_usage", sa.Boolean()),
        sa.Column("hourly_load", sa.Text()),
        sa.Column("learned_until", moment()),
        required("created_at", moment()),
        required("updated_at", moment()),
        sa.Column("reset_at", moment()),
        sa.Column("reset_by", sa.String(256)),
        sa.Column("deleted_at", moment()),
        sa.PrimaryKeyConstraint("policy_id", name="pk_rate_limit_policies"),
    )
    op.create_index(
        "ix_rate_limit_policies_newest", "rate_limit_policies", ["tenant_id", "policy_id"]
    )
    op.create_table(
        "rate_limit_policy_versions",
        required("policy_id", uuid_type()),
        required("version", sa.Integer()),
        tenant(),
        required("definition", sa.Text()),
        required("changed_by", sa.String(256)),
        required("changed_at", moment()),
        sa.PrimaryKeyConstraint("policy_id", "version", name="pk_rate_limit_policy_versions"),
    )
    op.create_table(
        "rate_limit_emergencies",
        required("emergency_id", uuid_type()),
        required("policy_id", uuid_type()),
        tenant(),
        required("additional_capacity", sa.BigInteger()),
        required("reason", sa.String(500)),
        required("requested_by", sa.String(256)),
        required("starts_at", moment()),
        required("ends_at", moment()),
        sa.Column("approved_by", sa.String(256)),
        sa.Column("approved_at", moment()),
        sa.PrimaryKeyConstraint("emergency_id", name="pk_rate_limit_emergencies"),
    )
    for owner in ("tenant_id", "policy_id"):
        op.create_index(
            f"ix_rate_limit_emergencies_{owner}_ends_at",
            "rate_limit_emergencies",
            [owner, "ends_at"],
        )


def _make_usage() -> None:
    op.create_table(
        "rate_limit_usage",
        required("policy_id", uuid_type()),
        required("scope_id", SCOPE),
        required("window_start", moment()),
        tenant(),
        required("window_end", moment()),
        required("checks", sa.BigInteger()),
        required("admitted", sa.BigInteger()),
        required("denied", sa.BigInteger()),
        required("shadow_denied", sa.BigInteger()),
        sa.PrimaryKeyConstraint(
            "policy_id", "scope_id", "window_start", name="pk_rate_limit_usage"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_rate_limit_usage_newest", "rate_limit_usage", ["policy_id", "window_start", "scope_id"]
    )
    op.create_index("ix_rate_limit_usage_window_end", "rate_limit_usage", ["window_end"])

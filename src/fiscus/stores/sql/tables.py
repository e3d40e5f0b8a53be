"""The tables, for SQLite and PostgreSQL alike; those of quotas are in `quotas.tables`.

Amounts are NUMERIC on PostgreSQL and text on SQLite, times are TIMESTAMPTZ and integer microseconds
since 1970. Every table with tenant rows has `tenant_id`, which row-level security goes by.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    false,
)

from fiscus.stores.sql.column_types import AMOUNT, SCOPE_ID, SUM, UtcTime, uuid_type

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

tenants = Table(
    "tenants",
    metadata,
    Column("tenant_id", SCOPE_ID, primary_key=True),
    Column("currency", String(3), nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("require_budget", Boolean, nullable=False),
    Column("require_quota", Boolean, nullable=False, server_default=false()),
    Column("rollup_tags", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("definitions_version", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
)

budgets = Table(
    "budgets",
    metadata,
    Column("budget_id", uuid_type(), primary_key=True),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("version", Integer, nullable=False),
    # The tenant's definitions_version of the last change: caches read what is newer than theirs.
    Column("definitions_version", BigInteger, nullable=False),
    Column("budget_name", String(200), nullable=False),
    Column("budget_amount", AMOUNT, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("period_type", String(16), nullable=False),
    Column("allocated_to_type", String(16), nullable=False),
    Column("allocated_to_id", SCOPE_ID, nullable=False),
    Column("enforcement_action", String(16), nullable=False),
    # The whole definition as canonical JSON; the columns above are for lists and filters.
    Column("definition", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("deleted_at", UtcTime),
    Index(None, "tenant_id", "definitions_version"),
    Index("ix_budgets_newest", "tenant_id", "budget_id"),
)

budget_versions = Table(
    "budget_versions",
    metadata,
    Column("budget_id", uuid_type(), nullable=False),
    Column("version", Integer, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("definition", Text, nullable=False),
    Column("changed_by", String(256), nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("budget_id", "version"),
)

budget_periods = Table(
    "budget_periods",
    metadata,
    Column("budget_id", uuid_type(), nullable=False),
    Column("scope_id", SCOPE_ID, nullable=False),
    Column("period_start", UtcTime, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("period_end", UtcTime, nullable=False),
    Column("spent", SUM, nullable=False),
    Column("reserved", SUM, nullable=False),
    Column("throttle_credit", AMOUNT, nullable=False),
    PrimaryKeyConstraint("budget_id", "scope_id", "period_start"),
    # Written once per period: what a group changes is in none of its columns.
    Index("ix_budget_periods_newest", "budget_id", "period_start", "scope_id"),
    sqlite_with_rowid=False,
)

budget_anchors = Table(
    "budget_anchors",
    metadata,
    Column("budget_id", uuid_type(), nullable=False),
    Column("scope_id", SCOPE_ID, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("anchor", Date, nullable=False),
    PrimaryKeyConstraint("budget_id", "scope_id"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("reservation_id", uuid_type(), primary_key=True),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("status", String(8), nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("estimated_cost", AMOUNT, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("project_id", SCOPE_ID),
    Column("user_id", SCOPE_ID),
    Column("feature_id", SCOPE_ID),
    Column("service_name", Text),
    Column("tags", Text),
    Column("operation_id", SCOPE_ID),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("record_id", uuid_type()),
    Column("actual_cost", AMOUNT),
    Column("settlement", Text),
    Column("lines", Text, nullable=False, server_default="[]"),
    sqlite_with_rowid=False,
)
# SQLite writes whole pages to its log: by expiry first, new holds share the index's last page.
# PostgreSQL logs what changed: by tenant first, a tenant's holds are found without the others'.
Index(
    "ix_reservations_pending_by_expiry",
    reservations.c.expires_at,
    reservations.c.tenant_id,
    reservations.c.status,
    sqlite_where=reservations.c.status == "pending",
).ddl_if(dialect="sqlite")
Index(
    "ix_reservations_pending_by_tenant",
    reservations.c.tenant_id,
    reservations.c.expires_at,
    postgresql_where=reservations.c.status == "pending",
).ddl_if(dialect="postgresql")

cost_records = Table(
    "cost_records",
    metadata,
    Column("record_id", uuid_type(), nullable=False),
    Column("timestamp", UtcTime, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("cost_amount", AMOUNT, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("charge_category", String(16), nullable=False),
    Column("attributed_to_type", String(16), nullable=False),
    Column("attributed_to_id", SCOPE_ID, nullable=False),
    Column("project_id", SCOPE_ID),
    Column("user_id", SCOPE_ID),
    Column("feature_id", SCOPE_ID),
    Column("usage_quantity", AMOUNT),
    Column("usage_unit", Text),
    Column("usage", Text),
    Column("resource_id", Text),
    Column("service_name", Text),
    Column("region", Text),
    Column("tags", Text),
    Column("flags", Text),
    Column("reservation_id", uuid_type()),
    Column("operation_id", SCOPE_ID),
    # PostgreSQL partitions by month of `timestamp`, so the key must contain it.
    PrimaryKeyConstraint("record_id", "timestamp"),
    Index(None, "tenant_id", "timestamp"),
    sqlite_with_rowid=False,
)

cost_operations = Table(
    "cost_operations",
    metadata,
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("operation_id", SCOPE_ID, nullable=False),
    Column("record_id", uuid_type(), nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    Column("timestamp", UtcTime, nullable=False),
    Column("cost_amount", AMOUNT, nullable=False),
    Column("currency", String(3), nullable=False),
    PrimaryKeyConstraint("tenant_id", "operation_id"),
)

cost_series = Table(
    "cost_series",
    metadata,
    Column("series_id", String(32), primary_key=True),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("service_name", Text),
    Column("region", Text),
    Column("project_id", SCOPE_ID),
    Column("user_id", SCOPE_ID),
    Column("feature_id", SCOPE_ID),
    Column("attributed_to_type", String(16), nullable=False),
    Column("attributed_to_id", SCOPE_ID, nullable=False),
    Column("charge_category", String(16), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("usage_unit", Text),
    Column("tags", Text),
    Index(None, "tenant_id"),
)

cost_rollups = Table(
    "cost_rollups",
    metadata,
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("bucket", UtcTime, nullable=False),
    Column("series_id", String(32), nullable=False),
    Column("cost_amount", SUM, nullable=False),
    Column("usage_quantity", SUM, nullable=False),
    Column("record_count", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "bucket", "series_id"),
    sqlite_with_rowid=False,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("operation", String(32), nullable=False),
    Column("key", String(256), nullable=False),
    Column("body_hash", String(64), nullable=False),
    Column("answer", Text, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("tenant_id", "operation", "key"),
    Index(None, "expires_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", uuid_type(), primary_key=True),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("name", String(200), nullable=False),
    Column("key_hash", String(64), nullable=False, unique=True),
    Column("hint", String(16), nullable=False),
    Column("roles", Text, nullable=False),
    Column("created_by", String(256), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
    Column("highest_priority", String(16), nullable=False, server_default="normal"),
    Index("ix_api_keys_newest", "tenant_id", "key_id"),
)

rate_limit_policies = Table(
    "rate_limit_policies",
    metadata,
    Column("policy_id", uuid_type(), primary_key=True),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("version", Integer, nullable=False),
    # Part of the counters' keys: those of an earlier generation are never looked at again.
    Column("generation", Integer, nullable=False),
    Column("scope_type", String(16), nullable=False),
    Column("scope_id", SCOPE_ID, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("algorithm", String(32), nullable=False),
    Column("shadow", Boolean, nullable=False),
    # The whole definition as canonical JSON; the columns above are for lists and filters.
    Column("definition", Text, nullable=False),
    # Whether the limit follows the usual load, a JSON array; learned up to that moment.
    Column("follows_usage", Boolean, nullable=False),
    Column("hourly_load", Text),
    Column("learned_until", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("reset_at", UtcTime),
    Column("reset_by", String(256)),
    Column("deleted_at", UtcTime),
    Index("ix_rate_limit_policies_newest", "tenant_id", "policy_id"),
)

rate_limit_policy_versions = Table(
    "rate_limit_policy_versions",
    metadata,
    Column("policy_id", uuid_type(), nullable=False),
    Column("version", Integer, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("definition", Text, nullable=False),
    Column("changed_by", String(256), nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("policy_id", "version"),
)

rate_limit_emergencies = Table(
    "rate_limit_emergencies",
    metadata,
    Column("emergency_id", uuid_type(), primary_key=True),
    Column("policy_id", uuid_type(), nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("additional_capacity", BigInteger, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("requested_by", String(256), nullable=False),
    Column("starts_at", UtcTime, nullable=False),
    Column("ends_at", UtcTime, nullable=False),
    Column("approved_by", String(256)),
    Column("approved_at", UtcTime),
    Index(None, "tenant_id", "ends_at"),
    Index(None, "policy_id", "ends_at"),
)

rate_limit_usage = Table(
    "rate_limit_usage",
    metadata,
    Column("policy_id", uuid_type(), nullable=False),
    Column("scope_id", SCOPE_ID, nullable=False),
    Column("window_start", UtcTime, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("window_end", UtcTime, nullable=False),
    Column("checks", BigInteger, nullable=False),
    Column("admitted", BigInteger, nullable=False),
    Column("denied", BigInteger, nullable=False),
    Column("shadow_denied", BigInteger, nullable=False),
    PrimaryKeyConstraint("policy_id", "scope_id", "window_start"),
    # What is added later changes none of their columns.
    Index("ix_rate_limit_usage_newest", "policy_id", "window_start", "scope_id"),
    Index(None, "window_end"),
    sqlite_with_rowid=False,
)

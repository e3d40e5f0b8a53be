"""The tables of quotas: definitions, balances, consumptions with what they took, and history.

As in `tables`, whose `metadata` they are part of.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

from fiscus.stores.sql.column_types import AMOUNT, SCOPE_ID, SUM, UtcTime, uuid_type
from fiscus.stores.sql.tables import metadata

quotas = Table(
    "quotas",
    metadata,
    Column("quota_id", uuid_type(), primary_key=True),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("version", Integer, nullable=False),
    # The tenant's definitions_version of the last change: caches read what is newer than theirs.
    Column("definitions_version", BigInteger, nullable=False),
    Column("scope_type", String(16), nullable=False),
    Column("scope_id", SCOPE_ID, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("period_start", UtcTime, nullable=False),
    Column("period_end", UtcTime, nullable=False),
    Column("auto_renew", Boolean, nullable=False),
    Column("renewal_status", String(16), nullable=False),
    # When the next period is to be allocated, or tried again; null once there is nothing to do.
    Column("renew_at", UtcTime),
    Column("renewal_tries", Integer, nullable=False),
    Column("renewal_error", Text),
    # A quota is renewed once, whoever tries.
    Column("renewed_from", uuid_type(), unique=True),
    # The whole definition as canonical JSON; the columns above are for look-ups and filters.
    Column("definition", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("deleted_at", UtcTime),
    Index(None, "tenant_id", "definitions_version"),
    Index("ix_quotas_newest", "tenant_id", "quota_id"),
    Index("ix_quotas_running", "tenant_id", "period_end"),
    Index("ix_quotas_place", "tenant_id", "scope_id", "resource_type", "period_end"),
)
Index(
    "ix_quotas_due",
    quotas.c.renew_at,
    sqlite_where=quotas.c.renew_at.is_not(None),
    postgresql_where=quotas.c.renew_at.is_not(None),
)

quota_versions = Table(
    "quota_versions",
    metadata,
    Column("quota_id", uuid_type(), nullable=False),
    Column("version", Integer, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("definition", Text, nullable=False),
    Column("changed_by", String(256), nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("quota_id", "version"),
)

quota_balances = Table(
    "quota_balances",
    metadata,
    Column("quota_id", uuid_type(), nullable=False),
    Column("scope_id", SCOPE_ID, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("used", SUM, nullable=False),
    Column("burst_used", SUM, nullable=False),
    PrimaryKeyConstraint("quota_id", "scope_id"),
    sqlite_with_rowid=False,
)

quota_consumptions = Table(
    "quota_consumptions",
    metadata,
    Column("consumption_id", uuid_type(), primary_key=True),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("released", AMOUNT, nullable=False),
    Column("project_id", SCOPE_ID),
    Column("user_id", SCOPE_ID),
    Column("feature_id", SCOPE_ID),
    Column("operation_id", SCOPE_ID),
    Column("created_at", UtcTime, nullable=False),
    # What it took from each quota, as JSON of model.ConsumptionLine: only ever read as a whole.
    Column("lines", Text, nullable=False),
    sqlite_with_rowid=False,
)

quota_usage = Table(
    "quota_usage",
    metadata,
    # Orders what happened to a quota at one moment.
    Column("usage_id", BigInteger, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("quota_id", uuid_type(), nullable=False),
    Column("scope_id", SCOPE_ID, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("burst", AMOUNT, nullable=False),
    Column("used_after", SUM, nullable=False),
    Column("consumption_id", uuid_type(), nullable=False),
    # The order of a quota's history. Rows lie in the order they came, also on SQLite, where in key
    # order each would change a page of its own.
    PrimaryKeyConstraint("quota_id", "at", "usage_id"),
    Index("ix_quota_usage_at", "at", postgresql_using="brin"),
)

quota_requests = Table(
    "quota_requests",
    metadata,
    Column("request_id", uuid_type(), primary_key=True),
    Column("tenant_id", SCOPE_ID, nullable=False),
    Column("quota_id", uuid_type(), nullable=False),
    Column("additional_amount", AMOUNT, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("status", String(8), nullable=False),
    Column("requested_by", String(256), nullable=False),
    Column("requested_at", UtcTime, nullable=False),
    Column("decided_by", String(256)),
    Column("decided_at", UtcTime),
    Column("comment", String(500)),
    Index("ix_quota_requests_newest", "tenant_id", "request_id"),
)

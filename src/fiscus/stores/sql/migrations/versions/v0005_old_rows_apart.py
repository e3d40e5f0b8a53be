"""Rows from before the first month lie in a partition of their own"""

from __future__ import annotations

from typing import Final

from alembic import op

from fiscus.stores.sql.migrations.months import making, put_old_rows_back, set_old_rows_apart

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES: Final = (
    ("cost_records", "timestamp", "fiscus_make_cost_partitions"),
    ("quota_usage", "at", "fiscus_make_quota_partitions"),
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, time, make in _TABLES:
            making(table, time, make)
            set_old_rows_apart(table, time, make)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, _, _ in _TABLES:
            put_old_rows_back(table)

"""What a consumption took lies in its row; the history of quotas is keyed by quota and time"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from fiscus.stores.sql.migrations.columns import SCOPE, amount, moment, required, tenant, uuid_type
from fiscus.stores.sql.migrations.row_security import protect

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LINE: Final = ("amount", "burst", "released", "burst_released")
_IDS: Final = ("project_id", "user_id", "feature_id")
"""Are those of the consumption."""
_USAGE: Final = "at, tenant_id, quota_id, scope_id, kind, amount, burst, used_after, consumption_id"
_NAME: Final = (
    "'0000000' || substr({hex}, 1, 1) || '-0000-7000-8' || substr({hex}, 2, 3) || '-' "
    "|| substr({hex}, 5)"
)
"""A UUID by the 16 hexadecimal digits of a number."""


def upgrade() -> None:
    lines = sa.Column("lines", sa.Text(), nullable=False, server_default="[]")
    op.add_column("quota_consumptions", lines)
    postgres = _is_postgres()
    op.execute(_GATHER_ON_POSTGRES if postgres else _GATHER_ON_SQLITE)
    op.drop_table("quota_consumption_lines")
    op.drop_index("ix_quota_usage_newest", "quota_usage")
    op.drop_index("ix_quota_usage_scope", "quota_usage")
    if postgres:
        _number_usage()
    else:
        key = ("quota_id", "at", "usage_id")
        _make_usage_anew(sa.BigInteger(), key, "row_number() OVER (ORDER BY usage_id)")


def downgrade() -> None:
    postgres = _is_postgres()
    if postgres:
        op.execute("ALTER TABLE quota_usage DROP CONSTRAINT pk_quota_usage")
        name = _NAME.format(hex="lpad(to_hex(usage_id), 16, '0')")
        op.execute(f"ALTER TABLE quota_usage ALTER usage_id TYPE uuid USING CAST({name} AS uuid)")
        op.create_primary_key("pk_quota_usage", "quota_usage", ["usage_id", "at"])
    else:
        name = _NAME.format(hex="printf('%016x', usage_id)")
        _make_usage_anew(uuid_type(), ("usage_id", "at"), name, with_rowid=False)
    for name in _IDS:
        op.add_column("quota_usage", sa.Column(name, SCOPE))
    op.execute(
        """
        UPDATE quota_usage SET project_id = c.project_id, user_id = c.user_id,
               feature_id = c.feature_id
        FROM quota_consumptions c WHERE c.consumption_id = quota_usage.consumption_id
        """
    )
    op.create_index("ix_quota_usage_newest", "quota_usage", ["quota_id", "at", "usage_id"])
    op.create_index("ix_quota_usage_scope", "quota_usage", ["tenant_id", "scope_id", "at"])
    op.create_table(
        "quota_consumption_lines",
        required("consumption_id", uuid_type()),
        required("quota_id", uuid_type()),
        required("scope_id", SCOPE),
        tenant(),
        *(required(name, amount()) for name in _LINE),
        sa.Column("premium_rate", amount()),
        sa.Column("premium_currency", sa.String(3)),
        sa.PrimaryKeyConstraint(
            "consumption_id", "quota_id", "scope_id", name="pk_quota_consumption_lines"
        ),
        sqlite_with_rowid=False,
    )
    if postgres:
        protect({"quota_consumption_lines": "SELECT, INSERT, UPDATE"})
    op.execute(_PART_ON_POSTGRES if postgres else _PART_ON_SQLITE)
    op.drop_column("quota_consumptions", "lines")


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _number_usage() -> None:
    op.add_column("quota_usage", sa.Column("number", sa.BigInteger()))
    op.execute(
        """
        UPDATE quota_usage u SET number = n.number
        FROM (SELECT usage_id, at, row_number() OVER (ORDER BY usage_id) AS number
              FROM quota_usage) AS n
        WHERE n.usage_id = u.usage_id AND n.at = u.at
        """
    )
    op.execute("ALTER TABLE quota_usage DROP CONSTRAINT pk_quota_usage")
    for name in ("usage_id", *_IDS):
        op.drop_column("quota_usage", name)
    op.alter_column("quota_usage", "number", new_column_name="usage_id", nullable=False)
    op.create_primary_key("pk_quota_usage", "quota_usage", ["quota_id", "at", "usage_id"])


def _make_usage_anew(
    kind: sa.types.TypeEngine[Any], key: tuple[str, ...], usage_id: str, *, with_rowid: bool = True
) -> None:
    """SQLite changes the key of no table that exists. `usage_id` is SQL: of what was one."""
    op.drop_index("ix_quota_usage_at", "quota_usage")
    op.rename_table("quota_usage", "quota_usage_before")
    op.create_table(
        "quota_usage",
        required("usage_id", kind),
        required("at", moment()),
        tenant(),
        required("quota_id", uuid_type()),
        required("scope_id", SCOPE),
        required("kind", sa.String(8)),
        required("amount", amount()),
        required("burst", amount()),
        required("used_after", amount(60)),
        required("consumption_id", uuid_type()),
        sa.PrimaryKeyConstraint(*key, name="pk_quota_usage"),
        sqlite_with_rowid=with_rowid,
    )
    op.execute(
        f"INSERT INTO quota_usage (usage_id, {_USAGE}) SELECT {usage_id}, {_USAGE} "
        "FROM quota_usage_before ORDER BY at"
    )
    op.drop_table("quota_usage_before")
    op.create_index("ix_quota_usage_at", "quota_usage", ["at"])


# Amounts are strings, so that no reader takes them for floats.
_GATHER_ON_POSTGRES: Final = """
    UPDATE quota_consumptions c SET lines = gathered.lines
    FROM (
        SELECT consumption_id, json_agg(json_build_object(
                   'key', json_build_array(quota_id, scope_id),
                   'amount', trim_scale(amount)::text,
                   'burst', trim_scale(burst)::text,
                   'released', trim_scale(released)::text,
                   'burst_released', trim_scale(burst_released)::text,
                   'premium_rate', trim_scale(premium_rate)::text,
                   'premium_currency', premium_currency
               ) ORDER BY quota_id, scope_id)::text AS lines
        FROM quota_consumption_lines GROUP BY consumption_id
    ) AS gathered
    WHERE gathered.consumption_id = c.consumption_id
"""
_GATHER_ON_SQLITE: Final = """
    UPDATE quota_consumptions SET lines = (
        SELECT json_group_array(json_object(
                   'key', json_array(quota_id, scope_id),
                   'amount', amount,
                   'burst', burst,
                   'released', released,
                   'burst_released', burst_released,
                   'premium_rate', premium_rate,
                   'premium_currency', premium_currency
               ))
        FROM quota_consumption_lines l WHERE l.consumption_id = quota_consumptions.consumption_id
    )
"""
_INTO_LINES: Final = """
    INSERT INTO quota_consumption_lines (consumption_id, quota_id, scope_id, tenant_id, amount,
        burst, released, burst_released, premium_rate, premium_currency)
"""
_PART_ON_POSTGRES: Final = f"""
    {_INTO_LINES}
    SELECT c.consumption_id, CAST(l.line #>> '{{key,0}}' AS uuid), l.line #>> '{{key,1}}',
           c.tenant_id, CAST(l.line ->> 'amount' AS numeric),
           coalesce(CAST(l.line ->> 'burst' AS numeric), 0),
           coalesce(CAST(l.line ->> 'released' AS numeric), 0),
           coalesce(CAST(l.line ->> 'burst_released' AS numeric), 0),
           CAST(l.line ->> 'premium_rate' AS numeric), l.line ->> 'premium_currency'
    FROM quota_consumptions c, json_array_elements(CAST(c.lines AS json)) AS l(line)
"""
_PART_ON_SQLITE: Final = f"""
    {_INTO_LINES}
    SELECT c.consumption_id, json_extract(l.value, '$.key[0]'), json_extract(l.value, '$.key[1]'),
           c.tenant_id, json_extract(l.value, '$.amount'),
           coalesce(json_extract(l.value, '$.burst'), '0'),
           coalesce(json_extract(l.value, '$.released'), '0'),
           coalesce(json_extract(l.value, '$.burst_released'), '0'),
           json_extract(l.value, '$.premium_rate'), json_extract(l.value, '$.premium_currency')
    FROM quota_consumptions c, json_each(c.lines) l
"""

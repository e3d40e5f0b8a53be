"""What a reservation holds lies in its row"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from fiscus.stores.sql.migrations.columns import SCOPE, amount, moment, required, tenant, uuid_type
from fiscus.stores.sql.migrations.row_security import protect

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    lines = sa.Column("lines", sa.Text(), nullable=False, server_default="[]")
    op.add_column("reservations", lines)
    op.execute(_GATHER_ON_POSTGRES if _is_postgres() else _GATHER_ON_SQLITE)
    op.drop_table("reservation_lines")


def downgrade() -> None:
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
    if _is_postgres():
        protect({"reservation_lines": "SELECT, INSERT"})
    op.execute(_PART_ON_POSTGRES if _is_postgres() else _PART_ON_SQLITE)
    op.drop_column("reservations", "lines")


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


# Amounts are strings, so that no reader takes them for floats. Where nothing was exchanged, the
# table had the rate 1 and the day of the check.
_GATHER_ON_POSTGRES: Final = """
    UPDATE reservations v SET lines = gathered.lines
    FROM (
        SELECT l.reservation_id, json_agg(json_strip_nulls(json_build_object(
                   'key', json_build_array(
                       l.budget_id, l.scope_id,
                       to_char(l.period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                   ),
                   'amount', trim_scale(l.amount)::text,
                   'rate', CASE WHEN NOT l.same THEN trim_scale(l.rate)::text END,
                   'rate_date', CASE WHEN NOT l.same THEN l.rate_date END
               )) ORDER BY l.budget_id, l.scope_id)::text AS lines
        FROM (
            SELECT one.*, one.rate = 1
                   AND one.rate_date = CAST(of.created_at AT TIME ZONE 'UTC' AS date) AS same
            FROM reservation_lines one JOIN reservations of USING (reservation_id)
        ) AS l
        GROUP BY l.reservation_id
    ) AS gathered
    WHERE gathered.reservation_id = v.reservation_id
"""
# Of microseconds since 1970, of which those before are negative.
_FRACTION: Final = "((l.period_start % 1000000 + 1000000) % 1000000)"
_MOMENT: Final = (
    f"strftime('%Y-%m-%dT%H:%M:%S', (l.period_start - {_FRACTION}) / 1000000, 'unixepoch') "
    f"|| printf('.%06dZ', {_FRACTION})"
)
_SAME: Final = "l.rate = '1' AND l.rate_date = date(reservations.created_at / 1000000, 'unixepoch')"
_GATHER_ON_SQLITE: Final = f"""
    UPDATE reservations SET lines = (
        SELECT json_group_array(json_patch('{{}}', json_object(
                   'key', json_array(l.budget_id, l.scope_id, {_MOMENT}),
                   'amount', l.amount,
                   'rate', CASE WHEN NOT ({_SAME}) THEN l.rate END,
                   'rate_date', CASE WHEN NOT ({_SAME}) THEN l.rate_date END
               )))
        FROM reservation_lines l WHERE l.reservation_id = reservations.reservation_id
    )
"""
_INTO_LINES: Final = """
    INSERT INTO reservation_lines (reservation_id, budget_id, scope_id, period_start, tenant_id,
        amount, rate, rate_date)
"""
_PART_ON_POSTGRES: Final = f"""
    {_INTO_LINES}
    SELECT v.reservation_id, CAST(l.line #>> '{{key,0}}' AS uuid), l.line #>> '{{key,1}}',
           CAST(l.line #>> '{{key,2}}' AS timestamptz), v.tenant_id,
           CAST(l.line ->> 'amount' AS numeric), coalesce(CAST(l.line ->> 'rate' AS numeric), 1),
           coalesce(
               CAST(l.line ->> 'rate_date' AS date), CAST(v.created_at AT TIME ZONE 'UTC' AS date)
           )
    FROM reservations v, json_array_elements(CAST(v.lines AS json)) AS l(line)
"""
_START: Final = "json_extract(l.value, '$.key[2]')"
_PART_ON_SQLITE: Final = f"""
    {_INTO_LINES}
    SELECT v.reservation_id, json_extract(l.value, '$.key[0]'), json_extract(l.value, '$.key[1]'),
           CAST(strftime('%s', substr({_START}, 1, 19)) AS INTEGER) * 1000000
               + CAST(substr(rtrim({_START}, 'Z') || '.000000', 21, 6) AS INTEGER),
           v.tenant_id, json_extract(l.value, '$.amount'),
           coalesce(json_extract(l.value, '$.rate'), '1'),
           coalesce(
               json_extract(l.value, '$.rate_date'), date(v.created_at / 1000000, 'unixepoch')
           )
    FROM reservations v, json_each(v.lines) l
"""

"""How far quotas are used. Only the ledger writes balances; this reads them.

A quota for `*` has as many balances as there are ids: approximate numbers tell the database which
may be meant, and those are streamed, never held together.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.ids import is_uuid
from fiscus.money import ZERO, add, plain
from fiscus.quotas.model import Quota, QuotaBalance, QuotaKey
from fiscus.stores.sql.quotas.tables import quota_balances as t
from fiscus.stores.sql.quotas.tables import quotas

about_taken: Final = sa.cast(t.c.used, sa.Float) + sa.cast(t.c.burst_used, sa.Float)
"""What is used, burst included; to look for ids, of which the exact numbers are then read."""
_NEARLY: Final = 1 - 1e-9
"""So much of a number, at least, is what may be as large as it, when both are approximate."""
_AT_ONCE: Final = 1000


def balances_of(
    connection: Connection, tenant_id: str, quota_ids: Sequence[str]
) -> dict[str, QuotaBalance]:
    """What is used of quotas for one scope, by quota id; none where nothing was used yet."""
    query = (
        sa.select(t)
        # no id is `*`, so those for every id have none
        .join(quotas, sa.and_(quotas.c.quota_id == t.c.quota_id, quotas.c.scope_id == t.c.scope_id))
        .where(
            t.c.quota_id.in_([one for one in quota_ids if is_uuid(one)]),
            t.c.tenant_id == tenant_id,
            quotas.c.tenant_id == tenant_id,
        )
    )
    return {
        row.quota_id: QuotaBalance(
            QuotaKey(row.quota_id, row.scope_id), tenant_id, plain(row.used), plain(row.burst_used)
        )
        for row in connection.execute(query)
    }


def most_used(connection: Connection, quota: Quota) -> Decimal:
    """What is used of a quota, burst included; of one for `*`, by the id that used most."""
    most = sa.select(sa.func.max(about_taken)).where(*_of(quota)).correlate(None).scalar_subquery()
    with _reading(connection, quota, about_taken >= most * _NEARLY) as rows:
        return max((add(row.used, row.burst_used) for row in rows), default=ZERO)


def is_used(connection: Connection, quota: Quota) -> bool:
    """Whether anything is used of a quota, by any id."""
    used = sa.or_(t.c.used != ZERO, t.c.burst_used != ZERO)
    query = sa.select(sa.literal(1)).where(*_of(quota), used).limit(1)
    return connection.execute(query).first() is not None


def passes(connection: Connection, quota: Quota) -> str | None:
    """An id that has used more than `quota` would give: of its allocation, or of all; or None."""
    allocated = quota.allocated_amount
    in_all = add(allocated, quota.max_burst_amount)
    # floats only look for rows that may have; the exact numbers of those decide
    about = sa.or_(
        sa.cast(t.c.used, sa.Float) >= float(allocated) * _NEARLY,
        about_taken >= float(in_all) * _NEARLY,
    )
    with _reading(connection, quota, about) as rows:
        for row in rows:
            if row.used > allocated or add(row.used, row.burst_used) > in_all:
                return row.scope_id
    return None


def _of(quota: Quota) -> tuple[sa.ColumnElement[bool], ...]:
    return t.c.quota_id == quota.quota_id, t.c.tenant_id == quota.tenant_id


def _reading(
    connection: Connection, quota: Quota, about: sa.ColumnElement[bool]
) -> sa.CursorResult[Any, Any, Any]:
    query = sa.select(t.c.scope_id, t.c.used, t.c.burst_used).where(*_of(quota), about)
    return connection.execute(query, execution_options={"yield_per": _AT_ONCE})

"""How far quotas are used. Only the ledger writes balances; this reads them.

A quota for `*` has as many balances as there are ids: they are streamed, never held together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.ids import is_uuid
from fiscus.money import ZERO, add, plain
from fiscus.quotas.definitions import remaining
from fiscus.quotas.model import Quota, QuotaBalance, QuotaKey
from fiscus.stores.sql.quota_tables import quota_balances as t
from fiscus.stores.sql.quota_tables import quotas

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
    most = ZERO

    def look(used: Decimal, burst_used: Decimal) -> bool:
        nonlocal most
        most = max(most, add(used, burst_used))
        return False

    _first(connection, quota, look)
    return most


def is_used(connection: Connection, quota: Quota) -> bool:
    """Whether anything is used of a quota, by any id."""
    return _first(connection, quota, lambda used, burst_used: bool(used or burst_used)) is not None


def passes(connection: Connection, quota: Quota) -> str | None:
    """An id that has used more than `quota` would give: of its allocation, or of all; or None."""

    def too_much(used: Decimal, burst_used: Decimal) -> bool:
        return used > quota.allocated_amount or remaining(quota, used, burst_used) < 0

    return _first(connection, quota, too_much)


def _first(
    connection: Connection, quota: Quota, wanted: Callable[[Decimal, Decimal], bool]
) -> str | None:
    """The first id whose used and burst_used are `wanted`."""
    query = sa.select(t.c.scope_id, t.c.used, t.c.burst_used).where(
        t.c.quota_id == quota.quota_id, t.c.tenant_id == quota.tenant_id
    )
    with connection.execute(query, execution_options={"yield_per": _AT_ONCE}) as rows:
        return next((row.scope_id for row in rows if wanted(row.used, row.burst_used)), None)

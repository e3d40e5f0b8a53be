"""Renewal: the next period's quota, made once however often and by how many it is asked.

`renew_at` is when a quota is due; it is null once there is nothing to do any more. What makes a
renewal happen once is the tenant's turn in which it is looked at and done, and beneath that the
unique `renewed_from`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.errors import Conflict
from fiscus.ids import is_uuid, uuid7
from fiscus.money import ZERO
from fiscus.quotas.definitions import renewed
from fiscus.quotas.model import Quota, RenewalAmount, RenewalStatus
from fiscus.quotas.port import DueRenewal
from fiscus.stores.sql.quotas import rows
from fiscus.stores.sql.quotas.balances import most_used
from fiscus.stores.sql.quotas.tables import quotas as t
from fiscus.wire.decoding import decode

BY: Final = "renewal"
"""Who made a renewed quota, in its versions."""
PAUSES: Final = (timedelta(minutes=1), timedelta(minutes=5))
"""Between a renewal's tries; one that fails after the last of them is not tried again."""


def due_renewals(connection: Connection, now: datetime, most: int) -> list[DueRenewal]:
    """Quotas that are to be renewed now, of all tenants, earliest end first."""
    # ix_quotas_due
    query = (
        sa.select(t.c.tenant_id, t.c.quota_id)
        .where(t.c.renew_at <= now)
        .order_by(t.c.period_end, t.c.quota_id)
        .limit(most)
    )
    return [DueRenewal(row.tenant_id, row.quota_id) for row in connection.execute(query)]


def renew(connection: Connection, tenant_id: str, quota_id: str, now: datetime) -> Quota | None:
    """The next period's quota; None when the quota is not due (any more), or somebody allocated one
    for that period.

    The next period may be over as well, after a time without a worker: then its quota is due too.
    """
    found = _due(connection, tenant_id, quota_id, now)
    if found is None:
        return None
    old = found.quota
    by_usage = old.renewal_amount is RenewalAmount.BY_USAGE
    new = renewed(old, uuid7(), most_used(connection, old) if by_usage else ZERO, now)
    try:
        rows.TakenPeriods(connection, tenant_id, [new]).take(new)
    except Conflict:
        rows.mark_renewal(connection, old, RenewalStatus.SUPERSEDED, now)
        return None
    rows.insert(connection, tenant_id, [new], BY, now)
    rows.mark_renewal(connection, old, RenewalStatus.RENEWED, now)
    return new


def failed(connection: Connection, due: DueRenewal, reason: str, now: datetime) -> bool:
    """Put the next try off, or give up; whether it was given up.

    Of several that failed at the same time only the first counts: after it, none is due.
    """
    found = _due(connection, due.tenant_id, due.quota_id, now)
    if found is None:
        return False
    if found.tries >= len(PAUSES):
        rows.mark_renewal(connection, found.quota, RenewalStatus.FAILED, now, reason)
        return True
    connection.execute(
        sa.update(t)
        .where(t.c.quota_id == due.quota_id, t.c.tenant_id == due.tenant_id)
        .values(
            renew_at=now + PAUSES[found.tries],
            renewal_tries=found.tries + 1,
            renewal_error=reason,
        )
    )
    return False


class _Due(NamedTuple):
    quota: Quota
    tries: int
    """That failed already."""


def _due(connection: Connection, tenant_id: str, quota_id: str, now: datetime) -> _Due | None:
    if not is_uuid(quota_id):
        return None
    row = connection.execute(
        sa.select(t.c.definition, t.c.renewal_tries).where(
            t.c.quota_id == quota_id, t.c.tenant_id == tenant_id, t.c.renew_at <= now
        )
    ).one_or_none()
    return None if row is None else _Due(decode(row.definition, Quota), row.renewal_tries)

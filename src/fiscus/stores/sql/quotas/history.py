"""Quotas' history: what was taken and given back, by row and by day; and how it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fiscus.money import ZERO, plain, subtract
from fiscus.paging import PageRequest
from fiscus.quotas.calls import DayTotal, HistoryRow, QuotaHistory
from fiscus.quotas.model import Quota, UsageKind
from fiscus.runtime.portions import ShouldContinue
from fiscus.scopes import EVERY, ScopeType
from fiscus.stores.sql.column_types import UtcTime
from fiscus.stores.sql.database import ALL_TENANTS, HARDLY_WAIT, Database
from fiscus.stores.sql.exact_sum import ExactSum
from fiscus.stores.sql.paging import SortKey, parse_number, parse_time, read_page, time_value
from fiscus.stores.sql.quotas.tables import quota_consumptions, quotas
from fiscus.stores.sql.quotas.tables import quota_usage as t
from fiscus.stores.sql.within import rows_within
from fiscus.zones import day_start, local_day

DAYS: Final = 30
"""Of how many local days totals are given when no range is asked for."""
MAX_DAYS: Final = 366
_BATCH: Final = 5000

# The primary key has the quota before these two.
_ORDER: Final = (SortKey(t.c.at, parse_time), SortKey(t.c.usage_id, parse_number))


# ---------------------------------------------------------------- reading


def read_history(
    connection: Connection,
    quota: Quota,
    page: PageRequest,
    *,
    scope_id: str | None,
    since: datetime | None,
    until: datetime | None,
) -> QuotaHistory:
    """A page of a quota's rows, newest first; unless it was asked for by token, also the totals.

    Totals are of the quota's local days that have rows, within the range; without `since`, of the
    last 30 up to the newest row; at most of the last 366.
    """
    where = [t.c.quota_id == quota.quota_id, t.c.tenant_id == quota.tenant_id]
    if scope_id is not None:
        where.append(t.c.scope_id == scope_id)
    if until is not None:
        where.append(t.c.at < until)
    totals: list[DayTotal] = []
    if page.cursor is None:
        totals = _day_totals(connection, quota, where, since)
    if since is not None:
        where.append(t.c.at >= since)
    found = read_page(
        connection,
        sa.select(t).where(*where),
        _ORDER,
        page,
        read=list[Row[Any]],
        position=lambda row: [time_value(row.at), row.usage_id],
    )
    return QuotaHistory(
        quota_id=quota.quota_id,
        rows=_history_rows(connection, quota.tenant_id, found.items),
        days=totals,
        pagination=found.pagination,
    )


def used_since(
    connection: Connection,
    tenant_id: str,
    resource_type: str,
    scopes: Sequence[tuple[ScopeType, str]],
    since: datetime,
) -> dict[tuple[ScopeType, str], Decimal]:
    """What each scope used of a resource since a moment, given back taken off.

    A consumption that met two quotas of a scope, its own and the one for `*`, counts once.
    """
    found = dict.fromkeys(scopes, ZERO)
    which = sa.func.dense_rank().over(
        partition_by=[quotas.c.scope_type, t.c.scope_id, t.c.consumption_id],
        order_by=t.c.quota_id,
    )
    scope_ids = {scope_id for _, scope_id in scopes}
    # ix_quotas_place, then the primary key: a history is found by its quota
    met = (
        sa.select(quotas.c.scope_type, t.c.scope_id, t.c.kind, t.c.amount, which.label("which"))
        .join(quotas, quotas.c.quota_id == t.c.quota_id)
        .where(
            quotas.c.tenant_id == tenant_id,
            quotas.c.scope_id.in_({*scope_ids, EVERY}),
            quotas.c.resource_type == resource_type,
            t.c.tenant_id == tenant_id,
            t.c.scope_id.in_(scope_ids),
            t.c.at >= since,
        )
        .subquery()
    )
    query = (
        sa.select(
            met.c.scope_type,
            met.c.scope_id,
            _of_kind(met.c.kind, met.c.amount, UsageKind.CONSUME).label("consumed"),
            _of_kind(met.c.kind, met.c.amount, UsageKind.RELEASE).label("released"),
        )
        .where(met.c.which == 1)
        .group_by(met.c.scope_type, met.c.scope_id)
    )
    for row in connection.execute(query):
        scope = (ScopeType(row.scope_type), row.scope_id)
        if scope in found:
            found[scope] = plain(subtract(row.consumed, row.released))
    return found


def _day_totals(
    connection: Connection,
    quota: Quota,
    where: Sequence[sa.ColumnElement[bool]],
    since: datetime | None,
) -> list[DayTotal]:
    """The totals of the days from `since` on, of the rows `where` names; oldest first."""
    newest = connection.execute(
        sa.select(t.c.at).where(*where).order_by(t.c.at.desc()).limit(1)
    ).scalar()
    if newest is None or (since is not None and since > newest):
        return []
    last = local_day(newest, quota.timezone)
    if since is None:
        first = last - DAYS + 1
        since = day_start(first, quota.timezone)
    else:
        since = max(since, quota.period_start)  # before it there is nothing, perhaps no local day
        first = max(local_day(since, quota.timezone), last - MAX_DAYS + 1)
    if first > last:
        return []
    # In real time: a local day is as long as its zone makes it.
    stretches = [
        (day, max(since, day_start(day, quota.timezone)), day_start(day + 1, quota.timezone))
        for day in range(first, last + 1)
    ]
    days = (
        sa.values(
            sa.column("day", sa.Integer()),
            sa.column("starts", UtcTime()),
            sa.column("ends", UtcTime()),
            name="stretches",
        )
        .data(stretches)
        .cte("days")
    )
    rows, both = rows_within(
        days,
        t,
        [
            t.c.at >= days.c.starts,
            t.c.at < days.c.ends,
            # what these say as well, for PostgreSQL to leave out the other months' partitions
            t.c.at >= stretches[0][1],
            t.c.at <= newest,
            *where,
        ],
        is_sqlite=connection.dialect.name == "sqlite",
    )
    query = (
        sa.select(
            days.c.day,
            _of_kind(rows.c.kind, rows.c.amount, UsageKind.CONSUME).label("consumed"),
            _of_kind(rows.c.kind, rows.c.amount, UsageKind.RELEASE).label("released"),
            _of_kind(rows.c.kind, rows.c.burst, UsageKind.CONSUME).label("burst"),
            sa.func.sum(sa.case((rows.c.kind == UsageKind.CONSUME.value, 1), else_=0)).label(
                "count"
            ),
        )
        .select_from(both)
        .group_by(days.c.day)
        .order_by(days.c.day)
    )
    return [
        DayTotal(
            day=date.fromordinal(row.day),
            consumed=plain(row.consumed),
            released=plain(row.released),
            burst=plain(row.burst),
            consumptions=int(row[4]),
        )
        for row in connection.execute(query)
    ]


def _of_kind(
    kind: sa.ColumnElement[str], amount: sa.ColumnElement[Decimal], wanted: UsageKind
) -> sa.ColumnElement[Decimal]:
    return ExactSum(sa.case((kind == wanted.value, amount)))


def _history_rows(
    connection: Connection, tenant_id: str, found: Sequence[Row[Any]]
) -> list[HistoryRow]:
    c = quota_consumptions.c
    query = sa.select(c.consumption_id, c.project_id, c.user_id, c.feature_id).where(
        c.tenant_id == tenant_id, c.consumption_id.in_({row.consumption_id for row in found})
    )
    ids = {row[0]: row[1:] for row in connection.execute(query)}
    rows: list[HistoryRow] = []
    for row in found:
        project_id, user_id, feature_id = ids.get(row.consumption_id, (None, None, None))
        rows.append(
            HistoryRow(
                at=row.at,
                kind=UsageKind(row.kind),
                scope_id=row.scope_id,
                amount=plain(row.amount),
                burst=plain(row.burst),
                used_after=plain(row.used_after),
                consumption_id=row.consumption_id,
                project_id=project_id,
                user_id=user_id,
                feature_id=feature_id,
            )
        )
    return rows


# ---------------------------------------------------------------- forgetting


def drop_before(database: Database, moment: datetime, goes_on: ShouldContinue) -> int:
    """Forget the rows from before `moment`; how many.

    On PostgreSQL whole months go at once, with their partitions.
    """
    dropped = 0 if database.is_sqlite else _drop_months(database, moment)
    key = sa.tuple_(*t.primary_key)
    old = sa.select(*t.primary_key).where(t.c.at < moment).limit(_BATCH)
    # again in the delete, for PostgreSQL to leave out the other months' partitions
    delete = sa.delete(t).where(key.in_(old), t.c.at < moment)
    return dropped + database.drop_in_portions(delete, goes_on)


def _drop_months(database: Database, moment: datetime) -> int:
    """Drop the months that ended by `moment`; how many rows they had."""
    this_month = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    month = sa.func.date_trunc("month", t.c.at, "UTC", type_=UtcTime())
    count = (
        sa.select(month.label("month"), sa.func.count().label("rows"))
        .where(t.c.at < this_month)
        .group_by(month)
    )
    # counting a month of millions takes its time
    with database.read_at_length(ALL_TENANTS) as connection:
        counted = {row.month: row.rows for row in connection.execute(count)}
    drop = sa.text("SELECT fiscus_drop_quota_partitions(:moment)")

    def change(connection: Connection) -> list[datetime]:
        connection.execute(HARDLY_WAIT)
        return list(connection.execute(drop, {"moment": moment}).scalars())

    return sum(counted.get(first, 0) for first in database.write(ALL_TENANTS, change))

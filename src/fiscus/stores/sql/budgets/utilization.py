"""How far budgets are used, per period and scope. In SQL amounts are compared with 0 alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection, Row

from fiscus.budgets.calls import PeriodUse, Utilization
from fiscus.budgets.matching import PreparedBudget
from fiscus.budgets.model import Budget
from fiscus.money import ZERO, add, plain, ratio, subtract
from fiscus.paging import PageRequest, build_page
from fiscus.periods import FAR_FUTURE
from fiscus.scopes import EVERY
from fiscus.stores.sql.budgets.lines import holds_of, read_lines
from fiscus.stores.sql.budgets.versions import versions
from fiscus.stores.sql.paging import (
    SortKey,
    count,
    parse_scope_id,
    parse_time,
    rows_of,
    time_value,
)
from fiscus.stores.sql.tables import budget_anchors as anchors
from fiscus.stores.sql.tables import budget_periods as t
from fiscus.stores.sql.tables import reservations

ABOUT_USED: Final = sa.cast(t.c.spent, sa.Float) + sa.cast(t.c.reserved, sa.Float)
"""Of a period; to look for those used most, of which the exact numbers are then read."""
# ix_budget_periods_newest has the budget before these two.
_ORDER: Final = (SortKey(t.c.period_start, parse_time), SortKey(t.c.scope_id, parse_scope_id))


def read_utilization(
    connection: Connection,
    budget: Budget,
    page: PageRequest,
    *,
    scope_id: str | None,
    now: datetime,
) -> Utilization:
    """A page of a budget's periods up to now, newest first; of one scope, or of all.

    One that has ended is held against the amount that it ended with. The current period of a single
    scope is there before anything was used in it.
    """
    query = sa.select(t).where(
        t.c.budget_id == budget.budget_id,
        t.c.tenant_id == budget.tenant_id,
        t.c.period_start <= now,
        # PostgreSQL has rows of what was only looked at, as a row must exist to be locked
        sa.or_(*[column != ZERO for column in (t.c.spent, t.c.reserved, t.c.throttle_credit)]),
    )
    if scope_id is not None:
        query = query.where(t.c.scope_id == scope_id)
    blank = _missing_current(connection, budget, query, scope_id, now)
    cursor = page.cursor
    blanks = 0 if blank is None else 1  # the first of all rows
    total = None if cursor is not None else count(connection, query)
    rows = rows_of(connection, query, _ORDER, page, total, before=blanks)
    prepared = PreparedBudget(budget)
    anchors = _anchors(connection, prepared, [row.scope_id for row in rows])
    due = _due(connection, budget, now) if any(row.reserved for row in rows) else {}
    uses = [_use(prepared, row, due, now, anchors.get(row.scope_id)) for row in rows]
    uses = _as_they_ended(connection, budget, uses, now)
    if blank is not None:
        if cursor is None and page.page == 1:
            uses.insert(0, blank)
        elif cursor is not None and cursor.backwards and _position(blank) != cursor.values:
            uses.append(blank)
    in_all = None if total is None else total + blanks
    found = build_page(page, uses[: page.page_size + 1], _position, in_all)
    return Utilization(
        budget_id=budget.budget_id,
        budget_name=budget.budget_name,
        currency=budget.currency,
        periods=found.items,
        pagination=found.pagination,
    )


def _as_they_ended(
    connection: Connection, budget: Budget, uses: list[PeriodUse], now: datetime
) -> list[PeriodUse]:
    ends = {one.period_end for one in uses if one.period_end is not None and one.period_end <= now}
    if budget.version == 1 or not ends:
        return uses
    found = versions.at(connection, budget.tenant_id, budget.budget_id, ends)
    amounts: dict[datetime | None, Decimal] = {end: one.budget_amount for end, one in found.items()}
    return [_against(amounts.get(one.period_end, budget.budget_amount), one) for one in uses]


def _against(amount: Decimal, use: PeriodUse) -> PeriodUse:
    used = add(use.spent, use.reserved)
    return replace(
        use,
        amount=amount,
        remaining=plain(subtract(amount, used)),
        utilization_ratio=ratio(used, amount),
    )


def has_usage(connection: Connection, budget: Budget, now: datetime) -> bool:
    """Whether anything was ever spent or is held."""
    return _is_spent(connection, budget) or open_reservations(connection, budget, now) > 0


def used_currently(connection: Connection, budget: Budget, now: datetime) -> bool:
    """Whether anything was spent in a period that has not ended, of any scope."""
    since = _running_since(PreparedBudget(budget), now)
    return since is not None and _is_spent(connection, budget, t.c.period_start.between(since, now))


def _is_spent(connection: Connection, budget: Budget, *where: sa.ColumnElement[bool]) -> bool:
    query = sa.select(sa.literal(1)).where(
        t.c.budget_id == budget.budget_id,
        t.c.tenant_id == budget.tenant_id,
        t.c.spent != ZERO,
        *where,
    )
    # of a budget for `*` there are as many as ids
    return connection.execute(query.limit(1)).first() is not None


def current_ratio(connection: Connection, budget: Budget, now: datetime) -> Decimal | None:
    """How far the current period is used; of a budget for `*`, by the id that used most of it.

    None where nothing was used. The id is found by approximate numbers.
    """
    prepared = PreparedBudget(budget)
    since = _running_since(prepared, now)
    if since is None:
        return None
    query = sa.select(t).where(
        t.c.budget_id == budget.budget_id,
        t.c.tenant_id == budget.tenant_id,
        t.c.period_start.between(since, now),
    )
    row = connection.execute(query.order_by(ABOUT_USED.desc()).limit(1)).first()
    if row is None:
        return None
    anchor = _anchors(connection, prepared, [row.scope_id]).get(row.scope_id)
    due = _due(connection, budget, now) if row.reserved else {}
    use = _use(prepared, row, due, now, anchor)
    return use.utilization_ratio if use.current else None


def open_reservations(connection: Connection, budget: Budget, now: datetime) -> int:
    """How many reservations hold money of the budget and are not due."""
    query = sa.select(sa.func.count()).select_from(reservations)
    query = query.where(*_pending(budget), reservations.c.expires_at > now)
    return connection.execute(query).scalar_one()


def _due(
    connection: Connection, budget: Budget, now: datetime
) -> dict[tuple[str, datetime], Decimal]:
    """What is due and not freed yet, by scope id and period start."""
    query = sa.select(reservations.c.lines)
    query = query.where(*_pending(budget), reservations.c.expires_at <= now)
    sums: dict[tuple[str, datetime], Decimal] = {}
    for lines in connection.execute(query).scalars():
        for line in read_lines(lines):
            if line.key.budget_id == budget.budget_id:
                at = line.key.scope_id, line.key.period_start
                sums[at] = add(sums.get(at, ZERO), line.amount)
    return sums


def _running_since(prepared: PreparedBudget, now: datetime) -> datetime | None:
    """When the current period began; where each id has windows of its own, that of those that run
    which began first. None where the budget has no period.

    Also where all have the same, periods are looked for from there up to now: SQLite takes a budget
    to have ten rows, and for equal starts would read all of them by the primary key rather than
    look up those that it is asked for.
    """
    first_day = prepared.anchor_for(now) - timedelta(days=prepared.budget.rolling_days - 1)
    period = prepared.period_at(now, first_day)
    return None if period is None else period.start


def _pending(budget: Budget) -> tuple[sa.ColumnElement[bool], ...]:
    """Reservations that hold money of the budget; the status is spelled out, so that their index is
    used."""
    return (
        reservations.c.tenant_id == budget.tenant_id,
        reservations.c.status == sa.text("'pending'"),
        holds_of(budget.budget_id),
    )


def _missing_current(
    connection: Connection,
    budget: Budget,
    query: sa.Select[Any],
    scope_id: str | None,
    now: datetime,
) -> PeriodUse | None:
    """The current period of a single scope as blank, where nothing was used in it yet."""
    if budget.allocated_to_id != EVERY:
        if scope_id not in (None, budget.allocated_to_id):
            return None
        scope_id = budget.allocated_to_id
    elif scope_id is None:
        return None
    prepared = PreparedBudget(budget)
    period = prepared.period_at(now, _anchors(connection, prepared, [scope_id]).get(scope_id))
    if period is None:
        return None
    exists = connection.execute(
        query.with_only_columns(sa.literal(1)).where(
            t.c.scope_id == scope_id, t.c.period_start == period.start
        )
    ).first()
    if exists is not None:
        return None
    return PeriodUse(
        scope_id=scope_id,
        period_start=period.start,
        period_end=None if period.end == FAR_FUTURE else period.end,
        amount=budget.budget_amount,
        spent=ZERO,
        reserved=ZERO,
        remaining=budget.budget_amount,
        utilization_ratio=ZERO,
        current=True,
    )


def _anchors(
    connection: Connection, prepared: PreparedBudget, scope_ids: Collection[str]
) -> dict[str, date]:
    """The stored anchors of a floating budget; of others, none."""
    if not (prepared.is_floating and scope_ids):
        return {}
    found = connection.execute(
        sa.select(anchors.c.scope_id, anchors.c.anchor).where(
            anchors.c.budget_id == prepared.budget.budget_id,
            anchors.c.tenant_id == prepared.budget.tenant_id,
            anchors.c.scope_id.in_(set(scope_ids)),
        )
    )
    return {row.scope_id: row.anchor for row in found}


def _is_current(
    prepared: PreparedBudget, period_start: datetime, now: datetime, anchor: date | None
) -> bool:
    period = prepared.period_at(now, anchor)
    return period is not None and period.start == period_start


def _use(
    prepared: PreparedBudget,
    row: Row[Any],
    due: Mapping[tuple[str, datetime], Decimal],
    now: datetime,
    anchor: date | None,
) -> PeriodUse:
    budget = prepared.budget
    reserved = subtract(row.reserved, due.get((row.scope_id, row.period_start), ZERO))
    used = add(row.spent, reserved)
    # by the definition as it is, whose end date may have changed since the row was made
    period = prepared.period_at(row.period_start, anchor)
    end = row.period_end if period is None or period.start != row.period_start else period.end
    return PeriodUse(
        scope_id=row.scope_id,
        period_start=row.period_start,
        period_end=None if end == FAR_FUTURE else end,
        amount=budget.budget_amount,
        spent=plain(row.spent),
        reserved=plain(reserved),
        remaining=plain(subtract(budget.budget_amount, used)),
        utilization_ratio=ratio(used, budget.budget_amount),
        current=_is_current(prepared, row.period_start, now, anchor),
    )


def _position(use: PeriodUse) -> list[Any]:
    return [time_value(use.period_start), use.scope_id]

"""Sums of costs over slices of time: by rollups, or by the records themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Row

from fiscus.clock import to_us
from fiscus.costs.port import DIMENSIONS, TAG_PREFIX, CostSum, SumQuery, TimeSlice
from fiscus.costs.rollups import RollupSum
from fiscus.money import plain
from fiscus.stores.sql.column_types import UtcTime
from fiscus.stores.sql.costs.conditions import (
    AT_ONCE,
    Condition,
    CostConditions,
    of_series,
    on_shared_columns,
)
from fiscus.stores.sql.exact_sum import ExactSum
from fiscus.stores.sql.tables import cost_records, cost_rollups, cost_series
from fiscus.stores.sql.within import rows_within
from fiscus.wire.encoding import encode

_LONG: Final = timedelta(days=92)


class SqlCostSums:
    """`costs.port.CostSums` on a connection that sees one state."""

    def __init__(
        self,
        connection: Connection,
        tenant_id: str,
        conditions: CostConditions,
        *,
        is_sqlite: bool,
    ) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._conditions = conditions
        self._sqlite = is_sqlite

    def by_rollups(self, query: SumQuery) -> list[CostSum] | None:
        if not query.slices:
            return []
        connection, tenant_id = self._connection, self._tenant_id
        joined = list(_joined(query.slices))
        # first whether it matters, as the answer may take going through all series
        if len(joined) < len(query.slices) and not _needs_rates(
            connection, tenant_id, query.target
        ):
            query = query._replace(slices=joined)
        told: Condition = sa.true()
        if tag_keys := _tag_keys(query):
            told = self._conditions.has_tag_keys(cost_series.c.tags, tag_keys)
        counted = on_shared_columns(cost_series, query.wanted)
        if query.wanted.tags:
            with_tags = self._conditions.has_tags(cost_series.c.tags, query.wanted.tags)
            counted.append(sa.or_(with_tags, sa.not_(told)))
        sums = self._sums_by_series(query, counted)
        of_sum = [cost_series.c.series_id == sums.c.series_id]
        is_long = query.slices[-1].end - query.slices[0].start > _LONG
        if (is_long or counted) and not self._sqlite:
            connection.execute(AT_ONCE)
            of_sum.append(cost_series.c.tenant_id == tenant_id)
        rows = (
            self._rows(query, sums, cost_series)
            .add_columns(
                sums.c.cost_amount,
                sums.c.usage_quantity,
                sums.c.record_count,
                sa.cast(told, sa.Integer).label("told"),
            )
            .join(cost_series, sa.and_(*of_sum))
        )
        found = _summed(connection, query, rows)
        return None if any(not row.told for row in found) else [_read_sum(row) for row in found]

    def _sums_by_series(self, query: SumQuery, counted: Sequence[Condition]) -> sa.Subquery:
        """Rollups added up first by what is narrow: joining and sorting by names costs more."""
        slices = self._slices(query.slices)
        wanted = [
            cost_rollups.c.tenant_id == self._tenant_id,
            *_during(cost_rollups.c.bucket, slices, query.slices),
        ]
        rollups, both = rows_within(slices, cost_rollups, wanted, is_sqlite=self._sqlite)
        apart = (slices.c.period, slices.c.day, rollups.c.series_id)
        sums = (
            sa.select(
                *apart,
                ExactSum(rollups.c.cost_amount).label("cost_amount"),
                ExactSum(rollups.c.usage_quantity).label("usage_quantity"),
                sa.func.sum(rollups.c.record_count).label("record_count"),
            )
            .select_from(both)
            .group_by(*apart)
        )
        return sums.where(*of_series(rollups.c.series_id, self._tenant_id, counted)).subquery(
            "sums"
        )

    def by_records(self, query: SumQuery) -> list[CostSum]:
        if not query.slices:
            return []
        slices = self._slices(query.slices)
        wanted = [
            *_during(cost_records.c.timestamp, slices, query.slices),
            *self._conditions.of_records(self._tenant_id, query.wanted),
        ]
        records, both = rows_within(slices, cost_records, wanted, is_sqlite=self._sqlite)
        rows = (
            self._rows(query, slices, records)
            .add_columns(
                records.c.cost_amount.label("cost_amount"),
                records.c.usage_quantity.label("usage_quantity"),
                sa.literal(1).label("record_count"),
                sa.literal(1).label("told"),
            )
            .select_from(both)
        )
        return [_read_sum(row) for row in _summed(self._connection, query, rows)]

    def _rows(self, query: SumQuery, when: sa.FromClause, table: sa.FromClause) -> sa.Select[Any]:
        """What tells the sums of `query` apart; `table` has the dimensions."""
        foreign = table.c.currency != query.target
        return sa.select(
            when.c.period,
            sa.case((foreign, when.c.day), else_=sa.null()).label("day"),
            table.c.currency,
            table.c.usage_unit,
            *(
                self._dimension(table, name).label(f"by_{index}")
                for index, name in enumerate(query.by)
            ),
        )

    def _dimension(self, table: sa.FromClause, name: str) -> sa.ColumnElement[Any]:
        if not name.startswith(TAG_PREFIX):
            assert name in DIMENSIONS, name
            return table.c[name]
        key = name.removeprefix(TAG_PREFIX)
        return self._conditions.tag(table.c.tags, key)

    def _slices(self, slices: Sequence[TimeSlice]) -> sa.CTE:
        """The slices as a table of `starts`, `ends`, `period` and `day`, in one parameter."""
        if not self._sqlite:
            rows = encode(
                [
                    {"starts": one.start, "ends": one.end, "period": one.period, "day": _day(one)}
                    for one in slices
                ]
            )
            table = (
                sa.func.json_to_recordset(
                    sa.cast(sa.literal(rows.decode(), sa.Text()), postgresql.JSON)
                )
                .table_valued(
                    sa.column("starts", UtcTime()),
                    sa.column("ends", UtcTime()),
                    sa.column("period", sa.Integer()),
                    sa.column("day", sa.Integer()),
                )
                .render_derived("given", with_types=True)
            )
            return sa.select(table.c.starts, table.c.ends, table.c.period, table.c.day).cte(
                "slices"
            )
        rows = encode([[to_us(one.start), to_us(one.end), one.period, _day(one)] for one in slices])
        each = sa.func.json_each(rows.decode()).table_valued("value")
        names = ("starts", "ends", "period", "day")
        return (
            sa.select(
                *(
                    sa.func.json_extract(
                        each.c.value,
                        f"$[{index}]",
                        type_=UtcTime() if index < 2 else sa.Integer(),
                    ).label(name)
                    for index, name in enumerate(names)
                )
            )
            .cte("slices")
            .prefix_with("MATERIALIZED")
        )


def _summed(connection: Connection, query: SumQuery, rows: sa.Select[Any]) -> Sequence[Row[Any]]:
    """`rows` added up by everything that is no amount."""
    # Apart, because PostgreSQL must not see an expression with parameters twice.
    inner = rows.subquery("costs")
    apart = [inner.c[name] for name in _apart(query)]
    statement = sa.select(
        *apart,
        ExactSum(inner.c.cost_amount).label("cost_amount"),
        ExactSum(inner.c.usage_quantity).label("usage_quantity"),
        sa.func.sum(inner.c.record_count).label("record_count"),
    ).group_by(*apart)
    return connection.execute(statement).all()


def _needs_rates(connection: Connection, tenant_id: str, target: str) -> bool:
    """Whether any of a tenant's costs are in another currency than `target`."""
    others = sa.select(cost_series.c.series_id).where(
        cost_series.c.tenant_id == tenant_id, cost_series.c.currency != target
    )
    return connection.execute(others.limit(1)).first() is not None


def _joined(slices: Sequence[TimeSlice]) -> Iterator[TimeSlice]:
    """Those of a period that follow each other as one: its days need not be told apart."""
    last = slices[0]
    for one in slices[1:]:
        if one.start == last.end and one.period == last.period:
            last = last._replace(end=one.end)
        else:
            yield last
            last = one
    yield last


def _during(
    time: sa.Column[Any], slices: sa.CTE, given: Sequence[TimeSlice]
) -> Iterator[Condition]:
    """`time` is in the slice of its row; and, so that planners know, between first and last."""
    yield time >= slices.c.starts
    yield time < slices.c.ends
    yield time >= sa.literal(min(one.start for one in given), UtcTime())
    yield time < sa.literal(max(one.end for one in given), UtcTime())


def _day(time_slice: TimeSlice) -> int:
    return time_slice.start.toordinal()


def _apart(query: SumQuery) -> tuple[str, ...]:
    by = (f"by_{index}" for index in range(len(query.by)))
    return ("period", "day", "currency", "usage_unit", *by, "told")


def _tag_keys(query: SumQuery) -> list[str]:
    grouped = [name.removeprefix(TAG_PREFIX) for name in query.by if name.startswith(TAG_PREFIX)]
    return sorted({*grouped, *(key for key, _ in query.wanted.tags)})


def _read_sum(row: Row[Any]) -> CostSum:
    values: list[Any] = list(row)
    period, day, currency, usage_unit = values[:4]
    cost, usage, count = values[-3:]
    return CostSum(
        period,
        None if day is None else date.fromordinal(day),
        tuple(values[4:-4]),
        currency,
        usage_unit,
        RollupSum(plain(cost), plain(usage), int(count)),
    )

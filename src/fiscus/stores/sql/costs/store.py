"""Cost records and their sums: what the ledger wrote, read back. Nothing here writes.

Lists and single records use `(tenant_id, timestamp)` and the primary key of `cost_records`; sums
use the primary key of `cost_rollups`, which begins with `(tenant_id, bucket)`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Row

from fiscus.clock import EPOCH, to_us
from fiscus.costs.model import ChargeCategory, CostFlag, CostRecord
from fiscus.costs.port import (
    DIMENSIONS,
    TAG_PREFIX,
    CostFilter,
    CostSum,
    CostSums,
    SumQuery,
    TimeSlice,
)
from fiscus.costs.rollups import RollupSum, quarter_hours_within
from fiscus.errors import NotFound
from fiscus.ids import is_uuid
from fiscus.money import plain
from fiscus.paging import Page, PageRequest, build_page
from fiscus.scopes import ScopeType
from fiscus.stores.sql.column_types import UtcTime
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.paging import SortKey, parse_time, parse_uuid, rows_of, time_value
from fiscus.stores.sql.sums import ExactSum
from fiscus.stores.sql.tables import (
    cost_operations,
    cost_records,
    cost_rollups,
    cost_series,
    reservations,
)
from fiscus.stores.sql.within import rows_within
from fiscus.wire.decoding import decode_any, decode_stored
from fiscus.wire.encoding import encode
from fiscus.zones import FAR_FUTURE

Condition = sa.ColumnElement[bool]

_LONG: Final = timedelta(days=92)
_AT_ONCE: Final = sa.text(
    "SELECT set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)"
)
"""For sums of a long time, and of some series, on PostgreSQL, which expects a hundredth of them: it
would look up the series of each by itself, or each series among all sums, where reading all of the
tenant's series takes less. What is off seems so dear to it before 18 that it would compile all."""

_EQUAL: Final = (
    "resource_type",
    "service_name",
    "region",
    "project_id",
    "user_id",
    "feature_id",
    "charge_category",
    "currency",
)

_NEWEST_FIRST: Final = (
    SortKey(cost_records.c.timestamp, parse_time),
    SortKey(cost_records.c.record_id, parse_uuid),
)


class SqlCosts:
    """`costs.port.CostStore` on SQLite and PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sqlite = database.is_sqlite

    # -- records

    def get(self, tenant_id: str, record_id: str) -> CostRecord:
        statement = sa.select(cost_records).where(
            cost_records.c.record_id == record_id, cost_records.c.tenant_id == tenant_id
        )
        row = None
        if is_uuid(record_id):
            with self._database.read(tenant_id) as connection:
                row = connection.execute(statement).one_or_none()
        if row is None:
            raise NotFound(
                f"There is no cost record {record_id}",
                details={"record_id": record_id},
                suggested_action="Look the record up with GET /cost-tracking/records.",
            )
        return _read_record(row)

    def list(self, tenant_id: str, wanted: CostFilter, page: PageRequest) -> Page[CostRecord]:
        records = sa.select(cost_records).where(*self._records_where(tenant_id, wanted))
        with self._database.read(tenant_id) as connection:
            count = None if page.cursor else self._count(connection, tenant_id, wanted)
            rows = rows_of(connection, records, _NEWEST_FIRST, page, count)
        return build_page(page, [_read_record(row) for row in rows], _position, count)

    def _count(self, connection: Connection, tenant_id: str, wanted: CostFilter) -> int:
        """How many records there are; by the rollups as far as they can tell."""
        whole = quarter_hours_within(wanted.start or EPOCH, wanted.end or FAR_FUTURE)
        if whole is not None and not (wanted.operation_id or wanted.reservation_id):
            first, last = whole
            count = self._count_rolled_up(connection, tenant_id, wanted, first, last)
            if count is not None:
                edges = (wanted._replace(end=first), wanted._replace(start=last))
                return count + sum(self._count_records(connection, tenant_id, one) for one in edges)
        return self._count_records(connection, tenant_id, wanted)

    def _count_rolled_up(
        self,
        connection: Connection,
        tenant_id: str,
        wanted: CostFilter,
        first: datetime,
        last: datetime,
    ) -> int | None:
        """None when some rollups know nothing of a tag asked for."""
        within = (
            cost_rollups.c.tenant_id == tenant_id,
            cost_rollups.c.bucket >= first,
            cost_rollups.c.bucket < last,
        )
        counted = self._where(cost_series, wanted)
        if (counted or wanted.tags) and not self._sqlite:
            connection.execute(_AT_ONCE)
        if wanted.tags:
            told = self._has_tag_keys(cost_series.c.tags, [key for key, _ in wanted.tags])
            silent = _of_series(cost_rollups.c.series_id, tenant_id, [*counted, sa.not_(told)])
            one = sa.select(cost_rollups.c.series_id).where(*within, *silent).limit(1)
            if connection.execute(one).first() is not None:
                return None
            counted.append(self._has_tags(cost_series.c.tags, wanted.tags))
        count = sa.select(sa.func.coalesce(sa.func.sum(cost_rollups.c.record_count), 0)).where(
            *within, *_of_series(cost_rollups.c.series_id, tenant_id, counted)
        )
        return int(connection.execute(count).scalar_one())

    def _count_records(self, connection: Connection, tenant_id: str, wanted: CostFilter) -> int:
        where = self._records_where(tenant_id, wanted)
        count = sa.select(sa.func.count()).select_from(cost_records).where(*where)
        return connection.execute(count).scalar_one()

    def _records_where(self, tenant_id: str, wanted: CostFilter) -> list[Condition]:
        table = cost_records
        where = [table.c.tenant_id == tenant_id, *self._where(table, wanted)]
        if wanted.start is not None:
            where.append(table.c.timestamp >= wanted.start)
        if wanted.end is not None:
            where.append(table.c.timestamp < wanted.end)
        if wanted.tags:
            where.append(self._has_tags(table.c.tags, wanted.tags))
        if wanted.operation_id is not None:
            made = sa.select(cost_operations.c.record_id, cost_operations.c.timestamp).where(
                cost_operations.c.tenant_id == tenant_id,
                cost_operations.c.operation_id == wanted.operation_id,
            )
            where.append(sa.tuple_(table.c.record_id, table.c.timestamp).in_(made))
        if wanted.reservation_id is not None:
            # by its whole key, as above: for an id alone SQLite would go through all of a tenant's
            of_record = cost_records.alias("of_record")
            settled = (
                sa.select(of_record.c.record_id, of_record.c.timestamp)
                .join(reservations, reservations.c.record_id == of_record.c.record_id)
                .where(
                    reservations.c.tenant_id == tenant_id,
                    reservations.c.reservation_id == wanted.reservation_id,
                )
            )
            by_key = sa.tuple_(table.c.record_id, table.c.timestamp).in_(settled)
            where.append(by_key if is_uuid(wanted.reservation_id) else sa.false())
        return where

    # -- sums

    @contextmanager
    def sums(self, tenant_id: str) -> Generator[CostSums]:
        with self._database.read(tenant_id) as connection:
            yield _Sums(self, connection, tenant_id)

    def rollup_sums(
        self, connection: Connection, tenant_id: str, query: SumQuery
    ) -> list[CostSum] | None:
        if not query.slices:
            return []
        joined = list(_joined(query.slices))
        # first whether it matters, as the answer may take going through all series
        if len(joined) < len(query.slices) and not _needs_rates(
            connection, tenant_id, query.target
        ):
            query = query._replace(slices=joined)
        told: Condition = sa.true()
        if tag_keys := _tag_keys(query):
            told = self._has_tag_keys(cost_series.c.tags, tag_keys)
        counted = self._where(cost_series, query.wanted)
        if query.wanted.tags:
            with_tags = self._has_tags(cost_series.c.tags, query.wanted.tags)
            counted.append(sa.or_(with_tags, sa.not_(told)))
        sums = self._sums_by_series(tenant_id, query, counted)
        of_sum = [cost_series.c.series_id == sums.c.series_id]
        is_long = query.slices[-1].end - query.slices[0].start > _LONG
        if (is_long or counted) and not self._sqlite:
            connection.execute(_AT_ONCE)
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

    def _sums_by_series(
        self, tenant_id: str, query: SumQuery, counted: Sequence[Condition]
    ) -> sa.Subquery:
        """Rollups added up first by what is narrow: joining and sorting by names costs more."""
        slices = self._slices(query.slices)
        wanted = [
            cost_rollups.c.tenant_id == tenant_id,
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
        return sums.where(*_of_series(rollups.c.series_id, tenant_id, counted)).subquery("sums")

    def record_sums(self, connection: Connection, tenant_id: str, query: SumQuery) -> list[CostSum]:
        if not query.slices:
            return []
        slices = self._slices(query.slices)
        wanted = [
            *_during(cost_records.c.timestamp, slices, query.slices),
            *self._records_where(tenant_id, query.wanted),
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
        return [_read_sum(row) for row in _summed(connection, query, rows)]

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
        if not self._sqlite:
            return _jsonb(table.c.tags)[key].astext
        each = _json_each(table.c.tags)
        return sa.select(each.c.value).where(each.c.key == key).scalar_subquery()

    def _where(self, table: sa.Table, wanted: CostFilter) -> list[Condition]:
        """The conditions on columns that records and series share."""
        return [
            table.c[name] == str(value)
            for name in _EQUAL
            if (value := getattr(wanted, name)) is not None
        ]

    def _has_tags(self, column: sa.Column[str], tags: tuple[tuple[str, str], ...]) -> Condition:
        if not self._sqlite:
            # A record without tags must give false, not null, so that the opposite is true.
            return sa.func.coalesce(_jsonb(column).contains(dict(tags)), sa.false())
        return sa.and_(*(self._sqlite_tag(column, key, value) for key, value in tags))

    def _has_tag_keys(self, column: sa.Column[str], keys: Sequence[str]) -> Condition:
        if not self._sqlite:
            return sa.func.coalesce(
                _jsonb(column).has_all(postgresql.array(keys, type_=sa.Text)), sa.false()
            )
        return sa.and_(*(self._sqlite_tag(column, key) for key in keys))

    def _sqlite_tag(self, column: sa.Column[str], key: str, value: str | None = None) -> Condition:
        each = _json_each(column)
        found = sa.select(sa.literal(1)).where(each.c.key == key)
        return (found if value is None else found.where(each.c.value == value)).exists()

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


class _Sums:
    """`costs.port.CostSums` on a connection that sees one state."""

    def __init__(self, costs: SqlCosts, connection: Connection, tenant_id: str) -> None:
        self._costs = costs
        self._connection = connection
        self._tenant_id = tenant_id

    def by_rollups(self, query: SumQuery) -> list[CostSum] | None:
        return self._costs.rollup_sums(self._connection, self._tenant_id, query)

    def by_records(self, query: SumQuery) -> list[CostSum]:
        return self._costs.record_sums(self._connection, self._tenant_id, query)


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


def _of_series(
    series_id: sa.ColumnElement[str], tenant_id: str, counted: Sequence[Condition]
) -> Iterator[Condition]:
    """`series_id` is of a tenant's series that are `counted`; where all are, nothing is asked.

    No join, by which SQLite would look up each rollup's series. PostgreSQL takes it for one, which
    is to be made `_AT_ONCE`.
    """
    if counted:
        series = sa.select(cost_series.c.series_id)
        series = series.where(cost_series.c.tenant_id == tenant_id, *counted)
        yield series_id.in_(series)


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


def _jsonb(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(column, postgresql.JSONB)


def _json_each(column: sa.ColumnElement[Any]) -> sa.TableValuedAlias:
    return sa.func.json_each(column).table_valued("key", "value")


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


def _read_record(row: Row[Any]) -> CostRecord:
    values: dict[str, Any] = dict(zip(cost_records.c.keys(), row, strict=True))
    quantity, usage, tags, flags = (
        values.pop(name) for name in ("usage_quantity", "usage", "tags", "flags")
    )
    values["cost_amount"] = plain(values["cost_amount"])
    values["charge_category"] = ChargeCategory(values["charge_category"])
    values["attributed_to_type"] = ScopeType(values["attributed_to_type"])
    return CostRecord(
        **values,
        usage_quantity=None if quantity is None else plain(quantity),
        usage=None if usage is None else decode_stored(usage),
        tags={} if tags is None else decode_any(tags),
        flags=[] if flags is None else [CostFlag(flag) for flag in flags.split(",")],
    )


def _position(record: CostRecord) -> list[Any]:
    return [time_value(record.timestamp), record.record_id]

"""The conditions that a filter of costs becomes: on records, and on the series of rollups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from fiscus.costs.port import CostFilter
from fiscus.ids import is_uuid
from fiscus.stores.sql.tables import cost_operations, cost_records, cost_series, reservations

Condition = sa.ColumnElement[bool]

AT_ONCE: Final = sa.text(
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


class CostConditions:
    """Conditions as the database takes them, which keeps tags in its own way."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self._sqlite = is_sqlite

    def of_records(self, tenant_id: str, wanted: CostFilter) -> list[Condition]:
        table = cost_records
        where = [table.c.tenant_id == tenant_id, *on_shared_columns(table, wanted)]
        if wanted.start is not None:
            where.append(table.c.timestamp >= wanted.start)
        if wanted.end is not None:
            where.append(table.c.timestamp < wanted.end)
        if wanted.tags:
            where.append(self.has_tags(table.c.tags, wanted.tags))
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

    def has_tags(self, column: sa.Column[str], tags: tuple[tuple[str, str], ...]) -> Condition:
        if not self._sqlite:
            # A record without tags must give false, not null, so that the opposite is true.
            return sa.func.coalesce(_jsonb(column).contains(dict(tags)), sa.false())
        return sa.and_(*(self._sqlite_tag(column, key, value) for key, value in tags))

    def has_tag_keys(self, column: sa.Column[str], keys: Sequence[str]) -> Condition:
        if not self._sqlite:
            return sa.func.coalesce(
                _jsonb(column).has_all(postgresql.array(keys, type_=sa.Text)), sa.false()
            )
        return sa.and_(*(self._sqlite_tag(column, key) for key in keys))

    def tag(self, column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[Any]:
        """The value of a tag, not a condition."""
        if not self._sqlite:
            return _jsonb(column)[key].astext
        each = _json_each(column)
        return sa.select(each.c.value).where(each.c.key == key).scalar_subquery()

    def _sqlite_tag(self, column: sa.Column[str], key: str, value: str | None = None) -> Condition:
        each = _json_each(column)
        found = sa.select(sa.literal(1)).where(each.c.key == key)
        return (found if value is None else found.where(each.c.value == value)).exists()


def on_shared_columns(table: sa.Table, wanted: CostFilter) -> list[Condition]:
    """The conditions on columns that records and series share."""
    return [
        table.c[name] == str(value)
        for name in _EQUAL
        if (value := getattr(wanted, name)) is not None
    ]


def of_series(
    series_id: sa.ColumnElement[str], tenant_id: str, counted: Sequence[Condition]
) -> Iterator[Condition]:
    """`series_id` is of a tenant's series that are `counted`; where all are, nothing is asked.

    No join, by which SQLite would look up each rollup's series. PostgreSQL takes it for one, which
    is to be made `AT_ONCE`.
    """
    if counted:
        series = sa.select(cost_series.c.series_id)
        series = series.where(cost_series.c.tenant_id == tenant_id, *counted)
        yield series_id.in_(series)


def _jsonb(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(column, postgresql.JSONB)


def _json_each(column: sa.ColumnElement[Any]) -> sa.TableValuedAlias:
    return sa.func.json_each(column).table_valued("key", "value")

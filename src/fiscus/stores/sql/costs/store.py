"""Cost records: what the ledger wrote, read back. Nothing here writes.

Lists and single records use `(tenant_id, timestamp)` and the primary key of `cost_records`; sums
use the primary key of `cost_rollups`, which begins with `(tenant_id, bucket)`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fiscus.clock import EPOCH
from fiscus.costs.model import ChargeCategory, CostFlag, CostRecord
from fiscus.costs.port import CostFilter, CostSums
from fiscus.costs.rollups import quarter_hours_within
from fiscus.errors import NotFound
from fiscus.ids import is_uuid
from fiscus.money import plain
from fiscus.paging import Page, PageRequest, build_page
from fiscus.scopes import ScopeType
from fiscus.stores.sql.costs.conditions import AT_ONCE, CostConditions, of_series, on_shared_columns
from fiscus.stores.sql.costs.sums import SqlCostSums
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.paging import SortKey, parse_time, parse_uuid, rows_of, time_value
from fiscus.stores.sql.tables import cost_records, cost_rollups, cost_series
from fiscus.wire.decoding import decode_any, decode_stored
from fiscus.zones import FAR_FUTURE

_NEWEST_FIRST: Final = (
    SortKey(cost_records.c.timestamp, parse_time),
    SortKey(cost_records.c.record_id, parse_uuid),
)


class SqlCosts:
    """`costs.port.CostStore` on SQLite and PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sqlite = database.is_sqlite
        self._conditions = CostConditions(is_sqlite=self._sqlite)

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
        records = sa.select(cost_records).where(*self._conditions.of_records(tenant_id, wanted))
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
        counted = on_shared_columns(cost_series, wanted)
        if (counted or wanted.tags) and not self._sqlite:
            connection.execute(AT_ONCE)
        if wanted.tags:
            told = self._conditions.has_tag_keys(
                cost_series.c.tags, [key for key, _ in wanted.tags]
            )
            silent = of_series(cost_rollups.c.series_id, tenant_id, [*counted, sa.not_(told)])
            one = sa.select(cost_rollups.c.series_id).where(*within, *silent).limit(1)
            if connection.execute(one).first() is not None:
                return None
            counted.append(self._conditions.has_tags(cost_series.c.tags, wanted.tags))
        count = sa.select(sa.func.coalesce(sa.func.sum(cost_rollups.c.record_count), 0)).where(
            *within, *of_series(cost_rollups.c.series_id, tenant_id, counted)
        )
        return int(connection.execute(count).scalar_one())

    def _count_records(self, connection: Connection, tenant_id: str, wanted: CostFilter) -> int:
        where = self._conditions.of_records(tenant_id, wanted)
        count = sa.select(sa.func.count()).select_from(cost_records).where(*where)
        return connection.execute(count).scalar_one()

    # -- sums

    @contextmanager
    def sums(self, tenant_id: str) -> Generator[CostSums]:
        with self._database.read(tenant_id) as connection:
            yield SqlCostSums(connection, tenant_id, self._conditions, is_sqlite=self._sqlite)


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

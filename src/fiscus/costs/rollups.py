"""Quarter-hour sums of costs, kept in the transaction of the records they sum.

A series is one combination of the fixed dimensions and the tenant's declared tags; a rollup is the
sum of one series over one quarter of an hour. Every zone's days begin on a quarter hour, so reports
by hour, day, week and month add rollups and never read records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from msgspec import Struct

from fiscus.clock import EPOCH
from fiscus.costs.model import CostRecord
from fiscus.money import ZERO, add

QUARTER_HOUR: Final = timedelta(minutes=15)
_SERIES_KEPT: Final = 30_000


class Series(NamedTuple):
    """One combination of dimensions; `series_id`, a hash of the rest, can be made anywhere."""

    series_id: str
    tenant_id: str
    resource_type: str
    service_name: str | None
    region: str | None
    project_id: str | None
    user_id: str | None
    feature_id: str | None
    attributed_to_type: str
    attributed_to_id: str
    charge_category: str
    currency: str
    usage_unit: str | None
    tags: tuple[tuple[str, str | None], ...]
    """The declared tags, in the order of their keys; None where the record had none.

    A key that is missing was not declared when the series was made, so its rollups cannot tell.
    """


RollupKey = tuple[str, str, datetime]
"""Tenant id, series id and the start of the quarter hour, UTC."""


class RollupSum(Struct, frozen=True, gc=False):
    """What is added to one bucket of one series."""

    cost_amount: Decimal
    usage_quantity: Decimal
    record_count: int

    def plus(self, other: RollupSum) -> RollupSum:
        return RollupSum(
            add(self.cost_amount, other.cost_amount),
            add(self.usage_quantity, other.usage_quantity),
            self.record_count + other.record_count,
        )


def bucket_of(moment: datetime) -> datetime:
    """The start of the quarter hour `moment` falls in."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.replace(minute=utc.minute // 15 * 15, second=0, microsecond=0)


def quarter_hours_within(start: datetime, end: datetime) -> tuple[datetime, datetime] | None:
    """The whole quarter hours of `[start, end)`, from first start to last end; None without one."""
    first = bucket_of(start)
    if first < start:
        first += QUARTER_HOUR
    last = bucket_of(end)
    return (first, last) if first < last else None


def series_of(record: CostRecord, declared_tags: Sequence[str]) -> Series:
    """The series a record is summed under."""
    tags: tuple[tuple[str, str | None], ...] = ()
    if declared_tags:
        tags = tuple((key, record.tags.get(key)) for key in sorted(declared_tags))
    return _series(
        record.tenant_id,
        record.resource_type,
        record.service_name,
        record.region,
        record.project_id,
        record.user_id,
        record.feature_id,
        record.attributed_to_type,
        record.attributed_to_id,
        record.charge_category,
        record.currency,
        record.usage_unit,
        tags,
    )


@lru_cache(maxsize=_SERIES_KEPT)
def _series(*dimensions: Any) -> Series:
    """The series of dimensions in its order."""
    plain: tuple[Any, ...] = tuple(
        str(one) if isinstance(one, StrEnum) else one for one in dimensions
    )
    series_id = blake2b(repr(plain).encode(), digest_size=16).hexdigest()
    return Series(series_id, *plain)


def sum_of(record: CostRecord) -> RollupSum:
    return RollupSum(record.cost_amount, record.usage_quantity or ZERO, 1)


def add_up(
    records: Iterable[CostRecord], declared_tags: Callable[[str], Sequence[str]]
) -> tuple[dict[str, Series], dict[RollupKey, RollupSum]]:
    """The series of some records, by id, and what the records add to their quarter hours.

    `declared_tags` gives those of a tenant.
    """
    series: dict[str, Series] = {}
    sums: dict[RollupKey, RollupSum] = {}
    tenant_id = ""
    tags: Sequence[str] = ()
    start = end = EPOCH
    for record in records:  # most are of the tenant and the quarter hour of the one before
        if record.tenant_id != tenant_id:
            tenant_id = record.tenant_id
            tags = declared_tags(tenant_id)
        moment = record.timestamp
        if not start <= moment < end:
            start = bucket_of(moment)
            end = start + QUARTER_HOUR
        one = series_of(record, tags)
        key = (tenant_id, one.series_id, start)
        before = sums.get(key)
        if before is None:
            series[one.series_id] = one
            sums[key] = sum_of(record)
        else:
            sums[key] = before.plus(sum_of(record))
    return series, sums

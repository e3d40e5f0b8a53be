"""Quarter-hour sums of costs, kept in the transaction of the records they sum.

A series is one combination of the fixed dimensions and the tenant's declared tags; a rollup is the
sum of one series over one quarter of an hour. Every zone's days begin on a quarter hour, so reports
by hour, day, week and month add rollups and never read records.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from msgspec import Struct

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


class RollupKey(NamedTuple):
    tenant_id: str
    series_id: str
    bucket: datetime
    """Start of the quarter hour, UTC."""


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


_Dimensions = tuple[
    str,
    str,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str,
    str,
    str,
    str,
    str | None,
    tuple[tuple[str, str | None], ...],
]
"""Those of a series, in its order."""


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
    dimensions = (
        record.tenant_id,
        record.resource_type,
        record.service_name,
        record.region,
        record.project_id,
        record.user_id,
        record.feature_id,
        str(record.attributed_to_type),
        record.attributed_to_id,
        str(record.charge_category),
        record.currency,
        record.usage_unit,
        tags,
    )
    return _series(dimensions)


@lru_cache(maxsize=_SERIES_KEPT)
def _series(dimensions: _Dimensions) -> Series:
    series_id = blake2b(repr(dimensions).encode(), digest_size=16).hexdigest()
    return Series(series_id, *dimensions)


def sum_of(record: CostRecord) -> RollupSum:
    return RollupSum(record.cost_amount, record.usage_quantity or ZERO, 1)

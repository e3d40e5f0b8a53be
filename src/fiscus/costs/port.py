"""What costs need of a store, besides the ledger. Every call names its tenant."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from typing import Final, NamedTuple, Protocol

from fiscus.costs.model import ChargeCategory, CostRecord
from fiscus.costs.rollups import RollupSum
from fiscus.paging import Page, PageRequest

TAG_PREFIX: Final = "tag:"
"""`tag:team` is the dimension of the values of the tag `team`."""

DIMENSIONS: Final = frozenset(
    {
        "resource_type",
        "service_name",
        "region",
        "project_id",
        "user_id",
        "feature_id",
        "attributed_to_type",
        "attributed_to_id",
    }
)
"""What costs can be summed by, besides tags."""


class CostFilter(NamedTuple):
    """Which costs to count: those in `[start, end)` with equal attributes; None counts all."""

    start: datetime | None = None
    end: datetime | None = None
    resource_type: str | None = None
    service_name: str | None = None
    region: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    feature_id: str | None = None
    charge_category: ChargeCategory | None = None
    currency: str | None = None
    operation_id: str | None = None
    reservation_id: str | None = None
    tags: tuple[tuple[str, str], ...] = ()


class TimeSlice(NamedTuple):
    """`[start, end)` within one UTC day and one period of a report, which are summed by
    themselves."""

    start: datetime
    end: datetime
    period: int


class SumQuery(NamedTuple):
    """Costs of `wanted` in `slices`, which do not overlap, summed by the dimensions `by`.

    Sums are kept apart by currency, by usage unit and, where the currency is not `target` and so
    needs a rate, by UTC day.
    """

    wanted: CostFilter
    by: tuple[str, ...]
    slices: Sequence[TimeSlice]
    target: str


class CostSum(NamedTuple):
    """One exact sum; `key` holds the values of the query's `by`, `day` is None in its `target`."""

    period: int
    day: date | None
    key: tuple[str | None, ...]
    currency: str
    usage_unit: str | None
    total: RollupSum


class CostSums(Protocol):
    """What a tenant's costs add up to; all that is asked of one is as of one moment."""

    def by_rollups(self, query: SumQuery) -> list[CostSum] | None:
        """Sums out of the rollups; every slice must begin and end on a quarter hour.

        The time goes with the number of series and quarter hours, not of records. None when some
        rollups know nothing of a tag asked for, because it was not declared when they were made.
        """
        ...

    def by_records(self, query: SumQuery) -> list[CostSum]:
        """The same sums out of the records themselves, by any tag and between any two moments."""
        ...


class CostStore(Protocol):
    def get(self, tenant_id: str, record_id: str) -> CostRecord:
        """Raises `NotFound`."""
        ...

    def list(self, tenant_id: str, wanted: CostFilter, page: PageRequest) -> Page[CostRecord]:
        """Records, newest first. Raises `ValidationError` for a token of another list."""
        ...

    def sums(self, tenant_id: str) -> AbstractContextManager[CostSums]:
        """The sums of a tenant's costs, as of now until the end of the block."""
        ...

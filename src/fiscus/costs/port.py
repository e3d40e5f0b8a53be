"""What costs need of a store, besides the ledger. Every call names its tenant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from fiscus.costs.model import ChargeCategory, CostRecord
from fiscus.costs.rollups import RollupSum, Series
from fiscus.paging import Page, PageRequest


class CostFilter(NamedTuple):
    """Which costs a query or report counts: `[start, end)` and equal attributes; None counts all."""

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


class CostSum(NamedTuple):
    """The sum of one series in one quarter hour."""

    series: Series
    bucket: datetime
    total: RollupSum


class CostStore(Protocol):
    def get(self, tenant_id: str, record_id: str) -> CostRecord:
        """Raises `NotFound`."""
        ...

    def list(self, tenant_id: str, wanted: CostFilter, page: PageRequest) -> Page[CostRecord]:
        """Records, newest first."""
        ...

    def sums(self, tenant_id: str, wanted: CostFilter) -> Iterator[CostSum]:
        """Rollups of `wanted`, whose start and end are on quarter hours and whose tags are declared.

        Its time goes with the number of series and quarter hours, not of records.
        """
        ...

    def scan(self, tenant_id: str, wanted: CostFilter) -> Iterator[CostRecord]:
        """Every record of `wanted`; for reports that rollups cannot answer."""
        ...

    def totals_by_currency(
        self, tenant_id: str, wanted: CostFilter
    ) -> Sequence[tuple[str, RollupSum]]:
        """Exact sums over the records themselves, to audit the rollups by."""
        ...

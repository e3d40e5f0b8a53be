"""Reads the costs of a report from a store's sums: added up and converted, unrounded."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from fiscus.costs.fx import Rates
from fiscus.costs.port import TAG_PREFIX, CostFilter, CostSum, CostSums, SumQuery
from fiscus.costs.report_dimensions import DETAILED, TIMES, GroupKey, columns_of, reader_of
from fiscus.costs.report_model import (
    Granularity,
    ReportRequest,
    ReportSource,
    ReportType,
    UnconvertedCost,
)
from fiscus.costs.report_time import TimePeriod, TimeRange, periods_of, slices_of, split_slices
from fiscus.money import ZERO, add, multiply, plain
from fiscus.tenants import TenantSettings

NO_UNIT: Final = "unspecified"
"""The unit of quantities that were recorded without one."""


class CostTally:
    """What a group adds up to, unrounded."""

    def __init__(self) -> None:
        self.cost = ZERO
        self.record_count = 0
        self.usage: dict[str, Decimal] = {}
        self.unconverted: dict[str, Decimal] = {}

    def add(self, one: CostSum, cost: Decimal | None) -> None:
        """Count one sum; `cost` is None when no rate is known for it."""
        total = one.total
        if cost is None:
            self._leave(one.currency, total.cost_amount)
        else:
            self.cost = add(self.cost, cost)
        self.record_count += total.record_count
        if total.usage_quantity or one.usage_unit is not None:
            unit = one.usage_unit or NO_UNIT
            self._use(unit, total.usage_quantity)

    def fold(self, other: CostTally) -> None:
        """Count what another group counted."""
        self.cost = add(self.cost, other.cost)
        self.record_count += other.record_count
        for unit, quantity in other.usage.items():
            self._use(unit, quantity)
        for currency, cost in other.unconverted.items():
            self._leave(currency, cost)

    def _use(self, unit: str, quantity: Decimal) -> None:
        self.usage[unit] = add(self.usage.get(unit, ZERO), quantity)

    def _leave(self, currency: str, cost: Decimal) -> None:
        self.unconverted[currency] = add(self.unconverted.get(currency, ZERO), cost)

    def shown_usage(self) -> dict[str, Decimal]:
        return {unit: plain(quantity) for unit, quantity in sorted(self.usage.items())}

    def shown_unconverted(self) -> list[UnconvertedCost]:
        return [
            UnconvertedCost(currency=currency, cost=plain(cost))
            for currency, cost in sorted(self.unconverted.items())
        ]


class ReportCosts(NamedTuple):
    """What was read for one range."""

    range: TimeRange
    periods: list[TimePeriod]
    columns: tuple[str, ...]
    sums: list[tuple[CostSum, Decimal | None]]
    """With the cost in the report's currency, unrounded."""
    whole: CostTally
    source: ReportSource

    def tallies(self, dimensions: Sequence[str]) -> dict[GroupKey, CostTally]:
        """The sums folded into groups by `dimensions`."""
        value_of = [reader_of(name, self.columns) for name in dimensions]
        found: dict[GroupKey, CostTally] = {}
        for one, cost in self.sums:
            key = tuple(read(one) for read in value_of)
            tally = found.get(key)
            if tally is None:
                tally = found[key] = CostTally()
            tally.add(one, cost)
        return found


class ReportReader:
    """Reads ranges for one request."""

    def __init__(
        self,
        request: ReportRequest,
        rates: Rates,
        settings: TenantSettings,
        dimensions: Sequence[str],
        timezone: str,
    ) -> None:
        self.currency = request.currency or settings.currency
        self._rates = rates
        self._timezone = timezone
        self._granularity = next((Granularity(one) for one in dimensions if one in TIMES), None)
        self._wanted = _filter(request)
        wider = DETAILED if request.report_type is ReportType.DETAILED else ()
        self._columns = tuple(
            dict.fromkeys(column for name in (*dimensions, *wider) for column in columns_of(name))
        )
        tags = {one.removeprefix(TAG_PREFIX) for one in self._columns if one.startswith(TAG_PREFIX)}
        self._rolled_up = set(settings.rollup_tags) >= tags | request.tags.keys()

    def read(self, sums: CostSums, wanted: TimeRange) -> ReportCosts:
        periods = periods_of(wanted, self._granularity, self._timezone)
        found, source = self._found(sums, periods)
        whole = CostTally()
        converted = [(one, self._convert(one)) for one in found]
        for one, cost in converted:
            whole.add(one, cost)
        return ReportCosts(wanted, periods, self._columns, converted, whole, source)

    def _found(
        self, sums: CostSums, periods: Sequence[TimePeriod]
    ) -> tuple[list[CostSum], ReportSource]:
        slices = list(slices_of(periods))
        query = SumQuery(self._wanted, self._columns, slices, self.currency)
        if self._rolled_up:
            whole, parts = split_slices(slices)
            found = sums.by_rollups(query._replace(slices=whole))
            if found is not None:
                if not parts:
                    return found, ReportSource.ROLLUPS
                found += sums.by_records(query._replace(slices=parts))
                return found, ReportSource.MIXED
        return sums.by_records(query), ReportSource.RECORDS

    def _convert(self, one: CostSum) -> Decimal | None:
        if one.day is None:
            return one.total.cost_amount
        rate = self._rates.rate(one.currency, self.currency, one.day)
        return None if rate is None else multiply(one.total.cost_amount, rate.value)


def _filter(request: ReportRequest) -> CostFilter:
    return CostFilter(
        resource_type=request.resource_type,
        service_name=request.service_name,
        region=request.region,
        project_id=request.project_id,
        user_id=request.user_id,
        feature_id=request.feature_id,
        charge_category=request.charge_category,
        tags=tuple(sorted(request.tags.items())),
    )

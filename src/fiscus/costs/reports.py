"""Reports: costs of a range added up, converted, grouped and compared; exact to the last digit.

Every number comes from sums that a store adds up exactly. They are converted unrounded, the total
is rounded once, and parts are rounded by largest remainder, so that they add up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Final, NamedTuple

from fiscus.costs.fx import Rates
from fiscus.costs.port import TAG_PREFIX, CostFilter, CostStore, CostSum, CostSums, SumQuery
from fiscus.costs.report_model import (
    Granularity,
    PreviousRange,
    Report,
    ReportGroup,
    ReportRequest,
    ReportSection,
    ReportSource,
    ReportType,
    UnconvertedCost,
)
from fiscus.costs.report_time import (
    TimePeriod,
    TimeRange,
    periods_of,
    previous_range,
    report_range,
    slices_of,
    split_slices,
)
from fiscus.errors import ValidationError
from fiscus.money import (
    EXACT,
    QUANTUM,
    ZERO,
    add,
    multiply,
    plain,
    ratio,
    round_half_even,
    subtract,
)
from fiscus.tenants import TenantSettings
from fiscus.zones import parse_timezone

NO_UNIT: Final = "unspecified"
"""The unit of quantities that were recorded without one."""

_COLUMNS: Final = {
    "resource_type": ("resource_type",),
    "service_name": ("service_name",),
    "region": ("region",),
    "scope": ("attributed_to_type", "attributed_to_id"),
    "project": ("project_id",),
    "user": ("user_id",),
    "feature": ("feature_id",),
}
_OTHER_NAMES: Final = {
    "service": "service_name",
    "project_id": "project",
    "user_id": "user",
    "feature_id": "feature",
}
_FIRST: Final = {
    ReportType.BY_RESOURCE: "resource_type",
    ReportType.BY_SERVICE: "service_name",
    ReportType.BY_USER: "user",
    ReportType.BY_FEATURE: "feature",
}
_DETAILED: Final = ("resource_type", "service_name", "user", "feature")
_TIMES: Final = frozenset(Granularity)

Key = tuple[str | int | None, ...]
"""A group's values; of a period its place in the range, so that ranges can be compared."""


def build_report(
    request: ReportRequest,
    store: CostStore,
    rates: Rates,
    settings: TenantSettings,
    tenant_id: str,
    now: datetime,
) -> Report:
    """The report of `tenant_id`, which is the caller's by right.

    Raises `ValidationError` naming the field that is wrong.
    """
    timezone = parse_timezone(request.timezone or settings.timezone)
    dimensions = _dimensions(request)
    current = report_range(request.start_date, request.end_date, timezone, now)
    reader = _Reader(request, rates, settings, dimensions, timezone)
    before: _Costs | None = None
    with store.sums(tenant_id) as sums:
        costs = reader.read(sums, current)
        if request.compare_previous:
            before = reader.read(sums, previous_range(current, timezone))
    builder = _Builder(costs, before, request.limit)
    main = builder.section(dimensions)
    detailed = request.report_type is ReportType.DETAILED
    return Report(
        report_type=request.report_type,
        tenant_id=tenant_id,
        start_date=current.start,
        end_date=current.end,
        timezone=timezone,
        currency=reader.currency,
        total_cost=builder.total,
        record_count=costs.whole.record_count,
        usage=costs.whole.shown_usage(),
        unconverted=costs.whole.shown_unconverted(),
        group_by=main.group_by,
        groups=main.groups,
        group_count=main.group_count,
        truncated=main.truncated,
        other_cost=main.other_cost,
        other_record_count=main.other_record_count,
        other_usage=main.other_usage,
        other_unconverted=main.other_unconverted,
        other_previous_cost=main.other_previous_cost,
        sections=[builder.section((name,)) for name in _DETAILED] if detailed else [],
        previous=None if before is None else _previous(builder.total, before),
        source=costs.source,
        generated_at=now,
    )


def _dimensions(request: ReportRequest) -> tuple[str, ...]:
    """The names to group by, in order, each once."""
    names: list[str] = []
    if request.report_type is ReportType.BY_TIME_PERIOD:
        names.append(request.granularity.value)
    elif request.report_type in _FIRST:
        names.append(_FIRST[request.report_type])
    for index, given in enumerate(request.group_by):
        name = _OTHER_NAMES.get(given, given)
        is_tag = name.startswith(TAG_PREFIX) and name != TAG_PREFIX
        if name not in _COLUMNS and name not in _TIMES and not is_tag:
            raise ValidationError(
                f"group_by[{index}] is {given!r}, and costs are not grouped by that",
                field=f"group_by[{index}]",
                suggested_action=f"Use {', '.join((*_COLUMNS, *Granularity))} or tag:<key>.",
            )
        names.append(name)
    dimensions = tuple(dict.fromkeys(names))
    if sum(name in _TIMES for name in dimensions) > 1:
        raise ValidationError(
            "group_by names more than one kind of period",
            field="group_by",
            suggested_action="Group by one of hour, day, week and month.",
        )
    return dimensions


class _Tally:
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

    def fold(self, other: _Tally) -> None:
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


class _Costs(NamedTuple):
    """What was read for one range."""

    range: TimeRange
    periods: list[TimePeriod]
    columns: tuple[str, ...]
    sums: list[tuple[CostSum, Decimal | None]]
    """With the cost in the report's currency, unrounded."""
    whole: _Tally
    source: ReportSource

    def tallies(self, dimensions: Sequence[str]) -> dict[Key, _Tally]:
        """The sums folded into groups by `dimensions`."""
        value_of = [_reader_of(name, self.columns) for name in dimensions]
        found: dict[Key, _Tally] = {}
        for one, cost in self.sums:
            key = tuple(read(one) for read in value_of)
            tally = found.get(key)
            if tally is None:
                tally = found[key] = _Tally()
            tally.add(one, cost)
        return found


class _Reader:
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
        self._granularity = next((Granularity(one) for one in dimensions if one in _TIMES), None)
        self._wanted = _filter(request)
        wider = _DETAILED if request.report_type is ReportType.DETAILED else ()
        self._columns = tuple(
            dict.fromkeys(column for name in (*dimensions, *wider) for column in _columns(name))
        )
        tags = {one.removeprefix(TAG_PREFIX) for one in self._columns if one.startswith(TAG_PREFIX)}
        self._rolled_up = set(settings.rollup_tags) >= tags | request.tags.keys()

    def read(self, sums: CostSums, wanted: TimeRange) -> _Costs:
        periods = periods_of(wanted, self._granularity, self._timezone)
        found, source = self._found(sums, periods)
        whole = _Tally()
        converted = [(one, self._convert(one)) for one in found]
        for one, cost in converted:
            whole.add(one, cost)
        return _Costs(wanted, periods, self._columns, converted, whole, source)

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


class _Builder:
    """Makes sections of what was read."""

    def __init__(self, costs: _Costs, before: _Costs | None, limit: int) -> None:
        self.total = round_half_even(costs.whole.cost)
        self._costs = costs
        self._before = before
        self._limit = limit

    def section(self, dimensions: Sequence[str]) -> ReportSection:
        """Groups in order of time where they have one, then the largest first."""
        if not dimensions:
            return _without_groups()
        tallies = self._costs.tallies(dimensions)
        place = next((at for at, name in enumerate(dimensions) if name in _TIMES), None)
        if place is not None and len(dimensions) == 1:
            for index in range(len(self._costs.periods)):
                tallies.setdefault((index,), _Tally())
        previous = self._previous_costs(dimensions, place)
        for key in previous or ():
            tallies.setdefault(key, _Tally())
        costs = rounded_parts({key: tally.cost for key, tally in tallies.items()}, self.total)
        ordered = sorted(
            tallies,
            key=lambda key: (
                0 if place is None else key[place],
                costs[key].copy_negate(),  # a minus sign would round by the program's own context
                _sortable(key),
            ),
        )
        shown, left_out = ordered[: self._limit], ordered[self._limit :]
        others = _Tally()
        for key in left_out:
            others.fold(tallies[key])
        return ReportSection(
            group_by=list(dimensions),
            groups=[
                self._group(
                    self._labelled(dimensions, key),
                    tallies[key],
                    costs[key],
                    None if previous is None else previous.get(key, ZERO),
                )
                for key in shown
            ],
            group_count=len(ordered),
            truncated=bool(left_out),
            other_cost=plain(_sum(costs[key] for key in left_out)),
            other_record_count=others.record_count,
            other_usage=others.shown_usage(),
            other_unconverted=others.shown_unconverted(),
            other_previous_cost=(
                None
                if previous is None
                else plain(_sum(previous.get(key, ZERO) for key in left_out))
            ),
        )

    def _previous_costs(
        self, dimensions: Sequence[str], place: int | None
    ) -> dict[Key, Decimal] | None:
        """What the groups cost before; a period is compared with that of the same place."""
        if self._before is None:
            return None
        tallies = self._before.tallies(dimensions)
        exact = {key: tally.cost for key, tally in tallies.items()}
        costs = rounded_parts(exact, round_half_even(self._before.whole.cost))
        if place is None:
            return costs
        # A month may have more days than the one it is compared with.
        beyond = len(self._costs.periods)
        return {key: cost for key, cost in costs.items() if _period(key, place) < beyond}

    def _group(
        self,
        key: dict[str, str | None],
        tally: _Tally,
        cost: Decimal,
        previous: Decimal | None,
    ) -> ReportGroup:
        return ReportGroup(
            key=key,
            cost=cost,
            record_count=tally.record_count,
            usage=tally.shown_usage(),
            share=ratio(cost, self.total) if self.total else None,
            unconverted=tally.shown_unconverted(),
            previous_cost=previous,
            change=None if previous is None else plain(subtract(cost, previous)),
            change_ratio=None if previous is None else change_ratio(cost, previous),
        )

    def _labelled(self, dimensions: Sequence[str], key: Key) -> dict[str, str | None]:
        return {
            name: self._costs.periods[value].label if isinstance(value, int) else value
            for name, value in zip(dimensions, key, strict=True)
        }


def _without_groups() -> ReportSection:
    """Made anew each time: the lists in an answer are the caller's, who may fill them."""
    return ReportSection(
        group_by=[],
        groups=[],
        group_count=0,
        truncated=False,
        other_cost=ZERO,
        other_record_count=0,
        other_usage={},
        other_unconverted=[],
    )


def rounded_parts(exact: dict[Key, Decimal], total: Decimal) -> dict[Key, Decimal]:
    """Every part rounded to 12 places so that they add up to `total`, which is their rounded sum.

    Largest remainder: all are rounded down, and what is missing goes, a last digit each, to those
    that lost most.
    """
    floors = {
        key: part.quantize(QUANTUM, rounding=ROUND_FLOOR, context=EXACT)
        for key, part in exact.items()
    }
    missing = int(EXACT.divide(subtract(total, _sum(floors.values())), QUANTUM)) if floors else 0
    if missing:
        lost = sorted(floors, key=lambda key: (subtract(floors[key], exact[key]), _sortable(key)))
        for key in lost[:missing]:
            floors[key] = add(floors[key], QUANTUM)
    return {key: plain(part) for key, part in floors.items()}


def change_ratio(cost: Decimal, previous: Decimal) -> Decimal | None:
    """The change as a part of what it was before; None when that was nothing."""
    return ratio(subtract(cost, previous), previous.copy_abs()) if previous else None


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


def _columns(name: str) -> tuple[str, ...]:
    """What a store sums by to group by `name`; periods are no column."""
    return () if name in _TIMES else _COLUMNS.get(name, (name,))


def _reader_of(name: str, columns: Sequence[str]) -> Callable[[CostSum], str | int | None]:
    """How to read a dimension's value off a sum."""
    if name in _TIMES:
        return lambda one: one.period
    first, *rest = (columns.index(column) for column in _columns(name))
    if not rest:
        return lambda one: one.key[first]
    return lambda one: f"{one.key[first]}:{one.key[rest[0]]}"


def _previous(total: Decimal, before: _Costs) -> PreviousRange:
    cost = round_half_even(before.whole.cost)
    return PreviousRange(
        start_date=before.range.start,
        end_date=before.range.end,
        total_cost=cost,
        record_count=before.whole.record_count,
        change=plain(subtract(total, cost)),
        change_ratio=change_ratio(total, cost),
        unconverted=before.whole.shown_unconverted(),
    )


def _period(key: Key, place: int) -> int:
    period = key[place]
    assert isinstance(period, int)
    return period


def _sortable(key: Key) -> list[tuple[bool, str]]:
    """`key` in an order that holds null too."""
    return [(value is None, "" if value is None else str(value)) for value in key]


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for amount in amounts:
        total = add(total, amount)
    return total

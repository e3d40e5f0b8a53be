"""Reports: costs of a range added up, converted, grouped and compared; exact to the last digit.

Every number comes from sums that a store adds up exactly. They are converted unrounded, the total
is rounded once, and parts are rounded by largest remainder, so that they add up to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal

from fiscus.costs.fx import Rates
from fiscus.costs.port import CostStore
from fiscus.costs.report_dimensions import DETAILED, TIMES, GroupKey, dimensions_of, sortable
from fiscus.costs.report_model import (
    PreviousRange,
    Report,
    ReportGroup,
    ReportRequest,
    ReportSection,
    ReportType,
)
from fiscus.costs.report_reading import CostTally, ReportCosts, ReportReader
from fiscus.costs.report_time import previous_range, report_range
from fiscus.money import EXACT, QUANTUM, ZERO, add, plain, ratio, round_half_even, subtract
from fiscus.tenants import TenantSettings
from fiscus.zones import parse_timezone


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
    dimensions = dimensions_of(request)
    current = report_range(request.start_date, request.end_date, timezone, now)
    reader = ReportReader(request, rates, settings, dimensions, timezone)
    before: ReportCosts | None = None
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
        sections=[builder.section((name,)) for name in DETAILED] if detailed else [],
        previous=None if before is None else _previous(builder.total, before),
        source=costs.source,
        generated_at=now,
    )


class _Builder:
    """Makes sections of what was read."""

    def __init__(self, costs: ReportCosts, before: ReportCosts | None, limit: int) -> None:
        self.total = round_half_even(costs.whole.cost)
        self._costs = costs
        self._before = before
        self._limit = limit

    def section(self, dimensions: Sequence[str]) -> ReportSection:
        """Groups in order of time where they have one, then the largest first."""
        if not dimensions:
            return _without_groups()
        tallies = self._costs.tallies(dimensions)
        place = next((at for at, name in enumerate(dimensions) if name in TIMES), None)
        if place is not None and len(dimensions) == 1:
            for index in range(len(self._costs.periods)):
                tallies.setdefault((index,), CostTally())
        previous = self._previous_costs(dimensions, place)
        for key in previous or ():
            tallies.setdefault(key, CostTally())
        costs = rounded_parts({key: tally.cost for key, tally in tallies.items()}, self.total)
        ordered = sorted(
            tallies,
            key=lambda key: (
                0 if place is None else key[place],
                costs[key].copy_negate(),  # a minus sign would round by the program's own context
                sortable(key),
            ),
        )
        shown, left_out = ordered[: self._limit], ordered[self._limit :]
        others = CostTally()
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
    ) -> dict[GroupKey, Decimal] | None:
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
        tally: CostTally,
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

    def _labelled(self, dimensions: Sequence[str], key: GroupKey) -> dict[str, str | None]:
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


def rounded_parts(exact: dict[GroupKey, Decimal], total: Decimal) -> dict[GroupKey, Decimal]:
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
        lost = sorted(floors, key=lambda key: (subtract(floors[key], exact[key]), sortable(key)))
        for key in lost[:missing]:
            floors[key] = add(floors[key], QUANTUM)
    return {key: plain(part) for key, part in floors.items()}


def change_ratio(cost: Decimal, previous: Decimal) -> Decimal | None:
    """The change as a part of what it was before; None when that was nothing."""
    return ratio(subtract(cost, previous), previous.copy_abs()) if previous else None


def _previous(total: Decimal, before: ReportCosts) -> PreviousRange:
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


def _period(key: GroupKey, place: int) -> int:
    period = key[place]
    assert isinstance(period, int)
    return period


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for amount in amounts:
        total = add(total, amount)
    return total

"""Reports are exact, in local time, comparable, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, Inexact, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.costs.csv import report_csv
from fiscus.costs.fx import EcbRates
from fiscus.costs.model import ChargeCategory, CostRecord
from fiscus.costs.port import CostFilter, CostSum, CostSums, SumQuery
from fiscus.costs.report_model import Granularity, Report, ReportRequest, ReportSource
from fiscus.costs.report_time import (
    TimeRange,
    periods_of,
    previous_range,
    report_range,
    slices_of,
    split_slices,
)
from fiscus.costs.reports import build_report, rounded_parts
from fiscus.costs.rollups import sum_of
from fiscus.errors import ValidationError
from fiscus.ids import uuid7
from fiscus.money import EXACT, round_half_even
from fiscus.operations import Operation
from fiscus.paging import Page, PageRequest
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert
from fiscus.wire.encoding import encode
from fiscus.zones import day_start

NOW = datetime(2026, 3, 10, 12, 7, tzinfo=UTC)
TENANT = "acme"
RATES = EcbRates(overrides={("EUR", "USD"): Decimal("1.1"), ("GBP", "USD"): Decimal("1.3")})
BERLIN = "Europe/Berlin"


class RecordList:
    """Costs in a list, added up one by one."""

    def __init__(self, records: Iterable[CostRecord]) -> None:
        self._records = list(records)

    def get(self, tenant_id: str, record_id: str) -> CostRecord:
        raise NotImplementedError

    def list(self, tenant_id: str, wanted: CostFilter, page: PageRequest) -> Page[CostRecord]:
        raise NotImplementedError

    @contextmanager
    def sums(self, tenant_id: str) -> Generator[CostSums]:
        yield SumsOfList([one for one in self._records if one.tenant_id == tenant_id])


class SumsOfList:
    """One tenant's costs in a list."""

    def __init__(self, records: list[CostRecord]) -> None:
        self._records = records

    def by_rollups(self, query: SumQuery) -> list[CostSum] | None:
        for time_slice in query.slices:
            assert time_slice.start.minute % 15 == time_slice.end.minute % 15 == 0
        return self.by_records(query)

    def by_records(self, query: SumQuery) -> list[CostSum]:
        return [
            CostSum(
                time_slice.period,
                None if one.currency == query.target else time_slice.start.date(),
                tuple(
                    one.tags.get(name[4:]) if name.startswith("tag:") else getattr(one, name)
                    for name in query.by
                ),
                one.currency,
                one.usage_unit,
                sum_of(one),
            )
            for time_slice in query.slices
            for one in self._records
            if time_slice.start <= one.timestamp < time_slice.end
        ]


def cost(amount: str | int, at: datetime = NOW, **given: Any) -> CostRecord:
    ids = {name: given.get(name) for name in ("project_id", "user_id", "feature_id")}
    kind, scope_id = Operation(TENANT, "llm", **ids).attributed_to()
    return CostRecord(
        **{
            "record_id": uuid7(),
            "tenant_id": TENANT,
            "timestamp": at,
            "recorded_at": at,
            "resource_type": "llm",
            "cost_amount": Decimal(amount),
            "currency": "USD",
            "charge_category": ChargeCategory.USAGE,
            "attributed_to_type": kind,
            "attributed_to_id": scope_id,
        }
        | given
    )


def report(*costs: CostRecord, now: datetime = NOW, **wanted: Any) -> Report:
    request = convert(wanted, ReportRequest)
    settings = TenantSettings(rollup_tags=["team"])
    return build_report(request, RecordList(costs), RATES, settings, TENANT, now)


def costs_of(found: Report) -> dict[tuple[str | None, ...], Decimal]:
    return {tuple(group.key.values()): group.cost for group in found.groups}


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[arg-type, misc]


def local(zone: str, *numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=ZoneInfo(zone)).astimezone(UTC)  # type: ignore[arg-type, misc]


# ---------------------------------------------------------------- what is counted


def test_the_default_is_the_present_month_in_the_zone_up_to_this_quarter_hour() -> None:
    found = report(timezone=BERLIN, now=utc(2026, 3, 31, 22, 7))
    assert found.start_date == utc(2026, 3, 31, 22)  # already April in Berlin
    assert found.end_date == utc(2026, 3, 31, 22, 15)
    assert found.source is ReportSource.ROLLUPS


def test_the_start_defaults_to_the_month_of_an_end_that_is_given() -> None:
    found = report(end_date=utc(2026, 2, 1))
    assert (found.start_date, found.end_date) == (utc(2026, 1, 1), utc(2026, 2, 1))


def test_a_range_holds_its_start_and_not_its_end() -> None:
    start, end = utc(2026, 3, 1), utc(2026, 3, 2)
    costs = [cost(1, start), cost(2, end - timedelta(microseconds=1)), cost(4, end)]
    found = report(*costs, start_date=start, end_date=end)
    assert (found.total_cost, found.record_count) == (3, 2)


def test_a_summary_has_totals_and_no_groups() -> None:
    found = report(
        cost("0.1", usage_quantity=Decimal(5), usage_unit="tokens"),
        cost("0.2", usage_quantity=Decimal(7), usage_unit="tokens"),
        cost("0.3", usage_quantity=Decimal(2), usage_unit="seconds"),
        cost("0.4", usage_quantity=Decimal(9)),
        cost("0.5"),
    )
    assert found.total_cost == Decimal("1.5")
    assert found.usage == {"seconds": 2, "tokens": 12, "unspecified": 9}
    assert (found.groups, found.group_count, found.truncated) == ([], 0, False)


def test_what_a_caller_does_to_the_lists_of_a_report_is_in_no_other() -> None:
    first = report(cost(1))
    first.groups.append(report(cost(1), report_type="by_user").groups[0])
    first.group_by.append("user")
    second = report(cost(1))
    assert (second.groups, second.group_by) == ([], [])


def test_a_report_without_costs_is_zero() -> None:
    found = report(report_type="by_user", compare_previous=True)
    assert (found.total_cost, found.record_count, found.groups) == (0, 0, [])
    assert found.previous is not None
    assert (found.previous.change, found.previous.change_ratio) == (0, None)


@pytest.mark.parametrize(
    ("report_type", "name", "value"),
    [
        ("by_resource", "resource_type", "llm"),
        ("by_service", "service_name", "openai"),
        ("by_user", "user", "ann"),
        ("by_feature", "feature", "chat"),
        ("by_time_period", "day", "2026-03-10"),
    ],
)
def test_each_report_type_groups_by_what_it_is_named_for(
    report_type: str, name: str, value: str
) -> None:
    one = cost(2, service_name="openai", user_id="ann", feature_id="chat")
    found = report(one, start_date=utc(2026, 3, 10), report_type=report_type)
    assert (found.group_by, costs_of(found)) == ([name], {(value,): Decimal(2)})


def test_user_groups_go_by_the_user_and_scope_groups_by_the_winner() -> None:
    costs = [
        cost(1, project_id="search", user_id="ann"),
        cost(2, user_id="ann", feature_id="chat"),
        cost(4, project_id="search"),
        cost(8),
    ]
    assert costs_of(report(*costs, group_by=["user"])) == {("ann",): 3, (None,): 12}
    assert costs_of(report(*costs, group_by=["project"])) == {("search",): 5, (None,): 10}
    assert costs_of(report(*costs, group_by=["scope"])) == {
        ("user:ann",): 1,
        ("feature:chat",): 2,
        ("project:search",): 4,
        ("tenant:acme",): 8,
    }


def test_a_wrong_dimension_is_told_what_there_is_in_a_fixed_order() -> None:
    with pytest.raises(ValidationError) as told:
        report(group_by=["nope"])
    assert told.value.suggested_action == (
        "Use resource_type, service_name, region, scope, project, user, feature, "
        "hour, day, week, month or tag:<key>."
    )


def test_names_of_filters_name_dimensions_too() -> None:
    found = report(group_by=["service", "project_id", "user_id"])
    assert found.group_by == ["service_name", "project", "user"]
    assert report(report_type="by_feature", group_by=["feature_id"]).group_by == ["feature"]


def test_dimensions_are_combined_in_the_order_asked_for() -> None:
    costs = [cost(1, user_id="ann", region="eu"), cost(2, user_id="bob", region="eu")]
    found = report(*costs, report_type="by_user", group_by=["region", "tag:team"])
    assert costs_of(found) == {("bob", "eu", None): 2, ("ann", "eu", None): 1}


def test_the_largest_group_comes_first_and_equal_ones_by_name() -> None:
    costs = [cost(1, user_id="b"), cost(3, user_id="c"), cost(1, user_id="a"), cost(1)]
    keys = list(costs_of(report(*costs, report_type="by_user")))
    assert keys == [("c",), ("a",), ("b",), (None,)]


def test_groups_left_out_by_the_limit_are_added_up() -> None:
    costs = [cost(n, user_id=f"u{n}") for n in range(1, 6)]
    found = report(*costs, report_type="by_user", limit=2)
    assert costs_of(found) == {("u5",): 5, ("u4",): 4}
    assert (found.truncated, found.group_count) == (True, 5)
    assert (found.other_cost, found.other_record_count) == (6, 3)


def test_shares_are_of_the_total() -> None:
    found = report(cost(1, user_id="a"), cost(3, user_id="b"), report_type="by_user")
    assert [group.share for group in found.groups] == [Decimal("0.75"), Decimal("0.25")]
    nothing = report(
        cost(1, user_id="a"),
        cost(-1, user_id="b", charge_category=ChargeCategory.CREDIT),
        report_type="by_user",
    )
    assert [group.share for group in nothing.groups] == [None, None]


def test_a_detailed_report_has_a_section_for_each_kind_of_owner() -> None:
    costs = [
        cost(1, user_id="ann", service_name="openai"),
        cost(2, user_id="bob", feature_id="chat", resource_type="gpu"),
    ]
    found = report(*costs, report_type="detailed", group_by=["region"])
    assert costs_of(found) == {(None,): 3}
    sections = {
        tuple(one.group_by): {group.key[one.group_by[0]]: group.cost for group in one.groups}
        for one in found.sections
    }
    assert sections == {
        ("resource_type",): {"llm": 1, "gpu": 2},
        ("service_name",): {"openai": 1, None: 2},
        ("user",): {"ann": 1, "bob": 2},
        ("feature",): {"chat": 2, None: 1},
    }


# ---------------------------------------------------------------- currencies


def test_costs_are_converted_to_the_report_currency() -> None:
    costs = [cost(1), cost(10, currency="EUR"), cost(100, currency="GBP")]
    assert report(*costs).total_cost == Decimal(142)
    in_euro = round_half_even(EXACT.divide(Decimal(12), Decimal("1.1")))
    assert report(*costs[:2], currency="EUR").total_cost == in_euro


def test_each_cost_is_converted_at_the_rate_of_its_own_day() -> None:
    friday, monday = utc(2014, 3, 28, 23, 59), utc(2014, 3, 31)
    costs = [cost(100, friday, currency="EUR"), cost(100, monday, currency="EUR")]
    request = convert({"start_date": utc(2014, 3, 1), "end_date": utc(2014, 4, 1)}, ReportRequest)
    found = build_report(request, RecordList(costs), EcbRates(), TenantSettings(), TENANT, NOW)
    assert found.total_cost == Decimal("137.59") + Decimal("137.88")


def test_costs_without_a_rate_are_shown_apart() -> None:
    costs = [cost(1, user_id="a"), cost(5, user_id="b", currency="XTS")]
    found = report(*costs, report_type="by_user")
    assert (found.total_cost, found.record_count) == (1, 2)
    assert [(one.currency, one.cost) for one in found.unconverted] == [("XTS", 5)]
    assert costs_of(found) == {("a",): 1, ("b",): 0}
    assert found.groups[1].unconverted == found.unconverted


def test_rounded_groups_add_up_to_the_rounded_total() -> None:
    costs = [cost("0.000000000001", user_id=f"u{n}", currency="GBP") for n in range(7)]
    found = report(*costs, report_type="by_user")
    assert found.total_cost == Decimal("0.000000000009")  # 9.1
    assert sum(group.cost for group in found.groups) == found.total_cost
    assert {group.cost for group in found.groups} == {
        Decimal("0.000000000001"),
        Decimal("0.000000000002"),
    }


@given(
    st.dictionaries(
        st.tuples(st.text(max_size=2) | st.none()),
        st.integers(-(10**30), 10**30).map(lambda n: Decimal(n).scaleb(-24, context=EXACT)),
        min_size=1,
        max_size=20,
    )
)
def test_parts_are_rounded_by_less_than_a_last_digit_and_add_up(
    parts: dict[tuple[str | None], Decimal],
) -> None:
    exact = sum((Fraction(part) for part in parts.values()), Fraction())
    total = round_half_even(EXACT.divide(Decimal(exact.numerator), Decimal(exact.denominator)))
    rounded = rounded_parts(dict(parts), total)
    assert sum(map(Fraction, rounded.values())) == Fraction(total)
    for key, part in parts.items():
        assert abs(Fraction(rounded[key]) - Fraction(part)) < Fraction(1, 10**12)


# ---------------------------------------------------------------- time


def test_the_hour_that_is_shown_twice_is_two_groups() -> None:
    start = local(BERLIN, 2026, 10, 25)
    costs = [cost(2**n, start + timedelta(hours=n, minutes=30)) for n in range(5)]
    found = report(
        *costs,
        start_date=start,
        end_date=start + timedelta(hours=5),
        group_by=["hour"],
        timezone=BERLIN,
        now=utc(2026, 11, 1),
    )
    assert costs_of(found) == {
        ("2026-10-25T00:00:00+02:00",): 1,
        ("2026-10-25T01:00:00+02:00",): 2,
        ("2026-10-25T02:00:00+02:00",): 4,
        ("2026-10-25T02:00:00+01:00",): 8,
        ("2026-10-25T03:00:00+01:00",): 16,
    }


def test_the_hour_that_is_skipped_is_no_group() -> None:
    labels = [
        period.label
        for period in periods_of(
            TimeRange(local(BERLIN, 2026, 3, 29, 1), local(BERLIN, 2026, 3, 29, 4)),
            Granularity.HOUR,
            BERLIN,
        )
    ]
    assert labels == ["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"]


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25)])
def test_a_day_may_have_23_or_25_hours(day: tuple[int, int, int], hours: int) -> None:
    start, end = local(BERLIN, *day), local(BERLIN, day[0], day[1], day[2] + 1)
    costs = [cost(1, start + timedelta(hours=n)) for n in range(-1, hours + 1)]
    found = report(
        *costs,
        start_date=start - timedelta(hours=1),
        end_date=end + timedelta(hours=1),
        report_type="by_time_period",
        timezone=BERLIN,
        now=utc(2026, 12, 1),
    )
    assert end - start == timedelta(hours=hours)
    assert [group.cost for group in found.groups] == [1, hours, 1]


def test_half_hour_shifts_keep_hours_apart() -> None:
    zone = "Australia/Lord_Howe"  # 02:00+11:00 becomes 01:30+10:30
    start = utc(2026, 4, 4, 14)
    periods = periods_of(TimeRange(start, start + timedelta(hours=2)), Granularity.HOUR, zone)
    assert [(one.label[11:], one.end - one.start) for one in periods] == [
        ("01:00:00+11:00", timedelta(hours=1)),
        ("01:00:00+10:30", timedelta(minutes=30)),
        ("02:00:00+10:30", timedelta(minutes=30)),
    ]


def test_weeks_are_iso_weeks_and_months_are_local() -> None:
    start, end = utc(2025, 12, 28), utc(2026, 1, 12)
    weeks = periods_of(TimeRange(start, end), Granularity.WEEK, "UTC")
    assert [one.label for one in weeks] == ["2025-W52", "2026-W01", "2026-W02"]
    months = periods_of(TimeRange(start, end), Granularity.MONTH, BERLIN)
    assert [(one.label, one.start) for one in months] == [
        ("2025-12", start),
        ("2026-01", utc(2025, 12, 31, 23)),
    ]


def test_periods_without_costs_are_shown_as_zero_when_only_time_groups() -> None:
    costs = [cost(1, utc(2026, 3, 1)), cost(2, utc(2026, 3, 3), user_id="a")]
    wanted = {"start_date": utc(2026, 3, 1), "end_date": utc(2026, 3, 4)}
    found = report(*costs, **wanted, report_type="by_time_period")
    assert costs_of(found) == {("2026-03-01",): 1, ("2026-03-02",): 0, ("2026-03-03",): 2}
    by_user = report(*costs, **wanted, group_by=["user", "day"])
    assert costs_of(by_user) == {(None, "2026-03-01"): 1, ("a", "2026-03-03"): 2}


ZONES = st.sampled_from(
    ["UTC", BERLIN, "America/Havana", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]
)

CHANGING_ZONES = st.sampled_from(
    [
        "America/New_York",
        BERLIN,
        "America/Havana",
        "America/St_Johns",
        "America/Santiago",
        "America/Sao_Paulo",
        "Australia/Lord_Howe",
        "Australia/Sydney",
        "Africa/Casablanca",
        "Asia/Tehran",
    ]
)


def from_us(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


@given(
    start=st.integers(883_612_800 * 10**6, 1_893_456_000 * 10**6).map(from_us),
    length=st.timedeltas(timedelta(microseconds=1), timedelta(days=40)),
    granularity=st.sampled_from([None, *Granularity]),
    zone=ZONES,
)
def test_stretches_tile_the_range_within_one_day_and_period(
    start: datetime, length: timedelta, granularity: Granularity | None, zone: str
) -> None:
    whole = TimeRange(start, start + length)
    periods = periods_of(whole, granularity, zone)
    slices = list(slices_of(periods))
    assert slices[0].start == whole.start
    assert slices[-1].end == whole.end
    for one, following in pairwise(slices):
        assert one.end == following.start
    for one in slices:
        last = one.end - timedelta(microseconds=1)
        assert one.start.date() == last.date()
        for moment in (one.start, last):
            assert label_of(moment, granularity, zone) == periods[one.period].label
    quarters, parts = split_slices(slices)
    assert min((*quarters, *parts)).start == whole.start
    length_of = sum((one.end - one.start for one in (*quarters, *parts)), timedelta())
    assert length_of == length
    assert all(one.start.minute % 15 == one.end.minute % 15 == 0 for one in quarters)


def label_of(moment: datetime, granularity: Granularity | None, zone: str) -> str:
    shown = moment.astimezone(ZoneInfo(zone))
    match granularity:
        case None:
            return ""
        case Granularity.HOUR:
            return f"{shown:%Y-%m-%dT%H}:00:00{shown.isoformat()[-6:]}"
        case Granularity.DAY:
            return shown.date().isoformat()
        case Granularity.WEEK:
            return "{:04}-W{:02}".format(*shown.isocalendar())
        case Granularity.MONTH:
            return shown.strftime("%Y-%m")


# ---------------------------------------------------------------- the range before


@pytest.mark.parametrize(
    ("start", "end", "before"),
    [
        # whole months
        ((2026, 3, 1), (2026, 4, 1), ((2026, 2, 1), (2026, 3, 1))),
        ((2026, 1, 1), (2026, 4, 1), ((2025, 10, 1), (2026, 1, 1))),
        ((2026, 1, 1), (2027, 1, 1), ((2025, 1, 1), (2026, 1, 1))),
        # the month so far
        ((2026, 3, 1), (2026, 3, 10, 12), ((2026, 2, 1), (2026, 2, 10, 12))),
        ((2026, 3, 1), (2026, 3, 31), ((2026, 2, 1), (2026, 3, 1))),
        # whole days, over the change to summer time
        ((2026, 3, 24), (2026, 3, 31), ((2026, 3, 17), (2026, 3, 24))),
        ((2026, 3, 29), (2026, 3, 30), ((2026, 3, 28), (2026, 3, 29))),
        ((2026, 2, 1), (2026, 3, 5), ((2025, 12, 31), (2026, 2, 1))),
        # anything else
        ((2026, 3, 10, 6), (2026, 3, 10, 9), ((2026, 3, 10, 3), (2026, 3, 10, 6))),
    ],
)
def test_a_range_is_compared_with_the_one_people_mean(
    start: tuple[int, ...], end: tuple[int, ...], before: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    current = TimeRange(local(BERLIN, *start), local(BERLIN, *end))
    found = previous_range(current, BERLIN)
    assert found == TimeRange(local(BERLIN, *before[0]), local(BERLIN, *before[1]))


@pytest.mark.parametrize(
    ("zone", "start", "end", "before"),
    [
        # summer time begins, ends, and does so the other way round in the south
        ("America/New_York", (2025, 3, 1), (2025, 3, 15), ((2025, 2, 1), (2025, 2, 15))),
        ("America/New_York", (2025, 4, 1), (2025, 4, 9, 18), ((2025, 3, 1), (2025, 3, 9, 18))),
        ("America/New_York", (2025, 11, 1), (2025, 11, 15), ((2025, 10, 1), (2025, 10, 15))),
        ("America/New_York", (2025, 11, 1), (2025, 11, 3, 9), ((2025, 10, 1), (2025, 10, 3, 9))),
        ("Australia/Sydney", (2025, 10, 1), (2025, 10, 20), ((2025, 9, 1), (2025, 9, 20))),
        ("Australia/Sydney", (2026, 4, 1), (2026, 4, 20, 7), ((2026, 3, 1), (2026, 3, 20, 7))),
        # the month before is shorter, by an hour too
        ("America/New_York", (2025, 3, 1), (2025, 3, 31, 23), ((2025, 2, 1), (2025, 3, 1))),
        # a time that the month before skipped is the first after it
        ("America/New_York", (2025, 4, 1), (2025, 4, 9, 2, 30), ((2025, 3, 1), (2025, 3, 9, 3))),
        # a midnight that was skipped, in the month asked for and in the one before
        ("America/Santiago", (2025, 9, 1), (2025, 9, 7, 1), ((2025, 8, 1), (2025, 8, 7))),
        ("America/Santiago", (2025, 10, 1), (2025, 10, 7), ((2025, 9, 1), (2025, 9, 7, 1))),
    ],
)
def test_a_part_of_a_month_is_compared_to_the_same_local_time(
    zone: str,
    start: tuple[int, ...],
    end: tuple[int, ...],
    before: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    current = TimeRange(local(zone, *start), local(zone, *end))
    found = previous_range(current, zone)
    assert found == TimeRange(local(zone, *before[0]), local(zone, *before[1]))


def test_a_cost_of_the_last_hour_before_midnight_is_in_the_range_before() -> None:
    zone = "America/New_York"
    found = report(
        cost(7, local(zone, 2025, 2, 14, 23, 30)),
        cost(1, local(zone, 2025, 2, 15)),
        start_date=local(zone, 2025, 3, 1),
        end_date=local(zone, 2025, 3, 15),
        timezone=zone,
        compare_previous=True,
    )
    assert found.previous is not None
    assert found.previous.end_date == local(zone, 2025, 2, 15)
    assert found.previous.total_cost == 7


@given(
    year=st.integers(1995, 2037),
    month=st.integers(1, 12),
    minutes=st.integers(1, 31 * 24 * 60),
    zone=CHANGING_ZONES,
)
def test_a_month_so_far_ends_at_the_same_local_time_in_the_month_before(
    year: int, month: int, minutes: int, zone: str
) -> None:
    first = date(year, month, 1)
    start = day_start(first.toordinal(), zone)
    current = TimeRange(start, start + timedelta(minutes=minutes))
    shown = current.end.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    if shown.replace(day=1).date() != first or shown == datetime.combine(first, time()):
        return  # past the month, or in the hour around its start that is shown twice
    found = previous_range(current, zone)
    last_month = first - timedelta(days=1)
    assert found.start == day_start(last_month.replace(day=1).toordinal(), zone)
    if current.end == day_start(shown.toordinal(), zone):
        shown = datetime.combine(shown, time())  # where midnight is skipped, its day begins later
    if shown.day > last_month.day:
        assert found.end == start
        return
    wanted = shown.replace(year=last_month.year, month=last_month.month)
    assert found.end == first_showing(wanted, zone)


def first_showing(wanted: datetime, zone: str) -> datetime:
    """The first minute whose local time is `wanted` or later, looked for one by one."""
    at = wanted.replace(tzinfo=UTC) - timedelta(hours=15)  # no zone is that far ahead
    while at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) < wanted:
        at += timedelta(minutes=1)
    return at


def test_the_first_hour_of_a_month_that_comes_twice_is_compared_with_as_long() -> None:
    zone = "America/Havana"  # back from 01:00 to 00:00
    start = local(zone, 2026, 11, 1)
    again = TimeRange(start, start + timedelta(hours=1))
    assert previous_range(again, zone) == TimeRange(
        local(zone, 2026, 10, 1), local(zone, 2026, 10, 1, 1)
    )


def test_groups_are_compared_with_the_range_before() -> None:
    costs = [
        cost(10, utc(2026, 2, 5), user_id="ann"),
        cost(4, utc(2026, 2, 5), user_id="bob"),
        cost(15, utc(2026, 3, 5), user_id="ann"),
        cost(2, utc(2026, 3, 5), user_id="cid"),
    ]
    found = report(
        *costs,
        start_date=utc(2026, 3, 1),
        end_date=utc(2026, 4, 1),
        report_type="by_user",
        compare_previous=True,
    )
    compared = {
        group.key["user"]: (group.cost, group.previous_cost, group.change, group.change_ratio)
        for group in found.groups
    }
    assert compared == {
        "ann": (15, 10, 5, Decimal("0.5")),
        "bob": (0, 4, -4, -1),
        "cid": (2, 0, 2, None),
    }
    assert found.previous is not None
    assert (found.previous.start_date, found.previous.total_cost) == (utc(2026, 2, 1), 14)
    assert (found.previous.change, found.previous.record_count) == (3, 2)
    assert found.previous.change_ratio == Decimal("0.214285714286")


def test_the_decimal_context_of_the_program_changes_no_report() -> None:
    costs = [
        cost("1.000000000001", user_id="ann"),
        cost("1.000000000002", user_id="bob"),
        cost("3.000000000007", utc(2026, 2, 3), user_id="bob"),
    ]
    expected = report(*costs, report_type="by_user", compare_previous=True)
    assert [group.key["user"] for group in expected.groups] == ["bob", "ann"]
    with localcontext(Context(prec=3)):
        assert report(*costs, report_type="by_user", compare_previous=True) == expected
    with localcontext(Context(traps=[Inexact])):
        assert report(*costs, report_type="by_user", compare_previous=True) == expected


def test_periods_are_compared_with_those_of_the_same_place() -> None:
    costs = [
        cost(day, utc(2026, month, day)) for month in (1, 2) for day in (1, 2, 30)[: 4 - month]
    ]
    found = report(
        *costs,
        start_date=utc(2026, 2, 1),
        end_date=utc(2026, 3, 1),
        report_type="by_time_period",
        compare_previous=True,
    )
    assert len(found.groups) == 28
    first = [(one.key["day"], one.cost, one.previous_cost) for one in found.groups[:3]]
    assert first == [("2026-02-01", 1, 1), ("2026-02-02", 2, 2), ("2026-02-03", 0, 0)]
    assert found.previous is not None
    assert found.previous.total_cost == 33


def test_nothing_is_compared_unless_asked() -> None:
    found = report(cost(1, user_id="a"), report_type="by_user")
    assert found.previous is None
    assert found.groups[0].previous_cost is None


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"group_by": ["colour"]}, "group_by[0]"),
        ({"group_by": ["user", "tag:"]}, "group_by[1]"),
        ({"group_by": ["attributed_to_id"]}, "group_by[0]"),
        ({"group_by": ["a", "b", "c", "d"]}, "group_by"),
        ({"group_by": ["day", "month"]}, "group_by"),
        ({"report_type": "by_time_period", "group_by": ["hour"]}, "group_by"),
        ({"report_type": "by_magic"}, "report_type"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../etc/passwd"}, "timezone"),
        ({"currency": "usd"}, "currency"),
        ({"start_date": NOW, "end_date": NOW}, "end_date"),
        ({"start_date": utc(1969, 1, 1)}, "start_date"),
        ({"start_date": utc(9998, 1, 1), "end_date": utc(9998, 1, 2)}, "end_date"),
        ({"start_date": utc(2000, 1, 1)}, "start_date"),
        ({"start_date": NOW.replace(tzinfo=None)}, "start_date"),
        ({"start_date": utc(2024, 1, 1), "group_by": ["hour"]}, "granularity"),
        ({"format": "parquet"}, "format"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"user_id": "ann@example.com"}, "user_id"),
        ({"colour": "red"}, "colour"),
        ({"resource_type": "a\x00"}, "resource_type"),
        ({"group_by": ["tag:\x00"]}, "group_by[0]"),
        ({"tags": {"team": "\x00"}}, "tags.team"),
        ({"tags": {"\x00": "red"}}, "tags"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        report(**wanted)
    assert caught.value.field == field


def test_the_first_and_last_days_there_are_do_not_break_a_report() -> None:
    zone = "Pacific/Kiritimati"
    found = report_range(utc(1970, 1, 1), utc(1970, 1, 2), zone, NOW)
    assert previous_range(found, zone).end == found.start
    east = timezone(timedelta(hours=14))
    with pytest.raises(ValidationError):
        report_range(datetime.min.replace(tzinfo=east), None, zone, NOW)
    with pytest.raises(ValidationError):
        report_range(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), zone, NOW)
    with pytest.raises(ValidationError):
        report_range(None, datetime.min.replace(tzinfo=UTC), zone, NOW)
    with pytest.raises(ValidationError):
        report_range(None, datetime.max.replace(tzinfo=UTC), zone, NOW)


# ---------------------------------------------------------------- CSV


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_a_header_and_one_line_per_group() -> None:
    found = report(
        cost("0.000000000001", user_id="ann", usage_quantity=Decimal(1000), usage_unit="tokens"),
        cost("1e25", region="eu"),
        cost(7, user_id="ann", currency="XTS"),
        report_type="by_user",
        group_by=["region"],
    )
    text = report_csv(found)
    assert text.split("\r\n") == [
        (
            "user,region,currency,cost,record_count,share,previous_cost,change,change_ratio,"
            "usage:tokens,unconverted:XTS"
        ),
        ",eu,USD,10000000000000000000000000,1,1,,,,,",
        "ann,,USD,0.000000000001,2,0,,,,1000,7",
        "",
    ]


def test_csv_of_a_summary_is_one_line() -> None:
    (row,) = rows_of(report_csv(report(cost("1.50"), compare_previous=True)))
    assert (row["cost"], row["record_count"], row["share"]) == ("1.5", "1", "1")
    assert (row["previous_cost"], row["change"], row["change_ratio"]) == ("0", "1.5", "")


def test_csv_says_what_the_limit_left_out() -> None:
    costs = [cost(n, user_id=f"u{n}") for n in (1, 2, 3)]
    rows = rows_of(report_csv(report(*costs, report_type="by_user", limit=1)))
    assert [(row["user"], row["cost"], row["record_count"]) for row in rows] == [
        ("u3", "3", "1"),
        ("(other)", "3", "2"),
    ]


@given(
    costs=st.lists(
        st.builds(
            cost,
            st.integers(-(10**15), 10**15).map(lambda n: Decimal(n).scaleb(-12)),
            at=st.sampled_from([NOW, NOW - timedelta(days=28)]),
            user_id=st.sampled_from([None, "ann", "bob", "cid"]),
            region=st.sampled_from([None, "eu", "us"]),
            currency=st.sampled_from(["USD", "GBP", "XTS", "XAU"]),
            usage_quantity=st.integers(0, 10**9).map(lambda n: Decimal(n).scaleb(-6)),
            usage_unit=st.sampled_from([None, "tokens", "seconds"]),
        ),
        min_size=1,
        max_size=12,
    ),
    group_by=st.sampled_from([["user"], ["user", "region"], ["day"], ["region", "week"]]),
    limit=st.integers(1, 4),
)
def test_groups_and_what_the_limit_left_out_add_up_in_every_column(
    costs: list[CostRecord], group_by: list[str], limit: int
) -> None:
    wanted = {"group_by": group_by, "limit": limit, "compare_previous": True}
    found = report(*costs, report_type="detailed", **wanted)
    whole = report(*costs, report_type="summary", compare_previous=True)
    assert whole.previous is not None
    total = columns_of(rows_of(report_csv(whole))[0])
    for section in found.all_sections():
        one = (section.other_cost, section.other_record_count, section.other_previous_cost)
        groups = [(each.cost, each.record_count, each.previous_cost) for each in section.groups]
        assert list(map(sum, zip(one, *groups, strict=True))) == [
            whole.total_cost,
            whole.record_count,
            whole.previous.total_cost,
        ]
        parts = (section.other_usage, *(each.usage for each in section.groups))
        assert added_up(parts) == whole.usage
        left = (section.other_unconverted, *(each.unconverted for each in section.groups))
        apart = ({each.currency: each.cost for each in some} for some in left)
        assert added_up(apart) == {each.currency: each.cost for each in whole.unconverted}
    rows = rows_of(report_csv(found))
    for name in {row["section"] for row in rows}:
        assert added_up(columns_of(row) for row in rows if row["section"] == name) == total


def columns_of(row: dict[str, str]) -> dict[str, Decimal]:
    """The columns of a line of CSV that are amounts; one that was not given is nothing."""
    amounts = ("cost", "record_count", "previous_cost", "change")
    return {
        name: Decimal(value or 0)
        for name, value in row.items()
        if name in amounts or name.startswith(("usage:", "unconverted:"))
    }


def added_up(parts: Iterable[dict[str, Decimal]]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = EXACT.add(total.get(name, Decimal()), amount)
    return total


def test_csv_of_a_detailed_report_names_the_section() -> None:
    rows = rows_of(report_csv(report(cost(1, user_id="ann"), report_type="detailed")))
    assert [(row["section"], row["user"], row["resource_type"]) for row in rows] == [
        ("", "", ""),
        ("resource_type", "", "llm"),
        ("service_name", "", ""),
        ("user", "ann", ""),
        ("feature", "", ""),
    ]


def test_csv_of_a_detailed_report_has_what_it_is_grouped_by_once() -> None:
    found = report(cost(2, user_id="ann"), report_type="detailed", group_by=["user"])
    rows = rows_of(report_csv(found))
    assert [(row["section"], row["user"], row["cost"]) for row in rows] == [
        ("user", "ann", "2"),
        ("resource_type", "", "2"),
        ("service_name", "", "2"),
        ("feature", "", "2"),
    ]


def test_csv_tells_an_empty_value_from_one_that_was_not_given() -> None:
    found = report(
        cost(1), cost(2, tags={"team": ""}), group_by=["tag:team"], report_type="detailed"
    )
    lines = report_csv(found).split("\r\n")
    assert [line[: line.index("USD")] for line in lines[1:3]] == [
        'tag:team,"",,,,,',
        "tag:team,,,,,,",
    ]
    assert report_csv(report(cost(1), report_type="detailed")).split("\r\n")[1][0] == ","


@pytest.mark.parametrize(
    "value", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\N{FULLWIDTH EQUALS SIGN}1"]
)
def test_csv_text_that_looks_like_a_formula_is_marked_as_text(value: str) -> None:
    found = report(cost("-1", service_name=value), report_type="by_service")
    (row,) = rows_of(report_csv(found))
    assert row["service_name"] == f"'{value}"
    assert row["cost"] == "-1"


@pytest.mark.parametrize("value", ["a;=1+1;", "a; @SUM(A1);", ";;+1;", "a\n=1;", "a\r-1;", "\n=1"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_csv_holds_no_formula_for_a_spreadsheet_that_separates_cells_by_semicolons(
    value: str, delimiter: str
) -> None:
    found = report(
        cost(1, service_name=value, resource_type="llm"), group_by=["resource_type", "service"]
    )
    lines = csv.reader(io.StringIO(report_csv(found), newline=""), delimiter=delimiter)
    assert not [cell for line in lines for cell in line if cell.lstrip().startswith(tuple("=+-@"))]


@given(st.text(max_size=20).filter(lambda text: "\x00" not in text))
def test_csv_reads_back_whatever_the_text(value: str) -> None:
    found = report(cost(1, service_name=value), cost(2, tags={"team": "x"}), group_by=["service"])
    rows = rows_of(report_csv(found))
    assert [row["service_name"].replace("'", "") for row in rows][1:] == [value.replace("'", "")]


def test_json_has_the_exact_digits() -> None:
    found = report(cost("0.100000000001"), cost("12345678901234567890"))
    assert b'"total_cost":12345678901234567890.100000000001,' in encode(found)

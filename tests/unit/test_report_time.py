"""Reports are in local time, and compared with the range that people mean."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact, localcontext
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.costs.report_model import Granularity
from fiscus.costs.report_time import (
    TimeRange,
    periods_of,
    previous_range,
    slices_of,
    split_slices,
)
from fiscus.zones import day_start
from tests.unit.costs_for_reports import (
    BERLIN,
    cost,
    costs_of,
    local,
    report,
    utc,
)


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


def test_an_hour_ends_where_the_clocks_change_to_the_second() -> None:
    zone = "Antarctica/Casey"  # 00:01+08:00 becomes 03:01+11:00
    start = utc(2022, 10, 1, 16)
    periods = periods_of(TimeRange(start, start + timedelta(hours=2)), Granularity.HOUR, zone)
    assert [(one.label[11:], one.end - one.start) for one in periods] == [
        ("00:00:00+08:00", timedelta(minutes=1)),
        ("03:00:00+11:00", timedelta(minutes=59)),
        ("04:00:00+11:00", timedelta(hours=1)),
    ]
    costs = [cost(1, start + timedelta(minutes=minute)) for minute in (0, 5, 14, 59)]
    wanted = {"start_date": start, "end_date": start + timedelta(hours=1), "timezone": zone}
    assert costs_of(report(*costs, **wanted, group_by=["hour"])) == {
        ("2022-10-02T00:00:00+08:00",): 1,
        ("2022-10-02T03:00:00+11:00",): 3,
    }


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

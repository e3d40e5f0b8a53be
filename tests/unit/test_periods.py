"""Periods tile time in every zone, whatever its clocks did."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fiscus.errors import ValidationError
from fiscus.periods import (
    FAR_FUTURE,
    MAX_ROLLING_DAYS,
    Period,
    PeriodType,
    Schedule,
    first_anchor,
    parse_timezone,
    period_after,
    period_at,
    validate_schedule,
)

TICK = timedelta(microseconds=1)
HOUR = timedelta(hours=1)

ZONES = [
    "UTC",
    "America/New_York",
    "America/Havana",  # falls back from 01:00 to 00:00: midnight happens twice
    "America/Sao_Paulo",  # sprang forward at 00:00: no midnight
    "America/St_Johns",  # until 2011 fell back from 00:01 to 23:01 of the day before
    "America/Toronto",  # in 1919 sprang forward from 23:30 to 00:30
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "Australia/Lord_Howe",  # shifts by half an hour
    "Europe/Berlin",
    "Pacific/Apia",  # had no 2011-12-30
    "Pacific/Kiritimati",  # had no 1994-12-31
    "Pacific/Kwajalein",  # repeated most of a day in 1969, skipped one in 1993
]
CALENDAR = [
    PeriodType.DAILY,
    PeriodType.WEEKLY,
    PeriodType.MONTHLY,
    PeriodType.QUARTERLY,
    PeriodType.YEARLY,
]
RESETTING = [*CALENDAR, PeriodType.ROLLING]
# Instants at, or within minutes of, something odd in one of the zones above.
ODD_INSTANTS = [
    datetime(2018, 11, 4, 3, tzinfo=UTC),
    datetime(2018, 2, 18, 2, tzinfo=UTC),
    datetime(2024, 11, 3, 5, tzinfo=UTC),
    datetime(2024, 3, 10, 5, tzinfo=UTC),
    datetime(2010, 11, 7, 2, 31, tzinfo=UTC),
    datetime(1919, 3, 31, 4, 30, tzinfo=UTC),
    datetime(2011, 12, 30, 10, tzinfo=UTC),
    datetime(1994, 12, 31, 10, tzinfo=UTC),
    datetime(1969, 9, 30, 13, tzinfo=UTC),
    datetime(1993, 8, 21, 12, tzinfo=UTC),
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 4, 23, 22, tzinfo=UTC),
    datetime(2027, 3, 27, 22, tzinfo=UTC),
]

zones = st.sampled_from(ZONES)
anywhere = st.datetimes(
    datetime(1850, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@st.composite
def near_odd_instants(draw: st.DrawFn) -> datetime:
    minutes, ticks = draw(st.integers(-3000, 3000)), draw(st.integers(-1, 1))
    return draw(st.sampled_from(ODD_INSTANTS)) + timedelta(minutes=minutes, microseconds=ticks)


moments = anywhere | near_odd_instants()
days = st.dates(date(1900, 1, 1), date(2150, 1, 1))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Resetting schedules, with and without dates and anchors."""
    start = draw(st.none() | days)
    end = draw(st.none() | days)
    if start is not None and end is not None and end <= start:
        start, end = end, start + timedelta(days=1)
    return Schedule(
        period_type=draw(st.sampled_from(RESETTING)),
        timezone=draw(zones),
        start_date=start,
        end_date=end,
        rolling_days=draw(st.integers(1, 400)),
        anchor=draw(days),
    )


def utc(*parts: int) -> datetime:
    year, month, day, *rest = parts
    return datetime(year, month, day, *rest, tzinfo=UTC)


def local(moment: datetime, zone: str) -> datetime:
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def period_of(schedule: Schedule, moment: datetime) -> Period:
    period = period_at(schedule, moment)
    assert period is not None
    return period


# ---------------------------------------------------------------- properties


@given(schedules(), moments)
def test_a_period_contains_its_moment(schedule: Schedule, moment: datetime) -> None:
    period = period_at(schedule, moment)
    assume(period is not None)
    assert period is not None
    assert period.start <= moment < period.end
    assert period.start.tzinfo is UTC
    assert period.end.tzinfo is UTC


@given(schedules(), moments)
def test_every_moment_of_a_period_has_that_period(schedule: Schedule, moment: datetime) -> None:
    period = period_at(schedule, moment)
    assume(period is not None)
    assert period is not None
    middle = period.start + (period.end - period.start) / 2
    for other in (period.start, period.start + TICK, middle, period.end - TICK):
        assert period_at(schedule, other) == period


@given(schedules(), moments)
def test_the_next_period_begins_where_one_ends(schedule: Schedule, moment: datetime) -> None:
    period = period_at(schedule, moment)
    assume(period is not None)
    assert period is not None
    following = period_after(schedule, period)
    assert following == period_at(schedule, period.end)
    if following is None:
        assert schedule.end_date is not None
        assert local(period.end, schedule.timezone).date() >= schedule.end_date
    else:
        assert following.start == period.end
        assert following.end > following.start


@given(schedules(), moments)
def test_the_period_before_ends_where_one_begins(schedule: Schedule, moment: datetime) -> None:
    period = period_at(schedule, moment)
    assume(period is not None)
    assert period is not None
    before = period_at(schedule, period.start - TICK)
    if before is None:
        assert schedule.start_date is not None
    else:
        assert period_after(schedule, before) == period


@given(zones, st.sampled_from(CALENDAR), moments)
def test_a_calendar_period_begins_at_the_first_instant_of_a_local_day(
    zone: str, period_type: PeriodType, moment: datetime
) -> None:
    start = period_of(Schedule(period_type, zone), moment).start
    first = local(start, zone)
    # The tick before shows an earlier date, and from the start on the date has come; where the day
    # of the boundary does not exist at all, the clock shows the next.
    assert local(start - TICK, zone).date() < first.date()
    if first.date() not in {date(2011, 12, 31), date(1995, 1, 1), date(1993, 8, 22)}:
        match period_type:
            case PeriodType.WEEKLY:
                assert first.isoweekday() == 1
            case PeriodType.MONTHLY:
                assert first.day == 1
            case PeriodType.QUARTERLY:
                assert (first.day, first.month % 3) == (1, 1)
            case PeriodType.YEARLY:
                assert (first.day, first.month) == (1, 1)
            case _:
                pass


@given(zones, moments)
def test_a_day_holds_every_moment_of_its_date_but_for_clocks_set_back_over_midnight(
    zone: str, moment: datetime
) -> None:
    period = period_of(Schedule(PeriodType.DAILY, zone), moment)
    first = local(period.start, zone).date()
    shown = local(moment, zone).date()
    assert shown == first or (shown < first and shown == first - timedelta(days=1))


@given(zones, days, st.integers(1, MAX_ROLLING_DAYS), moments)
def test_a_window_begins_a_whole_number_of_windows_from_the_anchor(
    zone: str, anchor: date, length: int, moment: datetime
) -> None:
    schedule = Schedule(PeriodType.ROLLING, zone, rolling_days=length, anchor=anchor)
    start = local(period_of(schedule, moment).start, zone).date()
    # a window that begins on a day that the zone skipped begins with the next day
    assert (start - anchor).days % length in {0, 1 % length}
    if zone not in {"Pacific/Apia", "Pacific/Kiritimati", "Pacific/Kwajalein"}:
        assert (start - anchor).days % length == 0


@given(schedules(), days, days, moments)
def test_dates_only_clip(schedule: Schedule, one: date, other: date, moment: datetime) -> None:
    start, end = min(one, other), max(one, other)
    assume(schedule.period_type is not PeriodType.ROLLING and start < end)
    zone = schedule.timezone
    free = period_of(Schedule(schedule.period_type, zone), moment)
    bounded = period_at(Schedule(schedule.period_type, zone, start, end), moment)
    whole = period_at(Schedule(PeriodType.CUSTOM, zone, start, end), moment)
    if whole is None:
        assert bounded is None
    else:
        assert bounded == (max(free.start, whole.start), min(free.end, whole.end))


@given(
    schedules(),
    st.datetimes(timezones=st.sampled_from([UTC, ZoneInfo("Asia/Tokyo"), ZoneInfo("Etc/GMT+12")])),
)
@example(Schedule(PeriodType.YEARLY, "Asia/Kathmandu"), FAR_FUTURE - TICK)
@example(Schedule(PeriodType.YEARLY, "Pacific/Kiritimati"), FAR_FUTURE - TICK)
@example(Schedule(PeriodType.WEEKLY, "America/New_York"), datetime(2, 1, 1, tzinfo=UTC))
@example(Schedule(PeriodType.ROLLING, "UTC", rolling_days=MAX_ROLLING_DAYS), FAR_FUTURE - TICK)
@example(
    Schedule(PeriodType.ROLLING, "UTC", rolling_days=MAX_ROLLING_DAYS, anchor=date.max),
    datetime(2, 1, 1, tzinfo=UTC),
)
@example(
    Schedule(PeriodType.DAILY, "Asia/Tokyo", date.min, date.max), datetime.min.replace(tzinfo=UTC)
)
@example(Schedule(PeriodType.DAILY, "UTC"), datetime.max.replace(tzinfo=UTC))
@example(Schedule(PeriodType.DAILY, "UTC"), datetime.max.replace(tzinfo=ZoneInfo("Etc/GMT+12")))
@example(Schedule(PeriodType.DAILY, "UTC"), datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")))
def test_the_ends_of_the_calendar_raise_nothing(schedule: Schedule, moment: datetime) -> None:
    period = period_at(schedule, moment)
    first_anchor(schedule.timezone, moment)
    if period is not None:
        assert period.start <= moment < period.end <= FAR_FUTURE
        following = period_after(schedule, period)
        assert following is None or following.start == period.end


# ---------------------------------------------------------------- calendars


@pytest.mark.parametrize(
    ("zone", "noon", "hours"),
    [
        ("America/New_York", utc(2026, 3, 8, 16), 23),
        ("America/New_York", utc(2026, 11, 1, 17), 25),
        ("Europe/Berlin", utc(2026, 3, 29, 10), 23),
        ("Europe/Berlin", utc(2026, 10, 25, 11), 25),
        ("Australia/Lord_Howe", utc(2026, 4, 5, 1), 24.5),
        ("Australia/Lord_Howe", utc(2026, 10, 4, 1), 23.5),
        ("America/Havana", utc(2024, 3, 10, 16), 23),
        ("America/Havana", utc(2024, 11, 3, 17), 25),
        ("America/Sao_Paulo", utc(2018, 11, 4, 14), 23),
        ("Asia/Kathmandu", utc(2026, 3, 29, 6), 24),
        ("UTC", utc(2026, 3, 29, 12), 24),
    ],
)
def test_a_day_is_as_long_as_daylight_saving_makes_it(
    zone: str, noon: datetime, hours: float
) -> None:
    period = period_of(Schedule(PeriodType.DAILY, zone), noon)
    assert period.end - period.start == hours * HOUR


@pytest.mark.parametrize(
    ("zone", "moment", "start"),
    [
        ("America/Sao_Paulo", utc(2018, 11, 4, 14), utc(2018, 11, 4, 3)),
        ("Asia/Beirut", utc(2024, 3, 31, 10), utc(2024, 3, 30, 22)),
        ("Africa/Cairo", utc(2026, 4, 24, 10), utc(2026, 4, 23, 22)),
        ("America/Toronto", utc(1919, 3, 31, 16), utc(1919, 3, 31, 4, 30)),  # 23:30 -> 00:30
    ],
)
def test_a_day_without_midnight_begins_at_its_first_instant(
    zone: str, moment: datetime, start: datetime
) -> None:
    assert period_of(Schedule(PeriodType.DAILY, zone), moment).start == start
    first, last = local(start, zone), local(start - TICK, zone)
    assert first - last > timedelta(minutes=59)


def test_a_day_with_two_midnights_begins_at_the_first() -> None:
    schedule = Schedule(PeriodType.DAILY, "America/Havana")
    first, second = utc(2024, 11, 3, 4), utc(2024, 11, 3, 5)
    assert local(first, "America/Havana") == local(second, "America/Havana")
    assert period_of(schedule, first).start == first
    assert period_of(schedule, second).start == first
    assert period_of(schedule, first - TICK).end == first


def test_a_clock_set_back_over_midnight_does_not_reopen_the_day_before() -> None:
    # St John's, 2010-11-07: from 00:01 back to 23:01 of the 6th.
    schedule = Schedule(PeriodType.DAILY, "America/St_Johns")
    midnight = utc(2010, 11, 7, 2, 30)
    again = midnight + timedelta(minutes=20)
    assert local(again, "America/St_Johns").date() == date(2010, 11, 6)
    assert period_of(schedule, again) == (midnight, utc(2010, 11, 8, 3, 30))


def test_a_skipped_date_has_no_period() -> None:
    schedule = Schedule(PeriodType.DAILY, "Pacific/Apia")
    jump = utc(2011, 12, 30, 10)
    before, after = period_of(schedule, jump - TICK), period_of(schedule, jump)
    assert before == (jump - 24 * HOUR, jump)
    assert after == (jump, jump + 24 * HOUR)
    assert local(before.start, "Pacific/Apia").date() == date(2011, 12, 29)
    assert local(after.start, "Pacific/Apia").date() == date(2011, 12, 31)
    assert period_after(schedule, before) == after


@pytest.mark.parametrize(
    ("period_type", "moment", "period"),
    [
        # ISO weeks: 2020-12-31 is in week 53, which ends in 2021
        (PeriodType.WEEKLY, utc(2020, 12, 31), Period(utc(2020, 12, 28), utc(2021, 1, 4))),
        (PeriodType.WEEKLY, utc(2021, 1, 3, 23, 59), Period(utc(2020, 12, 28), utc(2021, 1, 4))),
        (PeriodType.WEEKLY, utc(2021, 1, 4), Period(utc(2021, 1, 4), utc(2021, 1, 11))),
        (PeriodType.MONTHLY, utc(2024, 2, 29, 23), Period(utc(2024, 2, 1), utc(2024, 3, 1))),
        (PeriodType.MONTHLY, utc(2023, 2, 28, 23), Period(utc(2023, 2, 1), utc(2023, 3, 1))),
        (PeriodType.MONTHLY, utc(1900, 2, 28, 23), Period(utc(1900, 2, 1), utc(1900, 3, 1))),
        (PeriodType.MONTHLY, utc(2026, 12, 31, 23), Period(utc(2026, 12, 1), utc(2027, 1, 1))),
        (PeriodType.DAILY, utc(2024, 2, 29, 12), Period(utc(2024, 2, 29), utc(2024, 3, 1))),
        (PeriodType.QUARTERLY, utc(2026, 3, 31, 23), Period(utc(2026, 1, 1), utc(2026, 4, 1))),
        (PeriodType.QUARTERLY, utc(2026, 4, 1), Period(utc(2026, 4, 1), utc(2026, 7, 1))),
        (PeriodType.QUARTERLY, utc(2026, 12, 31), Period(utc(2026, 10, 1), utc(2027, 1, 1))),
        (PeriodType.YEARLY, utc(2024, 12, 31, 23), Period(utc(2024, 1, 1), utc(2025, 1, 1))),
    ],
)
def test_calendar_periods_follow_the_calendar(
    period_type: PeriodType, moment: datetime, period: Period
) -> None:
    assert period_at(Schedule(period_type, "UTC"), moment) == period


def test_a_month_is_the_zone_s_month() -> None:
    # 03:00 in Berlin on 1 January is still December in New York
    moment = utc(2026, 1, 1, 2)
    assert period_of(Schedule(PeriodType.MONTHLY, "Europe/Berlin"), moment) == (
        utc(2025, 12, 31, 23),
        utc(2026, 1, 31, 23),
    )
    assert period_of(Schedule(PeriodType.MONTHLY, "America/New_York"), moment) == (
        utc(2025, 12, 1, 5),
        utc(2026, 1, 1, 5),
    )
    assert period_of(Schedule(PeriodType.MONTHLY, "Asia/Kathmandu"), moment).start == utc(
        2025, 12, 31, 18, 15
    )


def test_the_offset_a_moment_is_written_with_does_not_matter() -> None:
    schedule = Schedule(PeriodType.DAILY, "Europe/Berlin")
    moment = utc(2026, 10, 25, 0, 30)
    for zone in ZONES:
        assert period_at(schedule, moment.astimezone(ZoneInfo(zone))) == period_at(schedule, moment)


def test_a_naive_moment_is_an_error() -> None:
    with pytest.raises(TypeError):
        period_at(Schedule(PeriodType.DAILY, "UTC"), datetime(2026, 1, 1))  # noqa: DTZ001


# ---------------------------------------------------------------- start and end dates


def test_a_start_inside_a_month_clips_the_first_period_only() -> None:
    schedule = Schedule(PeriodType.MONTHLY, "Europe/Berlin", start_date=date(2026, 3, 15))
    start = utc(2026, 3, 14, 23)
    assert period_at(schedule, start - TICK) is None
    first = period_of(schedule, start)
    assert first == (start, utc(2026, 3, 31, 22))
    assert period_after(schedule, first) == (utc(2026, 3, 31, 22), utc(2026, 4, 30, 22))


def test_an_end_date_is_exclusive_and_the_last_period_ends_with_it() -> None:
    schedule = Schedule(PeriodType.WEEKLY, "America/New_York", end_date=date(2026, 7, 8))
    end = utc(2026, 7, 8, 4)
    last = period_of(schedule, end - TICK)
    assert last == (utc(2026, 7, 6, 4), end)
    assert period_after(schedule, last) is None
    assert period_at(schedule, end) is None


def test_a_project_is_one_period_without_end_unless_given() -> None:
    schedule = Schedule(PeriodType.PROJECT, "Asia/Kathmandu", start_date=date(2026, 1, 1))
    start = utc(2025, 12, 31, 18, 15)
    assert period_at(schedule, start - TICK) is None
    only = period_of(schedule, utc(2090, 1, 1))
    assert only == (start, FAR_FUTURE)
    assert period_after(schedule, only) is None
    assert period_at(schedule, FAR_FUTURE) is None


@pytest.mark.parametrize("period_type", [PeriodType.PROJECT, PeriodType.CUSTOM])
def test_a_dated_schedule_is_one_period(period_type: PeriodType) -> None:
    schedule = Schedule(period_type, "Europe/Berlin", date(2026, 1, 1), date(2027, 1, 1))
    only = Period(utc(2025, 12, 31, 23), utc(2026, 12, 31, 23))
    assert period_at(schedule, only.start) == only
    assert period_at(schedule, only.end - TICK) == only
    assert period_at(schedule, only.start - TICK) is None
    assert period_at(schedule, only.end) is None
    assert period_after(schedule, only) is None


# ---------------------------------------------------------------- rolling


def test_windows_count_from_the_start_date_and_not_before() -> None:
    schedule = Schedule(
        PeriodType.ROLLING, "UTC", start_date=date(2026, 1, 10), anchor=date(2026, 1, 12)
    )
    assert period_at(schedule, utc(2026, 1, 9)) is None
    assert period_at(schedule, utc(2026, 1, 10)) == (utc(2026, 1, 10), utc(2026, 2, 9))
    assert period_at(schedule, utc(2026, 2, 9)) == (utc(2026, 2, 9), utc(2026, 3, 11))


def test_windows_also_lie_before_an_anchor() -> None:
    schedule = Schedule(PeriodType.ROLLING, "UTC", rolling_days=7, anchor=date(2026, 1, 10))
    assert period_at(schedule, utc(2026, 1, 9)) == (utc(2026, 1, 3), utc(2026, 1, 10))
    assert period_at(schedule, utc(2025, 12, 28)) == (utc(2025, 12, 27), utc(2026, 1, 3))


def test_a_window_counts_local_days_over_daylight_saving() -> None:
    schedule = Schedule(
        PeriodType.ROLLING, "America/New_York", rolling_days=7, anchor=date(2026, 3, 5)
    )
    assert period_at(schedule, utc(2026, 3, 8)) == (utc(2026, 3, 5, 5), utc(2026, 3, 12, 4))


def test_without_an_anchor_the_moment_s_local_date_stands_in() -> None:
    schedule = Schedule(PeriodType.ROLLING, "America/New_York", rolling_days=2)
    moment = utc(2026, 1, 10, 3)  # 22:00 on the 9th
    anchored = Schedule(
        PeriodType.ROLLING,
        "America/New_York",
        rolling_days=2,
        anchor=first_anchor("America/New_York", moment),
    )
    assert period_at(schedule, moment) == (utc(2026, 1, 9, 5), utc(2026, 1, 11, 5))
    assert period_at(anchored, moment) == period_at(schedule, moment)
    provisional = period_of(schedule, moment)
    assert period_after(schedule, provisional) == period_after(anchored, provisional)


def test_the_first_anchor_is_the_local_date() -> None:
    moment = utc(2026, 1, 1, 2)
    assert first_anchor("Europe/Berlin", moment) == date(2026, 1, 1)
    assert first_anchor("America/New_York", moment) == date(2025, 12, 31)


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize(
    "name", ["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "US/Eastern"]
)
def test_iana_names_are_time_zones(name: str) -> None:
    assert parse_timezone(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "Mars/Olympus",
        "europe/berlin",
        "Europe/Berlin ",
        "Europe",
        "../../etc/passwd",
        "/usr/share/zoneinfo/UTC",
        "Europe/../Europe/Berlin",
        "./UTC",
        "UTC\0",
        "\ud800",
        "localtime",
        "posixrules",
        "posix/UTC",
        "right/UTC",
        "Factory",
        "zones",
        "tzdata.zi",
        "+02:00",
        "x" * 100_000,
    ],
)
def test_other_names_are_refused_by_field(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_timezone(name, "settings.timezone")
    assert caught.value.field == "settings.timezone"


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("period_type", RESETTING)
def test_resetting_schedules_need_no_dates(name: str, period_type: PeriodType) -> None:
    validate_schedule(Schedule(period_type, name))


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (Schedule(PeriodType.DAILY, "Nowhere"), "timezone"),
        (Schedule(PeriodType.CUSTOM, "UTC"), "start_date"),
        (Schedule(PeriodType.CUSTOM, "UTC", end_date=date(2026, 1, 1)), "start_date"),
        (Schedule(PeriodType.CUSTOM, "UTC", date(2026, 1, 1)), "end_date"),
        (Schedule(PeriodType.PROJECT, "UTC", end_date=date(2026, 1, 1)), "start_date"),
        (Schedule(PeriodType.DAILY, "UTC", date(2026, 1, 2), date(2026, 1, 2)), "end_date"),
        (Schedule(PeriodType.CUSTOM, "UTC", date(2026, 1, 2), date(2026, 1, 1)), "end_date"),
        # all of the only day was skipped
        (
            Schedule(PeriodType.CUSTOM, "Pacific/Apia", date(2011, 12, 30), date(2011, 12, 31)),
            "end_date",
        ),
        (Schedule(PeriodType.DAILY, "UTC", end_date=date.min), "end_date"),
        (Schedule(PeriodType.PROJECT, "UTC", date.max), "start_date"),
        (Schedule(PeriodType.ROLLING, "UTC", rolling_days=0), "rolling_days"),
        (Schedule(PeriodType.ROLLING, "UTC", rolling_days=MAX_ROLLING_DAYS + 1), "rolling_days"),
    ],
)
def test_an_impossible_schedule_is_refused_by_field(schedule: Schedule, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validate_schedule(schedule)
    assert caught.value.field == field
    assert caught.value.suggested_action


def test_dates_that_fit_are_accepted() -> None:
    validate_schedule(Schedule(PeriodType.PROJECT, "UTC", date(2026, 1, 1)))
    validate_schedule(Schedule(PeriodType.CUSTOM, "UTC", date(2026, 1, 1), date(2026, 1, 2)))
    validate_schedule(Schedule(PeriodType.ROLLING, "UTC", rolling_days=MAX_ROLLING_DAYS))

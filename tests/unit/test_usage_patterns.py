"""The usual load of an hour of the week: what it is learned from, and that nothing is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.clock import to_us
from fiscus.ratelimits.usage_patterns import (
    QUARTER_US,
    Load,
    hourly_load,
    weeks_begin,
    weeks_end,
)

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "timezone", "end"),
    [
        ("2026-03-10T12:00Z", "UTC", "2026-03-10T00:00Z"),
        ("2026-03-10T00:10Z", "UTC", "2026-03-10T00:00Z"),
        ("2026-03-10T00:09Z", "UTC", "2026-03-09T00:00Z"),
        ("2026-03-10T12:00Z", "Asia/Kathmandu", "2026-03-09T18:15Z"),
        ("2026-03-29T12:00Z", "Europe/Berlin", "2026-03-28T23:00Z"),
        ("2026-03-30T12:00Z", "Europe/Berlin", "2026-03-29T22:00Z"),
        # the clocks were set back from 00:01, so the day that had begun shows the old date again
        ("2010-11-07T03:00Z", "America/St_Johns", "2010-11-07T02:30Z"),
    ],
)
def test_weeks_end_at_the_last_local_midnight_that_is_written(
    now: str, timezone: str, end: str
) -> None:
    assert weeks_end(at(now), timezone) == at(end)


@pytest.mark.parametrize(
    ("known_days", "weeks"), [(400, 4), (28, 4), (27.9, 3), (21, 3), (14, 2), (13.9, None)]
)
def test_as_many_whole_weeks_as_are_known_up_to_four(known_days: float, weeks: int | None) -> None:
    end = at("2026-03-10T00:00Z")
    begin = weeks_begin(end, "UTC", end - known_days * DAY)
    assert begin == (None if weeks is None else end - weeks * 7 * DAY)


def test_weeks_across_daylight_saving_are_local_ones() -> None:
    end, long_ago = at("2026-04-01T00:00+02:00"), at("2020-01-01T00:00Z")
    assert weeks_begin(end, "Europe/Berlin", long_ago) == at("2026-03-04T00:00+01:00")


def test_without_a_request_nothing_is_known() -> None:
    assert hourly_load([], "UTC") == ()
    assert hourly_load([Load(0, 3, 0)], "UTC") == ()


def test_the_week_begins_on_monday_at_local_midnight() -> None:
    monday = to_us(at("2026-03-09T00:00-04:00")) // QUARTER_US
    load = hourly_load(
        [Load(monday, monday, 7), Load(monday - 1, monday - 1, 5)], "America/New_York"
    )
    assert (load[0], load[167], sum(load)) == (7, 5, 12)


LOADS = st.lists(
    st.builds(
        lambda first, length, requests: Load(first, first + length, requests),
        st.integers(1_900_000, 2_000_000),
        st.integers(0, 700),
        st.integers(0, 10**18),
    ),
    max_size=5,
)


@given(LOADS, st.sampled_from(ZONES))
def test_every_request_falls_into_one_hour(loads: list[Load], timezone: str) -> None:
    load = hourly_load(loads, timezone)
    assert sum(load) == sum(one.requests for one in loads)
    assert len(load) in {0, 168}
    assert min(load, default=0) >= 0

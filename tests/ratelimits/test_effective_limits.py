"""What a policy's limit is at a moment, and which policies there can be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.clock import from_us, to_us
from fiscus.errors import ValidationError
from fiscus.ratelimits.definitions import check_countable
from fiscus.ratelimits.limits import (
    calendar_ends,
    ceilings_ahead,
    effective_limit,
    greatest_ceilings,
    rule_at,
)
from fiscus.ratelimits.model import CalendarUnit, Emergency
from tests.ratelimits.policies import NOON, TENANT, policy

NIGHT = {"from_hour": 22, "to_hour": 6, "multiplier": 0.25}
MOMENTS = st.integers(1_577_836_800, 2_051_222_400).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def emergency(capacity: int, starts_at: datetime, minutes: int) -> Emergency:
    ends_at = starts_at + timedelta(minutes=minutes)
    return Emergency(
        emergency_id="e",
        policy_id="p",
        tenant_id=TENANT,
        additional_capacity=capacity,
        reason="launch",
        requested_by="a",
        starts_at=starts_at,
        ends_at=ends_at,
        approved_by=None,
        approved_at=None,
        effective_until=ends_at,
    )


def test_without_overrides_the_limit_is_the_limit() -> None:
    assert effective_limit(policy(limit_value=7), NOON) == 7


@pytest.mark.parametrize(
    ("moment", "limit"),
    [
        ("2026-01-10T20:59:00+00:00", 10),  # 21:59 in Berlin
        ("2026-01-10T21:00:00+00:00", 2),
        ("2026-01-11T04:59:59+00:00", 2),
        ("2026-01-11T05:00:00+00:00", 10),
        ("2026-07-10T20:00:00+00:00", 2),  # summer: 22:00 is an hour earlier
    ],
)
def test_hours_are_local_and_may_cross_midnight(moment: str, limit: int) -> None:
    state = policy(timezone="Europe/Berlin", overrides={"time_of_day": [NIGHT]})
    assert effective_limit(state, at(moment)) == limit


def test_the_product_is_floored_once_and_is_at_least_one() -> None:
    state = policy(limit_value=3, overrides={"time_of_day": [{**NIGHT, "multiplier": 0.1}]})
    assert effective_limit(state, at("2026-01-10T23:00:00+00:00")) == 1


def test_emergency_capacity_is_added_while_it_holds() -> None:
    state = policy(emergencies=(emergency(5, NOON, 30),))
    assert effective_limit(state, NOON - timedelta(seconds=1)) == 10
    assert effective_limit(state, NOON) == 15
    assert effective_limit(state, NOON + timedelta(minutes=30)) == 10


def test_usage_pattern_follows_the_usual_load_between_its_bounds() -> None:
    load = [100] * 168
    load[2 * 24 + 12] = 150  # Wednesday noon
    load[2 * 24 + 13] = 10_000
    load[2 * 24 + 14] = 0
    state = policy(limit_value=1000, overrides={"usage_pattern": {}}, hourly_load=tuple(load))
    total = sum(load)
    assert effective_limit(state, NOON) == 1000 * 150 * 168 // total
    assert effective_limit(state, NOON + timedelta(hours=1)) == 2000
    assert effective_limit(state, NOON + timedelta(hours=2)) == 500


def test_usage_pattern_that_is_not_known_changes_nothing() -> None:
    assert effective_limit(policy(overrides={"usage_pattern": {}}), NOON) == 10


def test_a_log_never_grows_beyond_what_it_can_hold() -> None:
    state = policy(
        algorithm="sliding_window_log",
        limit_value=9_000,
        overrides={"time_of_day": [{"from_hour": 0, "to_hour": 24, "multiplier": 3}]},
    )
    assert effective_limit(state, NOON) == 10_000


@given(moment=MOMENTS, zone=ZONES, hour=st.integers(0, 23), length=st.integers(1, 23))
def test_a_rule_holds_for_the_whole_stretch_it_names(
    moment: datetime, zone: str, hour: int, length: int
) -> None:
    state = policy(
        timezone=zone,
        limit_value=1000,
        overrides={
            "time_of_day": [{"from_hour": hour, "to_hour": (hour + length) % 24, "multiplier": 0.5}]
        },
        emergencies=(emergency(7, moment - timedelta(seconds=20), 1),),
    )
    found = rule_at(state, moment)
    assert found.from_us <= to_us(moment) < found.until_us
    for edge in (found.from_us, found.until_us - 1):
        assert effective_limit(state, from_us(edge)) == found.rule.limit


PATTERN = {"min_multiplier": 0.5, "max_multiplier": 2}
LOADS = {"unknown": (), "none": (0,) * 168, "known": (1,) * 167 + (168,)}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    "overrides",
    [
        {"time_of_day": [NIGHT]},
        {"time_of_day": [{**NIGHT, "multiplier": 3}]},
        {"usage_pattern": PATTERN},
        {"usage_pattern": {**PATTERN, "max_multiplier": 0.5}, "time_of_day": [NIGHT]},
    ],
    ids=["night", "more at night", "use", "both"],
)
def test_limits_ahead_are_looked_at_as_far_as_they_change_and_none_is_above_the_greatest(
    overrides: dict[str, Any], load: str
) -> None:
    state = policy(
        limit_value=100,
        burst_capacity=7,
        overrides=overrides,
        hourly_load=LOADS[load],
        emergencies=(emergency(5, NOON, 90),),
    )
    ahead = [ceilings for _, ceilings in ceilings_ahead(state, NOON)]
    if load == "known" and "usage_pattern" in overrides:
        assert len(ahead) == 168
    else:
        assert len(ahead) == (24 if "time_of_day" in overrides else 0)
    greatest = greatest_ceilings(state)
    for ceilings in ahead:
        assert all(one <= most for one, most in zip(ceilings, greatest, strict=True))


@given(moment=MOMENTS, zone=ZONES, unit=st.sampled_from(CalendarUnit))
def test_calendar_windows_hold_the_moment_and_follow_one_another(
    moment: datetime, zone: str, unit: CalendarUnit
) -> None:
    before, end, following = calendar_ends(unit, zone, moment)
    assert before <= to_us(moment) < end < following
    assert calendar_ends(unit, zone, from_us(end))[0] == end


def test_a_calendar_day_of_a_change_of_clocks_is_longer() -> None:
    _, end, following = calendar_ends(
        CalendarUnit.DAY, "Europe/Berlin", at("2026-10-24T12:00:00+00:00")
    )
    assert following - end == 25 * 3_600_000_000


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"limit_value": 0}, "limit_value"),
        ({"limit_value": -1}, "limit_value"),
        ({"limit_value": 10**13}, "limit_value"),
        ({"limit_value": 10**12, "time_window_seconds": 86_399}, "limit_value"),
        ({"time_window_seconds": 0}, "time_window_seconds"),
        ({"time_window_seconds": None}, "time_window_seconds"),
        ({"algorithm": "sieve"}, "algorithm"),
        ({"algorithm": "leaky_bucket", "burst_capacity": 1}, "burst_capacity"),
        ({"algorithm": "sliding_window_log", "limit_value": 10_001}, "limit_value"),
        ({"calendar": "day", "time_window_seconds": None}, "calendar"),
        ({"algorithm": "fixed_window", "calendar": "day"}, "time_window_seconds"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"scope_id": "other"}, "scope_id"),
        ({"resource_type": "a*b"}, "resource_type"),
        ({"resource_type": ""}, "resource_type"),
        (
            {"overrides": {"time_of_day": [{"from_hour": 5, "to_hour": 5, "multiplier": 1}]}},
            "overrides.time_of_day[0].to_hour",
        ),
        (
            {"overrides": {"time_of_day": [{"from_hour": 5, "to_hour": 6, "multiplier": 0}]}},
            "overrides.time_of_day[0].multiplier",
        ),
        (
            {
                "overrides": {
                    "time_of_day": [NIGHT, {"from_hour": 5, "to_hour": 7, "multiplier": 2}]
                }
            },
            "overrides.time_of_day[1]",
        ),
        (
            {"overrides": {"usage_pattern": {"min_multiplier": 3}}},
            "overrides.usage_pattern.min_multiplier",
        ),
        (
            {
                "limit_value": 10**10,
                "time_window_seconds": 86_400,
                "overrides": {"usage_pattern": {"max_multiplier": 100}},
            },
            "overrides",
        ),
        (
            {
                # by day, as long as no use is known that would halve it
                "limit_value": 600_000_001,
                "time_window_seconds": 86_400,
                "overrides": {
                    "time_of_day": [{"from_hour": 6, "to_hour": 22, "multiplier": 97}],
                    "usage_pattern": {"min_multiplier": "0.25", "max_multiplier": "0.5"},
                },
            },
            "overrides",
        ),
        (
            {
                "limit_value": 366 * 86_400 * 10_000,
                "time_window_seconds": 366 * 86_400,
                "overrides": {
                    "time_of_day": [{"from_hour": 0, "to_hour": 24, "multiplier": "0.333333333333"}]
                },
            },
            "overrides",
        ),
    ],
)
def test_what_no_policy_can_be_is_refused_with_the_fields_name(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        policy(**fields)
    assert caught.value.field == field
    assert caught.value.suggested_action


def test_emergency_capacity_that_a_log_cannot_hold_is_refused() -> None:
    log = policy(algorithm="sliding_window_log", limit_value=9_000).policy
    check_countable(log, 1_000)
    with pytest.raises(ValidationError) as caught:
        check_countable(log, 1_001)
    assert caught.value.field == "additional_capacity"


@pytest.mark.parametrize("calendar", [None, "month"])
def test_a_fixed_window_counts_every_limit_that_its_overrides_come_to(calendar: str | None) -> None:
    state = policy(
        algorithm="fixed_window",
        limit_value=2 * 10**9,
        calendar=calendar,
        time_window_seconds=31 * 86_400,
        overrides={"usage_pattern": {}},
    )
    assert rule_at(state, NOON).rule.limit == 2 * 10**9

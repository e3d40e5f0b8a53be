"""The effective limit: what a policy's limit is at a moment.

    floor(limit x time of day x usage pattern) + emergency capacity, at least 1

Exact: multipliers are decimals, the product is floored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Final, NamedTuple

from fiscus.clock import EPOCH, to_us
from fiscus.money import EXACT, ONE
from fiscus.ratelimits.model import (
    CalendarUnit,
    Emergency,
    HourRange,
    Policy,
    PolicyState,
    UsagePattern,
)
from fiscus.ratelimits.rules import (
    FAR_US,
    MAX_LOG_LIMIT,
    Algorithm,
    Ceilings,
    Rule,
    ceilings_of,
    make_rule,
)
from fiscus.zones import day_start, local_day, month_start, zone_of

HOURS_OF_WEEK: Final = 168
MIN_WEEKS: Final = 2
"""Weeks of use that must be known before a usage pattern says anything."""

_MINUTE_US: Final = 60_000_000
_SECONDS_US: Final = 1_000_000

NOMINAL_SECONDS: Final[dict[CalendarUnit, int]] = {
    CalendarUnit.HOUR: 3600,
    CalendarUnit.DAY: 86_400,
    CalendarUnit.WEEK: 7 * 86_400,
    CalendarUnit.MONTH: 31 * 86_400,
}


class RuleAt(NamedTuple):
    """A policy's rule, and the stretch of time `[from_us, until_us)` in which it holds."""

    rule: Rule
    from_us: int
    until_us: int


def rule_at(state: PolicyState, now: datetime) -> RuleAt:
    """The rule that a policy is at `now`."""
    policy = state.policy
    limit = effective_limit(state, now)
    now_us = to_us(now)
    begins, ends = 0, FAR_US
    if policy.overrides.time_of_day or policy.overrides.usage_pattern is not None:
        # hours begin on whole minutes in every zone of our time
        begins = now_us // _MINUTE_US * _MINUTE_US
        ends = begins + _MINUTE_US
    for emergency in state.emergencies:
        for edge in (to_us(emergency.starts_at), to_us(emergency.effective_until)):
            if edge <= now_us:
                begins = max(begins, edge)
            else:
                ends = min(ends, edge)
    window_ends: tuple[int, ...] = ()
    if policy.calendar is not None:
        window_ends = calendar_ends(policy.calendar, policy.timezone, now)
        begins, ends = max(begins, window_ends[0]), min(ends, window_ends[1])
    rule = make_rule(
        policy.algorithm,
        limit,
        policy.time_window_seconds * _SECONDS_US,
        burst=policy.burst_capacity,
        shadow=policy.shadow,
        window_ends=window_ends,
    )
    return RuleAt(rule, begins, ends)


def effective_limit(state: PolicyState, now: datetime) -> int:
    """The limit per window at `now`, without burst."""
    policy = state.policy
    overrides = policy.overrides
    limit = policy.limit_value
    if overrides.time_of_day or overrides.usage_pattern is not None:
        local = now.astimezone(zone_of(policy.timezone))
        factor = EXACT.multiply(
            _of_hour(overrides.time_of_day, local.hour),
            _of_pattern(overrides.usage_pattern, state.hourly_load, local),
        )
        product = EXACT.multiply(Decimal(limit), factor)
        limit = int(product.to_integral_value(rounding=ROUND_FLOOR))
    for emergency in state.emergencies:
        if emergency.starts_at <= now < emergency.effective_until:
            limit += emergency.additional_capacity
    if policy.algorithm is Algorithm.SLIDING_WINDOW_LOG:
        limit = min(limit, MAX_LOG_LIMIT)
    return max(1, limit)


def hours_of_change(state: PolicyState) -> int:
    """After how many hours a limit that changes by itself begins anew; 0: it does not change."""
    overrides = state.policy.overrides
    if overrides.usage_pattern is not None and any(state.hourly_load):
        return HOURS_OF_WEEK
    return 24 if overrides.time_of_day else 0


def ceilings_ahead(state: PolicyState, now: datetime) -> tuple[tuple[int, Ceilings], ...]:
    """The ceilings at each coming local hour of a policy whose limit changes by itself, with when
    it begins: up to where every hour of the day came, or of the week where its limit follows that.
    """
    policy = state.policy
    zone = zone_of(policy.timezone)
    hours = hours_of_change(state)
    # a change of clocks skips hours, which come a day or a week later
    awaited = set(range(hours))
    ahead: list[tuple[int, Ceilings]] = []
    moment, local = now, now.astimezone(zone)
    while awaited:
        moment += timedelta(hours=1) - timedelta(
            minutes=local.minute, seconds=local.second, microseconds=local.microsecond
        )
        local = moment.astimezone(zone)
        awaited.discard((local.weekday() * 24 + local.hour) % hours)
        capacity = effective_limit(state, moment) + policy.burst_capacity
        ahead.append((to_us(moment), ceilings_of(capacity)))
    return tuple(ahead)


def greatest_ceilings(state: PolicyState) -> Ceilings:
    """No less than what `ceilings_ahead` can come to."""
    emergency = sum(one.additional_capacity for one in state.emergencies)
    return ceilings_of(greatest_limit(state.policy, emergency) + state.policy.burst_capacity)


def greatest_limit(policy: Policy, emergency: int = 0) -> int:
    """The most that the effective limit can come to, for checking that it can be counted."""
    # at hours without a multiplier, and until a usage pattern is known, it is 1
    factor = max([ONE, *(hours.multiplier for hours in policy.overrides.time_of_day)])
    if policy.overrides.usage_pattern is not None:
        factor = EXACT.multiply(factor, max(ONE, policy.overrides.usage_pattern.max_multiplier))
    product = EXACT.multiply(Decimal(policy.limit_value), factor)
    return int(product.to_integral_value(rounding=ROUND_FLOOR)) + emergency


def is_within(hours: HourRange, hour: int) -> bool:
    """Whether a local hour lies in a range; one that ends before it begins crosses midnight."""
    if hours.from_hour < hours.to_hour:
        return hours.from_hour <= hour < hours.to_hour
    return hour >= hours.from_hour or hour < hours.to_hour


def calendar_ends(unit: CalendarUnit, timezone: str, now: datetime) -> tuple[int, ...]:
    """The ends of the calendar windows before, around and after `now`, in microseconds."""
    if unit is CalendarUnit.HOUR:
        return _hour_ends(timezone, now)
    day = local_day(now, timezone)
    edges: Sequence[int]
    if unit is CalendarUnit.DAY:
        edges = range(day, day + 3)
    elif unit is CalendarUnit.WEEK:
        monday = day - (day - 1) % 7
        edges = range(monday, monday + 21, 7)
    else:
        local = date.fromordinal(day)
        month = local.year * 12 + local.month - 1
        edges = [month_start(one) for one in range(month, month + 3)]
    return tuple(to_us(day_start(edge, timezone)) for edge in edges)


def _hour_ends(timezone: str, now: datetime) -> tuple[int, ...]:
    """Hours that begin at whole local hours; a zone's offset is taken as it is at `now`."""
    offset = now.astimezone(zone_of(timezone)).utcoffset() or timedelta()
    hour = timedelta(hours=1)
    local = now - EPOCH + offset
    begin = to_us(EPOCH + local // hour * hour - offset)
    return begin, begin + 3_600_000_000, begin + 7_200_000_000


def _of_hour(ranges: list[HourRange], hour: int) -> Decimal:
    for hours in ranges:
        if is_within(hours, hour):
            return hours.multiplier
    return ONE


def _of_pattern(
    pattern: UsagePattern | None, hourly_load: tuple[int, ...], local: datetime
) -> Decimal:
    total = sum(hourly_load)
    if pattern is None or total == 0:
        return ONE
    load = hourly_load[local.weekday() * 24 + local.hour]
    # usual load of this hour over the average one, to 12 places
    usual = EXACT.divide(Decimal(load * HOURS_OF_WEEK), Decimal(total)).quantize(
        Decimal("1e-12"), context=EXACT
    )
    return min(max(usual, pattern.min_multiplier), pattern.max_multiplier)


def still_hold(emergencies: Sequence[Emergency], now: datetime) -> tuple[Emergency, ...]:
    """Those that hold now or will, or would once approved."""
    return tuple(one for one in emergencies if now < one.ends_at)

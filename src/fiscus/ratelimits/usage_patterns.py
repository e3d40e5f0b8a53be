"""The usual load of each hour of the week, learned from use that is past.

Learned are whole weeks that end at a local midnight, the last four or as many as are known, so that
each hour of the week counts equally often. Past use comes summed by quarter hours, of which the
local hours of every zone of our time are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from fiscus.clock import from_us
from fiscus.ratelimits.limits import HOURS_OF_WEEK, MIN_WEEKS
from fiscus.zones import day_start, local_day, zone_of

MAX_WEEKS: Final = 4
QUARTER_US: Final = 900_000_000
WRITTEN_AFTER: Final = timedelta(minutes=10)
"""Use is written behind: a day that ended so long ago is taken to be complete."""


class Load(NamedTuple):
    """Requests that came from quarter hour `first` to quarter hour `last`, counted from 1970."""

    first: int
    last: int
    requests: int


def weeks_end(now: datetime, timezone: str) -> datetime:
    """The end of the weeks to learn from at `now`: a local midnight."""
    return day_start(local_day(now - WRITTEN_AFTER, timezone), timezone)


def weeks_begin(end: datetime, timezone: str, known_since: datetime) -> datetime | None:
    """Where the weeks to learn from begin, when use is known since then.

    None while fewer than `limits.MIN_WEEKS` whole weeks are known.
    """
    day = local_day(end, timezone)
    for weeks in range(MAX_WEEKS, MIN_WEEKS - 1, -1):
        begin = day_start(day - 7 * weeks, timezone)
        if known_since <= begin:
            return begin
    return None


def hourly_load(loads: Iterable[Load], timezone: str) -> tuple[int, ...]:
    """Requests of each hour of the week, Monday 00:00 local first; empty when there were none.

    A load that spans several quarter hours is spread over them evenly, down to whole requests.
    """
    zone = zone_of(timezone)
    hours = [0] * HOURS_OF_WEEK
    for first, last, requests in loads:
        quarters = last - first + 1
        before = 0
        for place in range(1, quarters + 1):
            so_far = requests * place // quarters
            local = from_us((first + place - 1) * QUARTER_US).astimezone(zone)
            hours[local.weekday() * 24 + local.hour] += so_far - before
            before = so_far
    return tuple(hours) if any(hours) else ()

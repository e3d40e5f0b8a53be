"""The time of a report: its periods, the slices that are summed, the range before.

All of it is computed here, in IANA zones; stores only compare moments.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, NamedTuple

from fiscus.costs.port import TimeSlice
from fiscus.costs.report_model import Granularity
from fiscus.costs.rollups import QUARTER_HOUR, bucket_of, quarter_hours_within
from fiscus.errors import ValidationError
from fiscus.zones import day_start, first_instant, local_day, month_start, zone_of

MAX_RANGE: Final = timedelta(days=3660)
MAX_PERIODS: Final = 10_000
_OLDEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEWEST: Final = datetime(9990, 1, 1, tzinfo=UTC)


class TimeRange(NamedTuple):
    """`[start, end)`, in UTC."""

    start: datetime
    end: datetime


class TimePeriod(NamedTuple):
    """A period of local time, clipped to the report's range."""

    label: str
    start: datetime
    end: datetime


def report_range(
    start: datetime | None, end: datetime | None, timezone: str, now: datetime
) -> TimeRange:
    """The range asked for, by default the present month up to the end of the present quarter hour,
    or the month of an earlier end.

    Raises `ValidationError` naming the date that is wrong.
    """
    end = within_reach(bucket_of(now) + QUARTER_HOUR if end is None else end, "end_date")
    if start is None:
        day = _local_day(min(now, end - timedelta(microseconds=1)), timezone)
        start = day_start(day.replace(day=1).toordinal(), timezone)
    start = within_reach(start, "start_date")
    if end <= start:
        raise ValidationError.of_field(
            "end_date", "must be after start_date", "Send a later end_date."
        )
    if end - start > MAX_RANGE:
        raise ValidationError.of_field(
            "start_date", "is too early", "Ask for at most ten years at a time."
        )
    return TimeRange(start, end)


def within_reach(moment: datetime, field: str) -> datetime:
    """`moment` in UTC. Raises `ValidationError` naming `field` where costs cannot be."""
    # Compared before it is converted: that far out, conversion overflows.
    if not _OLDEST <= moment < _NEWEST:
        todo = f"Send a time from {_OLDEST.year} to {_NEWEST.year - 1}."
        raise ValidationError.of_field(field, "is out of range", todo)
    return moment.astimezone(UTC)


def previous_range(current: TimeRange, timezone: str) -> TimeRange:
    """The range before, which people compare `current` with.

    Whole months: as many months. A part of a month from its start: the same part of the month
    before, to the same day and local time. Whole days: as many days. Else the same length of time.
    """
    start, end = current
    first, last = _local_day(start, timezone), _local_day(end, timezone)
    if start == _start_of(first, timezone):
        if first.day == 1:
            month, until = _month_number(first), _month_number(last)
            before = day_start(month_start(month - 1), timezone)
            if until > month and end == day_start(month_start(until), timezone):
                return TimeRange(day_start(month_start(2 * month - until), timezone), start)
            if until == month:
                same = _month_earlier(end, last, timezone)
                if same <= before:  # a clock set back shows the month's first midnight again
                    same = before + (end - start)
                return TimeRange(before, min(same, start))
        if end == _start_of(last, timezone):
            return TimeRange(day_start(2 * first.toordinal() - last.toordinal(), timezone), start)
    return TimeRange(start - (end - start), start)


def periods_of(
    whole: TimeRange, granularity: Granularity | None, timezone: str
) -> list[TimePeriod]:
    """The periods that tile `whole`; without a granularity one, without a label.

    Raises `ValidationError` naming `granularity` for more than `MAX_PERIODS`.
    """
    if granularity is None:
        return [TimePeriod("", *whole)]
    found: list[TimePeriod] = []
    at = whole.start
    while at < whole.end:
        if len(found) == MAX_PERIODS:
            raise ValidationError.of_field(
                "granularity",
                f"gives more than {MAX_PERIODS} periods",
                "Ask for longer periods or a shorter range.",
            )
        label, following = _period_at(at, granularity, timezone)
        found.append(TimePeriod(label, at, min(following, whole.end)))
        at = following
    return found


def slices_of(periods: Sequence[TimePeriod]) -> Iterator[TimeSlice]:
    """The periods cut at every UTC midnight, because rates are of UTC days."""
    for index, (_, start, end) in enumerate(periods):
        at = start
        while at < end:
            midnight = datetime.combine(at.date() + timedelta(days=1), time(), UTC)
            yield TimeSlice(at, min(midnight, end), index)
            at = midnight


def split_slices(slices: Sequence[TimeSlice]) -> tuple[list[TimeSlice], list[TimeSlice]]:
    """The whole quarter hours of each slice, and the parts of quarter hours at its ends."""
    whole: list[TimeSlice] = []
    parts: list[TimeSlice] = []
    for time_slice in slices:
        start, end, period = time_slice
        inner = quarter_hours_within(start, end)
        if inner is None:
            parts.append(time_slice)
            continue
        whole.append(TimeSlice(*inner, period))
        if start < inner[0]:
            parts.append(TimeSlice(start, inner[0], period))
        if inner[1] < end:
            parts.append(TimeSlice(inner[1], end, period))
    return whole, parts


def _period_at(moment: datetime, granularity: Granularity, timezone: str) -> tuple[str, datetime]:
    """The label of the period `moment` falls in, and when the next begins."""
    if granularity is Granularity.HOUR:
        return _hour_at(moment, timezone)
    day = _local_day(moment, timezone)
    match granularity:
        case Granularity.DAY:
            return day.isoformat(), day_start(day.toordinal() + 1, timezone)
        case Granularity.WEEK:
            year, week, weekday = day.isocalendar()
            following = day.toordinal() + 8 - weekday
            return f"{year:04}-W{week:02}", day_start(following, timezone)
        case Granularity.MONTH:
            following = month_start(_month_number(day) + 1)
            return f"{day:%Y-%m}", day_start(following, timezone)


def _hour_at(moment: datetime, timezone: str) -> tuple[str, datetime]:
    """As `_period_at`. The label has the offset, so that an hour shown twice is two periods."""
    zone = zone_of(timezone)
    local = moment.astimezone(zone)
    begun = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    following = moment + (timedelta(hours=1) - begun)
    # The clocks may change in between, mostly on a quarter hour.
    since = moment
    until = bucket_of(moment) + QUARTER_HOUR
    while since < following:
        if until.astimezone(zone).utcoffset() != local.utcoffset():
            following = min(following, _change_between(since, until, zone))
        since, until = until, until + QUARTER_HOUR
    # By its text, to keep the offset of `moment`: the full hour before may have had another.
    text = local.isoformat(timespec="hours")
    return f"{text[:13]}:00:00{text[13:]}", following


def _change_between(since: datetime, until: datetime, zone: tzinfo) -> datetime:
    """The first whole second at which the clocks of `zone` are not as at `since`."""
    offset = since.astimezone(zone).utcoffset()
    second = since.replace(microsecond=0)
    later = bisect_left(
        range(int((until - second).total_seconds())),
        True,
        key=lambda after: (
            (second + timedelta(seconds=after)).astimezone(zone).utcoffset() != offset
        ),
    )
    return second + timedelta(seconds=later)


def _month_earlier(moment: datetime, day: date, timezone: str) -> datetime:
    """The same day and local time of the month before; beyond that month when it is shorter.

    `day` is the local day of `moment`.
    """
    earlier = month_start(_month_number(day) - 1) + day.day - 1
    # Not by the time it shows: where midnight is skipped, a day begins at another.
    if moment == _start_of(day, timezone):
        return day_start(earlier, timezone)
    shown = moment.astimezone(zone_of(timezone)).replace(tzinfo=None)
    since_midnight = shown - datetime.combine(day, time())
    return first_instant(
        datetime.combine(date.fromordinal(earlier), time()) + since_midnight, timezone
    )


def _local_day(moment: datetime, timezone: str) -> date:
    return date.fromordinal(local_day(moment, timezone))


def _start_of(day: date, timezone: str) -> datetime:
    return day_start(day.toordinal(), timezone)


def _month_number(day: date) -> int:
    return day.year * 12 + day.month - 1

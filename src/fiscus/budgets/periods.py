"""Periods: which half-open stretch of time a moment belongs to, in an IANA time zone.

A period is derived from a schedule and a moment, never stored as a running counter. Days are whole
local days: day D begins at the first instant whose local time is D 00:00 or later. So a midnight
that daylight saving skips begins its day at the first instant that exists, a midnight that happens
twice begins it at the first, and days follow one another without gap or overlap in every zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from fiscus.errors import ValidationError

FAR_FUTURE: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""The end of a period that has none; no period reaches beyond it."""

MAX_ROLLING_DAYS: Final = 3660

# No period reaches before this. Both limits leave `datetime` room for any zone's offset.
_DAWN: Final = datetime(2, 1, 1, tzinfo=UTC)
_FIRST_DAY: Final = date(1, 1, 3).toordinal()
_LAST_DAY: Final = date(9999, 12, 29).toordinal()
_SECOND: Final = timedelta(seconds=1)


class PeriodType(StrEnum):
    """How often a budget starts afresh; `project` and `custom` never do."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"
    YEARLY = "yearly"
    ROLLING = "rolling"
    PROJECT = "project"
    CUSTOM = "custom"


class Period(NamedTuple):
    """A half-open stretch `[start, end)`; both are aware and in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a budget or quota applies, and when its usage begins again at zero.

    `start_date` and `end_date` are local dates in `timezone`: the schedule runs from the beginning
    of the first to the beginning of the second, which is exclusive. `rolling_days` is the length of
    a rolling window in local days. `anchor` is the local date a rolling schedule without a start
    date counts its windows from: that of the first charge, stored for good.
    """

    period_type: PeriodType
    timezone: str
    start_date: date | None = None
    end_date: date | None = None
    rolling_days: int = 30
    anchor: date | None = None


def parse_timezone(name: str, field: str = "timezone") -> str:
    """`name` itself when the IANA database (package `tzdata`) lists it.

    Raises `ValidationError` naming `field` otherwise; paths are not looked at.
    """
    if name not in _zone_names():
        raise ValidationError(
            f"{field} is not a known IANA time zone",
            field=field,
            suggested_action="Send a name such as Europe/Berlin, America/New_York or UTC.",
        )
    return name


def validate_schedule(schedule: Schedule) -> None:
    """Raise `ValidationError`, naming the field, for a schedule that no budget may have."""
    parse_timezone(schedule.timezone)
    if not 1 <= schedule.rolling_days <= MAX_ROLLING_DAYS:
        raise ValidationError(
            f"rolling_days must be between 1 and {MAX_ROLLING_DAYS}",
            field="rolling_days",
            suggested_action="Send the length of a window in days, such as 30.",
        )
    dated = schedule.period_type in (PeriodType.PROJECT, PeriodType.CUSTOM)
    if dated and schedule.start_date is None:
        raise _date_needed(schedule.period_type, "start_date")
    if schedule.period_type is PeriodType.CUSTOM and schedule.end_date is None:
        raise _date_needed(schedule.period_type, "end_date")
    opens, closes = _bounds(schedule)
    if opens >= FAR_FUTURE:
        raise ValidationError(
            "start_date is out of range: it must be before the year 9999",
            field="start_date",
            suggested_action="Send the first day on which the budget applies.",
        )
    if closes <= opens:
        raise ValidationError(
            "end_date must be after start_date" if schedule.start_date else "end_date is too early",
            field="end_date",
            suggested_action="Send the first day on which the budget no longer applies.",
        )


def period_at(schedule: Schedule, moment: datetime) -> Period | None:
    """The period that `moment` (aware) falls in, or None when the schedule does not apply then.

    Calendar periods and windows are clipped to the schedule's dates. A rolling schedule that has
    neither start date nor anchor counts, for the time being, from the local date of `moment`.
    """
    opens, closes = _bounds(schedule)
    if not opens <= moment < closes:
        return None
    zone = schedule.timezone
    day = moment.astimezone(_zone(zone)).toordinal()
    first, following = _days_of_period(schedule, day)
    end = _day_start(following, zone)
    if moment >= end:
        # A clock set back over midnight shows the old date again, after the new day has begun.
        first, following = _days_of_period(schedule, following)
        end = _day_start(following, zone)
    return Period(max(_day_start(first, zone), opens), min(end, closes))


def period_after(schedule: Schedule, period: Period) -> Period | None:
    """The period that follows `period` with usage at zero again, or None when there is none.

    `project` and `custom` never start again; the others do until the end date.
    """
    return period_at(schedule, period.end)


def first_anchor(timezone: str, moment: datetime) -> date:
    """The local date of `moment` (aware): the anchor that a first charge gives a rolling budget."""
    within = min(max(moment, _DAWN), FAR_FUTURE)
    return within.astimezone(_zone(timezone)).date()


def _bounds(schedule: Schedule) -> tuple[datetime, datetime]:
    """The instants between which the schedule applies."""
    start, end, zone = schedule.start_date, schedule.end_date, schedule.timezone
    return (
        _DAWN if start is None else _day_start(start.toordinal(), zone),
        FAR_FUTURE if end is None else _day_start(end.toordinal(), zone),
    )


def _days_of_period(schedule: Schedule, day: int) -> tuple[int, int]:
    """The first day of the unclipped period around `day`, and of the next; proleptic ordinals."""
    match schedule.period_type:
        case PeriodType.DAILY:
            return day, day + 1
        case PeriodType.WEEKLY:
            monday = day - (day - 1) % 7  # ordinal 1, 0001-01-01, is a Monday
            return monday, monday + 7
        case PeriodType.MONTHLY:
            return _months_around(day, 1)
        case PeriodType.QUARTERLY:
            return _months_around(day, 3)
        case PeriodType.YEARLY:
            return _months_around(day, 12)
        case PeriodType.ROLLING:
            base = schedule.start_date or schedule.anchor
            length = schedule.rolling_days
            first = day if base is None else day - (day - base.toordinal()) % length
            return first, first + length
        case PeriodType.PROJECT | PeriodType.CUSTOM:  # a single one, clipped to the dates
            return _FIRST_DAY, _LAST_DAY


def _months_around(day: int, length: int) -> tuple[int, int]:
    """As `_days_of_period` for periods of `length` months, counted from January."""
    local = date.fromordinal(day)
    month = local.year * 12 + (local.month - 1) // length * length
    return _month_start(month), _month_start(month + length)


def _month_start(month: int) -> int:
    """The ordinal of the first day of `month`, counted from January of the year 0."""
    year, index = divmod(month, 12)
    return date(year, index + 1, 1).toordinal() if year <= date.max.year else _LAST_DAY


@lru_cache(maxsize=65_536)
def _day_start(day: int, timezone: str) -> datetime:
    """The first instant, in UTC, whose local time is `day` (an ordinal) 00:00 or later.

    Kept between `_DAWN` and `FAR_FUTURE`.
    """
    if day <= _FIRST_DAY:
        return _DAWN
    if day >= _LAST_DAY:
        return FAR_FUTURE
    zone = _zone(timezone)
    midnight = datetime.combine(date.fromordinal(day), time())
    # fold=0 (PEP 495): the first of two such midnights, or the offset before a gap.
    instant = midnight.replace(tzinfo=zone).astimezone(UTC)
    if _local(instant, zone) != midnight:
        instant = _end_of_gap(midnight, zone)
    return min(max(instant, _DAWN), FAR_FUTURE)


def _end_of_gap(missing: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the local clock jumps over `missing`, a local time never shown."""
    before = missing.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = missing.replace(tzinfo=zone, fold=0).astimezone(UTC)
    # Read with the later offset `missing` lies before the jump, with the earlier one not before
    # it. Offsets change on whole seconds.
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if _local(middle, zone) < missing:
            before = middle
        else:
            after = middle
    return after


def _local(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@cache
def _zone_names() -> frozenset[str]:
    # One list on every host; the file system's own would also offer `localtime` and the like.
    names = frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split())
    return names - {"Factory"}


def _date_needed(period_type: PeriodType, field: str) -> ValidationError:
    return ValidationError(
        f"{field} is required when period_type is {period_type}",
        field=field,
        suggested_action="Send a date such as 2026-01-31.",
    )

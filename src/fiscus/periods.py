"""Periods: which half-open stretch of time a moment belongs to, in an IANA time zone.

A period is derived from a schedule and a moment, never stored as a running counter. It consists of
whole local days, which `fiscus.zones` defines.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Final, NamedTuple

from fiscus.errors import ValidationError
from fiscus.zones import (
    DAWN,
    FAR_FUTURE,
    FIRST_DAY,
    LAST_DAY,
    day_start,
    local_day,
    month_start,
    parse_timezone,
)

MAX_ROLLING_DAYS: Final = 3660


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
    opens, closes = bounds(schedule)
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
    opens, closes = bounds(schedule)
    if not opens <= moment < closes:
        return None
    zone = schedule.timezone
    first, following = _days_of_period(schedule, local_day(moment, zone))
    return Period(max(day_start(first, zone), opens), min(day_start(following, zone), closes))


def period_after(schedule: Schedule, period: Period) -> Period | None:
    """The period that follows `period` with usage at zero again, or None when there is none.

    `project` and `custom` never start again; the others do until the end date.
    """
    return period_at(schedule, period.end)


def bounds(schedule: Schedule) -> Period:
    """The stretch of time in which the schedule applies."""
    start, end, zone = schedule.start_date, schedule.end_date, schedule.timezone
    return Period(
        DAWN if start is None else day_start(start.toordinal(), zone),
        FAR_FUTURE if end is None else day_start(end.toordinal(), zone),
    )


def first_anchor(timezone: str, moment: datetime) -> date:
    """The local date of `moment` (aware): the anchor that a first charge gives a rolling budget."""
    within = min(max(moment, DAWN), FAR_FUTURE)
    return date.fromordinal(local_day(within, timezone))


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
            return FIRST_DAY, LAST_DAY


def _months_around(day: int, length: int) -> tuple[int, int]:
    """As `_days_of_period` for periods of `length` months, counted from January."""
    local = date.fromordinal(day)
    month = local.year * 12 + (local.month - 1) // length * length
    return month_start(month), month_start(month + length)


def _date_needed(period_type: PeriodType, field: str) -> ValidationError:
    return ValidationError(
        f"{field} is required when period_type is {period_type}",
        field=field,
        suggested_action="Send a date such as 2026-01-31.",
    )

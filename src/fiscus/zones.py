"""Local days and months in IANA time zones, as stretches of real time.

Day D begins at the first instant whose local time is D 00:00 or later. So a midnight that daylight
saving skips begins its day at the first instant that exists, a midnight that happens twice begins
it at the first, and days follow one another without gap or overlap in every zone.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final
from zoneinfo import ZoneInfo

from fiscus.errors import ValidationError

FAR_FUTURE: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""The end of a period that has none; no period reaches beyond it."""

DAWN: Final = datetime(2, 1, 1, tzinfo=UTC)
"""No period reaches before this. Both limits leave `datetime` room for any zone's offset."""

FIRST_DAY: Final = date(1, 1, 3).toordinal()
LAST_DAY: Final = date(9999, 12, 29).toordinal()
_SECOND: Final = timedelta(seconds=1)


def in_utc(moment: datetime, field: str) -> datetime:
    """`moment`, which has some offset, in UTC.

    Raises `ValidationError` naming `field` at the ends of time: there some zones have no moments,
    and a moment of another zone none in UTC.
    """
    if not DAWN <= moment <= FAR_FUTURE:
        raise ValidationError(
            f"{field} is out of range: times lie between the years 2 and 9998",
            field=field,
            suggested_action="Send a moment in that range.",
        )
    return moment.astimezone(UTC)


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


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """The zone of a name that `parse_timezone` let pass."""
    return ZoneInfo(name)


def local_day(moment: datetime, timezone: str) -> int:
    """The ordinal of the local day in which `moment` lies."""
    day = moment.astimezone(zone_of(timezone)).toordinal()
    # A clock set back over midnight shows the old date again, after the new day has begun.
    return day + 1 if moment >= day_start(day + 1, timezone) else day


@lru_cache(maxsize=65_536)
def day_start(day: int, timezone: str) -> datetime:
    """The first instant, in UTC, whose local time is `day` (an ordinal) 00:00 or later.

    Kept between `DAWN` and `FAR_FUTURE`.
    """
    if day <= FIRST_DAY:
        return DAWN
    if day >= LAST_DAY:
        return FAR_FUTURE
    return first_instant(datetime.combine(date.fromordinal(day), time()), timezone)


def first_instant(shown: datetime, timezone: str) -> datetime:
    """The first instant, in UTC, whose local time is `shown`, or later where that is skipped.

    Kept between `DAWN` and `FAR_FUTURE`; `shown` lies between `FIRST_DAY` and `LAST_DAY`.
    """
    zone = zone_of(timezone)
    # fold=0 (PEP 495): the first of two such times, or the offset before a gap.
    instant = shown.replace(tzinfo=zone).astimezone(UTC)
    if _local(instant, zone) != shown:
        instant = _end_of_gap(shown, zone)
    return min(max(instant, DAWN), FAR_FUTURE)


def month_start(month: int) -> int:
    """The ordinal of the first day of `month`, counted from January of the year 0."""
    year, index = divmod(month, 12)
    return date(year, index + 1, 1).toordinal() if year <= date.max.year else LAST_DAY


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


@cache
def _zone_names() -> frozenset[str]:
    # One list on every host; the file system's own would also offer `localtime` and the like.
    names = frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split())
    return names - {"Factory"}

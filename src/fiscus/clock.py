"""Time comes in through a `Clock`, once per request, so that tests can move it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from fiscus.errors import ValidationError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    def now(self) -> datetime:
        """The present moment, aware, in UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is moved; for tests and simulations."""

    def __init__(self, start: datetime) -> None:
        self._now = require_aware(start, "start").astimezone(UTC)

    def now(self) -> datetime:
        return self._now

    def advance(self, **delta: float) -> datetime:
        """Move by `timedelta(**delta)`; negative moves back, as a real clock may."""
        self._now += timedelta(**delta)
        return self._now

    def set(self, moment: datetime) -> None:
        self._now = require_aware(moment, "moment").astimezone(UTC)


def require_aware(moment: datetime, field: str) -> datetime:
    """`moment` itself, or `ValidationError` naming `field` when it has no zone."""
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ValidationError(
            f"{field} has no time zone",
            field=field,
            suggested_action="Send an RFC 3339 time with an offset, such as 2026-01-31T09:00:00Z.",
        )
    return moment


def to_us(moment: datetime) -> int:
    """Microseconds since the Unix epoch, exact; `moment` is aware."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_us(us: int) -> datetime:
    """The moment so many microseconds after the Unix epoch, in UTC."""
    return EPOCH + timedelta(microseconds=us)

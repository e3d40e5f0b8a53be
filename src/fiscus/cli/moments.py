"""Days and times as options."""

from __future__ import annotations

from datetime import UTC, date, datetime

from fiscus.cli.terminal import UsageError


def moment_option(text: str | None, option: str) -> datetime | None:
    """A day (its begin in UTC) or an RFC 3339 time. Raises `UsageError` naming the option."""
    if text is None:
        return None
    try:
        if len(text) == len("2026-01-31"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} is not a date or time: {text}",
            suggested_action="write 2026-01-31 or 2026-01-31T09:00:00Z.",
        ) from None
    if moment.tzinfo is None:
        raise UsageError(
            f"{option} has no time zone: {text}", suggested_action=f"write {text}Z for UTC."
        )
    return moment

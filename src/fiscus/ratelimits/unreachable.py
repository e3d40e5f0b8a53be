"""What callers hear of counters that cannot be reached."""

from __future__ import annotations

from typing import Final

from fiscus.errors import OutcomeUnknown, ServiceUnavailable
from fiscus.ratelimits.port import CountersUnavailable

AGAIN: Final = "Try again after the time in Retry-After."


def unavailable(suggested_action: str = AGAIN) -> ServiceUnavailable:
    """Nothing was done, or it may be done again."""
    return ServiceUnavailable(
        "The counters of rate limits cannot be reached",
        suggested_action=suggested_action,
        retry_after_seconds=1,
    )


def not_corrected(error: CountersUnavailable, suggested_action: str = AGAIN) -> ServiceUnavailable:
    """Of a correction. It is only retriable when it surely was not made: twice is another one."""
    if error.nothing_done:
        return unavailable(suggested_action)
    return OutcomeUnknown(
        "The counters of rate limits did not answer in time; the correction may have been made",
        suggested_action="Look at the counter before it is corrected again.",
    )

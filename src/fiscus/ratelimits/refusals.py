"""A denied check as an error, for callers that asked for refusals to be errors."""

from __future__ import annotations

from msgspec.structs import asdict

from fiscus.errors import RateLimitViolated
from fiscus.ratelimits.calls import RateLimitCheckAnswer


def refusal(answer: RateLimitCheckAnswer) -> RateLimitViolated:
    """The error of a denial; it is retriable unless waiting can never help."""
    error = RateLimitViolated(
        answer.message,
        answer=answer,
        details=asdict(answer),
        suggested_action="Ask for less at once."
        if answer.retry_after is None
        else "Try again after retry_after seconds.",
        retry_after_seconds=answer.retry_after,
    )
    error.retriable = answer.retry_after is not None
    return error

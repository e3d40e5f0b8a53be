"""A denied check as an error, for callers that asked for refusals to be errors."""

from __future__ import annotations

from msgspec.structs import asdict

from fiscus.errors import QuotaExhausted
from fiscus.quotas.calls import QuotaCheckAnswer


def refusal(answer: QuotaCheckAnswer) -> QuotaExhausted:
    """The error of a denial, with the whole answer as its details."""
    return QuotaExhausted(
        answer.message,
        answer=answer,
        details=asdict(answer),
        suggested_action="Ask for max_allowed_amount or less, or wait until fits_at."
        if answer.matched
        else "Allocate a quota for it.",
    )

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
        suggested_action=_what_helps(answer),
    )


def _what_helps(answer: QuotaCheckAnswer) -> str:
    """Names no field that says nothing."""
    lower, wait = bool(answer.max_allowed_amount), answer.fits_at is not None
    if lower and wait:
        return "Ask for max_allowed_amount or less, or wait until fits_at."
    if lower:
        return "Ask for max_allowed_amount or less."
    if wait:
        return "Wait until fits_at."
    return "Ask for more of the quota." if answer.matched else "Allocate a quota for it."

"""A denied check as an error, for callers that asked for refusals to be errors."""

from __future__ import annotations

from msgspec.structs import asdict

from fiscus.budgets.calls import CheckAnswer
from fiscus.errors import BudgetExceeded, RateLimitViolated, Refused


def refusal(answer: CheckAnswer) -> Refused:
    """`BudgetExceeded`, or `RateLimitViolated` when a throttled budget says when to come back."""
    if answer.throttle is not None:
        return RateLimitViolated(
            answer.message,
            answer=answer,
            details=asdict(answer),
            suggested_action="Try again after throttle.retry_after_ms.",
            retry_after_seconds=max(1, -(-answer.throttle.retry_after_ms // 1000)),
        )
    return BudgetExceeded(
        answer.message,
        answer=answer,
        details=asdict(answer),
        suggested_action=_what_helps(answer),
    )


def _what_helps(answer: CheckAnswer) -> str:
    """Names no field that says nothing."""
    lower, wait = bool(answer.max_allowed_cost), answer.fits_at is not None
    if lower and wait:
        return "Lower the estimate to max_allowed_cost, or wait until fits_at."
    if lower:
        return "Lower the estimate to max_allowed_cost."
    if wait:
        return "Wait until fits_at."
    if answer.budget_id is None:
        return "Make a budget for it."
    return "Have the budget raised or unfrozen."

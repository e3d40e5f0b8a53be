"""Checks as blocks take them: a denial as an error, and the answer when there is none."""

from __future__ import annotations

from msgspec.structs import asdict

from fiscus.budgets.calls import CheckAnswer
from fiscus.errors import BudgetExceeded, RateLimitViolated, Refused, ServiceUnavailable


def refusal(answer: CheckAnswer) -> Refused:
    """`BudgetExceeded`, or `RateLimitViolated` when a throttled budget says when to come back."""
    if answer.throttle is not None:
        return RateLimitViolated(
            answer.message,
            answer=answer,
            details=asdict(answer),
            suggested_action="Try again after retry_after_seconds.",
            retry_after_seconds=max(1, -(-answer.throttle.retry_after_ms // 1000)),
        )
    return BudgetExceeded(
        answer.message,
        answer=answer,
        details=asdict(answer),
        suggested_action="Lower the estimate to max_allowed_cost, or wait until fits_at.",
    )


def allowed_without_decision(error: ServiceUnavailable) -> CheckAnswer:
    """What stands in for an answer where the caller runs operations without one."""
    return CheckAnswer(
        allowed=True,
        budget_id=None,
        remaining_budget=None,
        utilization_ratio=None,
        enforcement_action=None,
        message=f"Allowed without a decision, as on_unreachable says: {error.message}",
        reservation_id=None,
        reservation_status=None,
        expires_at=None,
        requires_approval=False,
        approval_id=None,
        throttle=None,
        max_allowed_cost=None,
        fits_at=None,
        budgets=[],
        receipt_id=None,
        degraded=True,
    )

"""The answer that stands in for a check when there is none."""

from __future__ import annotations

from fiscus.budgets.calls import CheckAnswer
from fiscus.errors import ServiceUnavailable


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

"""`?enforce=true`: a denial as an error, for proxies that go by the status alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer
from fiscus.budgets.refusals import refusal as budget_refusal
from fiscus.errors import Refused, ValidationError
from fiscus.http.fast_lane.decisions import DecisionEndpoint
from fiscus.quotas.calls import QuotaCheckAnswer, QuotaCheckBatchAnswer
from fiscus.quotas.refusals import refusal as quota_refusal
from fiscus.ratelimits.calls import RateLimitBatchAnswer, RateLimitCheckAnswer
from fiscus.ratelimits.refusals import refusal as rate_limit_refusal


def wants_enforcement(decision: DecisionEndpoint, query: bytes) -> bool:
    """Whether a query says so. Raises `ValidationError` when it says anything else."""
    if decision.may_enforce and query in {b"enforce=true", b"enforce=false"}:
        return query == b"enforce=true"
    field = query.split(b"=", 1)[0].decode("ascii", "replace")
    raise ValidationError(
        f"{field} is not a query parameter of this endpoint, or has no such value",
        field=field,
        suggested_action="Only enforce=true and enforce=false are known, on checks."
        if decision.may_enforce
        else "Send no query parameters.",
    )


def refusal_of(outcome: Any) -> Refused:
    """A denial as an error, for proxies that go by the status alone; its details are the answer.

    A batch is refused as its first denial is; what its other checks hold and took is theirs still.
    """
    if isinstance(outcome, CheckBatchAnswer | RateLimitBatchAnswer | QuotaCheckBatchAnswer):
        results: Sequence[CheckAnswer | RateLimitCheckAnswer | QuotaCheckAnswer] = outcome.results
        error = refusal_of(next(one for one in results if not one.allowed))
        error.details = asdict(outcome)
        return error
    if isinstance(outcome, RateLimitCheckAnswer):
        return rate_limit_refusal(outcome)
    if isinstance(outcome, QuotaCheckAnswer):
        return quota_refusal(outcome)
    assert isinstance(outcome, CheckAnswer)
    return budget_refusal(outcome)


__all__ = ["refusal_of", "wants_enforcement"]

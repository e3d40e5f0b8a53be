"""Errors as answers: one table from codes to statuses, and RFC 9457 bodies."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from fiscus.errors import FiscusError, InternalError
from fiscus.wire.encoding import encode
from fiscus.wire.headers import Headers

PROBLEM_JSON: Final = "application/problem+json"

STATUS_OF: Final[dict[str, int]] = {
    "VALIDATION_ERROR": 400,
    "UNAUTHORIZED": 401,
    "BUDGET_EXCEEDED": 402,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "CONFLICT": 409,
    "IDEMPOTENCY_CONFLICT": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "COST_CALCULATION_ERROR": 422,
    "RATE_LIMIT_VIOLATED": 429,
    "QUOTA_EXHAUSTED": 429,
    "INTERNAL_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}

TITLE_OF: Final[dict[str, str]] = {
    "VALIDATION_ERROR": "The request is not valid",
    "UNAUTHORIZED": "No valid credential was sent",
    "BUDGET_EXCEEDED": "A budget has no room for this operation",
    "FORBIDDEN": "The credential may not do this",
    "NOT_FOUND": "There is no such thing",
    "CONFLICT": "The present state forbids this",
    "IDEMPOTENCY_CONFLICT": "The idempotency key belongs to another request",
    "PAYLOAD_TOO_LARGE": "The request is too large",
    "COST_CALCULATION_ERROR": "The cost cannot be worked out",
    "RATE_LIMIT_VIOLATED": "Too many operations for now",
    "QUOTA_EXHAUSTED": "A quota has no room for this operation",
    "INTERNAL_ERROR": "Fiscus failed",
    "SERVICE_UNAVAILABLE": "Fiscus cannot answer now",
}


class Problem(Struct, frozen=True, kw_only=True):
    """An error answer, as RFC 9457 has it, with Fiscus's own members."""

    type: Annotated[str, Meta(description="A URI that names the kind of error.")]
    title: Annotated[str, Meta(description="The kind of error in words; the same for its kind.")]
    status: Annotated[int, Meta(description="The HTTP status.")]
    detail: Annotated[str, Meta(description="What went wrong this time.")]
    instance: Annotated[str, Meta(description="The path that was called.")]
    error_code: Annotated[str, Meta(description="Stable, for programs.")]
    message: Annotated[str, Meta(description="Equal to `detail`.")]
    details: Annotated[
        dict[str, Any], Meta(description="Facts for programs; `field` names a wrong field.")
    ]
    correlation_id: Annotated[str, Meta(description="Names this request in the logs.")]
    retriable: Annotated[
        bool, Meta(description="Whether the same request may succeed later, unchanged.")
    ]
    suggested_action: Annotated[str | None, Meta(description="What to do, in a sentence.")]
    tenant_id: Annotated[str | None, Meta(description="The tenant of the call, when known.")]


def problem_of(
    error: FiscusError,
    *,
    correlation_id: str,
    tenant_id: str | None,
    instance: str,
    status: int | None = None,
) -> Problem:
    """`error` as a body. `status` overrides the table, for statuses without a code of their own."""
    status = STATUS_OF[error.code] if status is None else status
    return Problem(
        type="urn:fiscus:problem:" + error.code.lower().replace("_", "-"),
        title=TITLE_OF[error.code]
        if status == STATUS_OF[error.code]
        else HTTPStatus(status).phrase,
        status=status,
        detail=error.message,
        instance=instance,
        error_code=error.code,
        message=error.message,
        details=error.details,
        correlation_id=correlation_id,
        retriable=error.retriable,
        suggested_action=error.suggested_action,
        tenant_id=tenant_id,
    )


def request_failed() -> InternalError:
    """The answer to a request that met an error of Fiscus's own; the log has the rest."""
    return InternalError(
        "The request failed", suggested_action="Report it with the correlation_id."
    )


def render_problem(
    error: FiscusError,
    *,
    correlation_id: str,
    tenant_id: str | None,
    instance: str,
    status: int | None = None,
) -> tuple[int, Headers, bytes]:
    """Status, further headers and body of the answer to `error`."""
    problem = problem_of(
        error,
        correlation_id=correlation_id,
        tenant_id=tenant_id,
        instance=instance,
        status=status,
    )
    headers: Headers = []
    retry_after = error.retry_after_seconds
    if retry_after is None and problem.status == 503 and problem.retriable:
        retry_after = 1
    if retry_after is not None:
        headers.append(("Retry-After", str(retry_after)))
    if problem.status == 401:
        headers.append(("WWW-Authenticate", 'Bearer realm="fiscus", ApiKey realm="fiscus"'))
    return problem.status, headers, encode(problem)


__all__ = [
    "PROBLEM_JSON",
    "STATUS_OF",
    "TITLE_OF",
    "Problem",
    "problem_of",
    "render_problem",
    "request_failed",
]

"""Every call that was refused for who made it, even in a part, leaves a log line and a count.

One that the API's own limits hold up leaves a count alone: there may be many.
"""

from __future__ import annotations

from collections.abc import Iterable

from fiscus.access.model import Principal
from fiscus.access.refusals import log_refusal
from fiscus.errors import FiscusError, Forbidden
from fiscus.http.api_limits import ApiLimited
from fiscus.http.monitoring.metrics import Metrics
from fiscus.wire.items import ItemError


def note_refusal(
    error: FiscusError,
    metrics: Metrics,
    *,
    principal: Principal | None,
    path: str,
    correlation_id: str,
) -> None:
    """Log `access_denied` and count it when `error` refuses the caller; count one that has to wait
    for the API's own limits; else nothing."""
    if isinstance(error, ApiLimited):
        metrics.api_limited(error.limit)
        return
    reason = log_refusal(error, principal, path, correlation_id=correlation_id)
    if reason is not None:
        metrics.access_denied(reason)


def note_refused_items(
    errors: Iterable[ItemError | None],
    metrics: Metrics,
    *,
    principal: Principal,
    path: str,
    correlation_id: str,
) -> bool:
    """As `note_refusal`, once for a batch of which some items were refused. Whether there were."""
    for error in errors:
        if error is not None and error.error_code == Forbidden.code:
            refusal = Forbidden(error.message, details=dict(error.details))
            note_refusal(
                refusal, metrics, principal=principal, path=path, correlation_id=correlation_id
            )
            return True
    return False


__all__ = ["note_refusal", "note_refused_items"]

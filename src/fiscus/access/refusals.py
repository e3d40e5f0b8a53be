"""A call that is refused for who made it leaves a log line, whichever way it came in."""

from __future__ import annotations

from fiscus.access.model import Principal
from fiscus.errors import FiscusError, Forbidden, Unauthorized
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)


def log_refusal(
    error: FiscusError, principal: Principal | None, path: str, **known: str
) -> str | None:
    """Log `access_denied` with what else is `known` of the call when `error` refuses the caller.

    Answers the reason to count, `credential`, `tenant` or `role`; None for any other error.
    """
    if isinstance(error, Unauthorized):
        reason = "credential"
    elif isinstance(error, Forbidden):
        reason = "tenant" if error.details.get("field") == "tenant_id" else "role"
    else:
        return None
    log.warning(
        "access_denied",
        reason=reason,
        message=error.message,
        subject=None if principal is None else principal.subject,
        tenant_id=None if principal is None else principal.tenant_id,
        path=path,
        **known,
    )
    return reason


__all__ = ["log_refusal"]

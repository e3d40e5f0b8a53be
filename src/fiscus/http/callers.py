"""Who makes a request that FastAPI serves, and the answer to whom it is refused.

The fast lane, for which one coroutine more is too many, does the same in `DecisionLane.answer`.
"""

from __future__ import annotations

from datetime import datetime

from fastapi import Request, Response

from fiscus.access.model import Principal
from fiscus.errors import FiscusError
from fiscus.http.header_fields import HeaderFields
from fiscus.http.refusals import note_refusal
from fiscus.http.replies import problem_reply
from fiscus.http.sent_once import sent_twice
from fiscus.http.server import Server


async def caller_of(request: Request, server: Server, now: datetime) -> Principal:
    """Who makes a request, whose tenant a problem tells from now on.

    Raises as `Authenticator.authenticate`, and for header fields that were sent twice.
    """
    headers = HeaderFields(request.scope["headers"])
    if (wrong := sent_twice(request.scope["headers"], headers)) is not None:
        raise wrong
    principal = server.authenticator.cached(headers, now)
    if principal is None:
        principal = await server.authenticator.authenticate(headers, now)
    request.scope["state"]["tenant_id"] = principal.tenant_id
    return principal


def refused(
    error: FiscusError, request: Request, server: Server, principal: Principal | None
) -> Response:
    """The answer to `error`, which is noted where it refuses the caller."""
    note_refusal(
        error,
        server.metrics,
        principal=principal,
        path=request.scope["path"],
        correlation_id=request.scope["state"]["correlation_id"],
    )
    return problem_reply(error, request)


__all__ = ["caller_of", "refused"]

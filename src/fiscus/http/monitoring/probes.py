"""Health probes, which anybody may ask, and `/metrics`, which needs a role."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from msgspec import Meta, Struct

from fiscus.access.model import Principal, Role
from fiscus.errors import FiscusError, Forbidden
from fiscus.health import DOWN
from fiscus.http.callers import caller_of, refused
from fiscus.http.monitoring.health import Health
from fiscus.http.monitoring.metrics import CONTENT_TYPE
from fiscus.http.monitoring.most_used import MostUsedReader
from fiscus.http.replies import json_reply
from fiscus.http.server import Server

MAY_SEE_METRICS: Final = frozenset({Role.PLATFORM_ADMIN, Role.SYSTEM_ARCHITECT})
"""Metrics count the calls of all tenants, without naming one; but for `MAY_SEE_MOST_USED`."""
MAY_SEE_MOST_USED: Final = frozenset({Role.PLATFORM_ADMIN})
"""The tenants of what is used most are named."""


class ProbeAnswer(Struct, frozen=True, kw_only=True):
    """The answer of a probe."""

    status: Annotated[str, Meta(description="live; ready or not_ready (with 503).")]
    reasons: Annotated[list[str], Meta(description="Why it is not ready; else empty.")]
    correlation_id: str


def probes_router(server: Server, most_used: MostUsedReader, prefix: str = "") -> APIRouter:
    """`/health`, `/health/live`, `/health/ready` and `/metrics`, below `prefix`."""
    router = APIRouter(prefix=prefix, include_in_schema=False)
    health = Health(server)

    @router.get("/health", name="health")
    async def health_(request: Request) -> Response:
        answer = await health.answer(_correlation_id(request))
        return json_reply(answer, status=503 if answer.status == DOWN else 200)

    @router.get("/health/live", name="live")
    async def live(request: Request) -> Response:
        return json_reply(
            ProbeAnswer(status="live", reasons=[], correlation_id=_correlation_id(request))
        )

    @router.get("/health/ready", name="ready")
    async def ready(request: Request) -> Response:
        reasons = await health.why_not_ready()
        answer = ProbeAnswer(
            status="not_ready" if reasons else "ready",
            reasons=reasons,
            correlation_id=_correlation_id(request),
        )
        return json_reply(answer, status=503 if reasons else 200)

    @router.get("/metrics", name="metrics")
    async def metrics(request: Request) -> Response:
        principal: Principal | None = None
        try:
            principal = await caller_of(request, server, server.engine.clock.now())
            if not principal.roles & MAY_SEE_METRICS:
                wanted = sorted(str(role) for role in MAY_SEE_METRICS)
                raise Forbidden(
                    "This credential may not see metrics",
                    details={"required_roles": wanted},
                    suggested_action=f"Use a credential with one of the roles {', '.join(wanted)}.",
                )
        except FiscusError as error:
            return refused(error, request, server, principal)
        most = await most_used.read() if principal.roles & MAY_SEE_MOST_USED else None
        shown: list[bytes] = []
        for metric in server.metrics.render():
            shown.append(metric)
            await asyncio.sleep(0)  # a thread would hold checks up as long by Python's lock
        if most is not None:
            shown.append(most.render())
        return Response(b"".join(shown), media_type=CONTENT_TYPE)

    _ = (health_, live, ready, metrics)
    return router


def _correlation_id(request: Request) -> str:
    correlation_id: str = request.scope["state"]["correlation_id"]
    return correlation_id

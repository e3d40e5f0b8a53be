"""Endpoints of requests for more of a quota: asked for, listed, approved or rejected."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response
from msgspec.structs import asdict

from fiscus.access.model import Action
from fiscus.http.management.endpoints import Call, Endpoint, NoBody
from fiscus.http.management.queries import NoQuery
from fiscus.http.replies import json_reply
from fiscus.idempotency import ASK_FOR_QUOTA
from fiscus.quotas.calls import (
    QuotaRequestDecision,
    QuotaRequestPage,
    QuotaRequestSpec,
    QuotaRequestView,
)
from fiscus.quotas.model import QuotaRequest
from fiscus.quotas.queries import QuotaRequestQuery

_OF_REQUEST: Final = {"request_id": "The id of the request."}


async def ask_for_quota(call: Call[NoQuery, QuotaRequestSpec]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    request = await call.run(
        call.engine.quotas.ask,
        tenant_id,
        call.body,
        by=call.principal.subject,
        now=call.now,
        idempotency=call.idempotency(tenant_id, ASK_FOR_QUOTA),
    )
    return _answer(request, call, status=201)


async def list_quota_requests(call: Call[QuotaRequestQuery, NoBody]) -> Response:
    query = call.query
    page = await call.run(
        call.engine.quotas.requests,
        call.tenant_for(query.tenant_id),
        query.wanted(),
        query.wanted_page(),
    )
    return json_reply(
        QuotaRequestPage(
            requests=page.items, pagination=page.pagination, correlation_id=call.correlation_id
        )
    )


async def approve_quota_request(call: Call[NoQuery, QuotaRequestDecision]) -> Response:
    return await _decide(call, approve=True)


async def reject_quota_request(call: Call[NoQuery, QuotaRequestDecision]) -> Response:
    return await _decide(call, approve=False)


async def _decide(call: Call[NoQuery, QuotaRequestDecision], *, approve: bool) -> Response:
    request = await call.run(
        call.engine.quotas.decide_request,
        call.tenant_for(call.body.tenant_id),
        call.path_id("request_id", "request"),
        approve=approve,
        comment=call.body.comment,
        by=call.principal.subject,
        now=call.now,
    )
    return _answer(request, call)


def _answer(request: QuotaRequest, call: Call[Any, Any], *, status: int = 200) -> Response:
    view = QuotaRequestView(**asdict(request), correlation_id=call.correlation_id)
    return json_reply(view, status=status)


ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    Endpoint(
        operation="ask_for_quota",
        method="POST",
        path="/quotas/requests",
        tag="Quotas",
        summary="Ask for more of a quota",
        description="The `quota_id` in the example is of another server: `/docs` puts in that of "
        "the quota made there last.",
        handler=ask_for_quota,
        action=Action.ASK_FOR_QUOTA,
        answer=QuotaRequestView,
        query=NoQuery,
        request=QuotaRequestSpec,
        status=201,
        errors=("NOT_FOUND", "CONFLICT", "IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE"),
        idempotent=True,
    ),
    Endpoint(
        operation="list_quota_requests",
        method="GET",
        path="/quotas/requests",
        tag="Quotas",
        summary="List requests for more of a quota",
        handler=list_quota_requests,
        action=Action.VIEW_QUOTAS,
        answer=QuotaRequestPage,
        query=QuotaRequestQuery,
        request=NoBody,
    ),
    Endpoint(
        operation="approve_quota_request",
        method="POST",
        path="/quotas/requests/{request_id}/approve",
        tag="Quotas",
        summary="Approve a request: the quota's allocation grows by the amount asked for",
        description="By another person than the one who asked (403): on `/docs`, authorize with "
        "another key first. One that is decided already, or whose quota's period is over, is a "
        "409.",
        handler=approve_quota_request,
        action=Action.DECIDE_QUOTA_REQUESTS,
        answer=QuotaRequestView,
        query=NoQuery,
        request=QuotaRequestDecision,
        errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_TOO_LARGE"),
        path_notes=_OF_REQUEST,
    ),
    Endpoint(
        operation="reject_quota_request",
        method="POST",
        path="/quotas/requests/{request_id}/reject",
        tag="Quotas",
        summary="Reject a request: the quota stays as it is",
        description="By another person than the one who asked (403): on `/docs`, authorize with "
        "another key first. One that is decided already is a 409: ask again to try it.",
        handler=reject_quota_request,
        action=Action.DECIDE_QUOTA_REQUESTS,
        answer=QuotaRequestView,
        query=NoQuery,
        request=QuotaRequestDecision,
        errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_TOO_LARGE"),
        path_notes=_OF_REQUEST,
    ),
)

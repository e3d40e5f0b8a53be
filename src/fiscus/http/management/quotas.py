"""Endpoints of quotas that people read and manage: definitions, distribution, history.

Checks and releases are in the fast lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastapi import Response
from msgspec.structs import replace

from fiscus.access.model import Action
from fiscus.errors import FiscusError
from fiscus.http.management.endpoints import Call, Endpoint, NoBody
from fiscus.http.management.queries import NoQuery
from fiscus.http.management.versions import etag, expected_version
from fiscus.http.refusals import note_refused_items
from fiscus.http.replies import json_reply
from fiscus.idempotency import ALLOCATE_QUOTA, DISTRIBUTE_QUOTAS
from fiscus.quotas.batches import allocate_each
from fiscus.quotas.calls import (
    AllocateBatchAnswer,
    AllocateBatchRequest,
    DistributeAnswer,
    DistributeRequest,
    QuotaHistory,
    QuotaPage,
    QuotaView,
)
from fiscus.quotas.model import Quota, QuotaSpec
from fiscus.quotas.queries import (
    DeleteQuotaQuery,
    QuotaHistoryQuery,
    QuotaListQuery,
    ReplaceQuotaQuery,
)
from fiscus.quotas.views import view, views_with_use
from fiscus.wire.items import tenant_of_items
from fiscus.wire.queries import TenantQuery

OF_QUOTA: Final = {"quota_id": "The id of the quota."}
"""What the id in a path is."""


async def allocate(call: Call[NoQuery, QuotaSpec]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    once = call.idempotency(tenant_id, ALLOCATE_QUOTA)

    def work() -> Quota:
        return call.engine.quotas.allocate(
            tenant_id, call.body, by=call.principal.subject, now=call.now, idempotency=once
        )

    return await _quota(call, tenant_id, work, status=201)


async def allocate_batch(call: Call[NoQuery, AllocateBatchRequest]) -> Response:
    named = call.body.tenant_id or tenant_of_items(call.body.allocations, call.principal.tenant_id)
    tenant_id = call.tenant_for(named)
    once = call.idempotency(tenant_id, ALLOCATE_QUOTA)

    def allocate_all(specs: Sequence[QuotaSpec]) -> list[Quota | FiscusError]:
        return call.engine.quotas.allocate_batch(
            tenant_id, specs, by=call.principal.subject, now=call.now, idempotency=once
        )

    answer = await call.run(allocate_each, call.body, tenant_id, allocate_all)
    note_refused_items(
        (one.error for one in answer.results),
        call.server.metrics,
        principal=call.principal,
        path=call.request.scope["path"],
        correlation_id=call.correlation_id,
    )
    return json_reply(replace(answer, correlation_id=call.correlation_id))


async def distribute(call: Call[NoQuery, DistributeRequest]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    answer = await call.run(
        call.engine.quotas.distribute,
        tenant_id,
        call.body,
        by=call.principal.subject,
        now=call.now,
        idempotency=call.idempotency(tenant_id, DISTRIBUTE_QUOTAS),
    )
    return json_reply(replace(answer, correlation_id=call.correlation_id))


async def list_quotas(call: Call[QuotaListQuery, NoBody]) -> Response:
    query = call.query
    tenant_id = call.tenant_for(query.tenant_id)
    wanted, wanted_page = query.wanted(call.now), query.wanted_page()

    def look() -> QuotaPage:
        page = call.engine.quotas.list(tenant_id, wanted, wanted_page)
        return QuotaPage(
            quotas=views_with_use(call.engine.quotas, tenant_id, page.items),
            pagination=page.pagination,
            correlation_id=call.correlation_id,
        )

    return json_reply(await call.run(look))


async def get_quota(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    quota_id = call.path_id("quota_id", "quota")
    return await _quota(call, tenant_id, lambda: call.engine.quotas.get(tenant_id, quota_id))


async def get_quota_version(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    quota_id, version = call.path_id("quota_id", "quota"), call.path_version()
    quota = await call.run(call.engine.quotas.get, tenant_id, quota_id, version)
    answer = replace(view(quota), correlation_id=call.correlation_id)
    return json_reply(answer, headers=etag(quota.version))


async def replace_quota(call: Call[ReplaceQuotaQuery, QuotaSpec]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    quota_id = call.path_id("quota_id", "quota")
    version = expected_version(call, call.body.version)

    def work() -> Quota:
        return call.engine.quotas.replace(
            tenant_id,
            quota_id,
            call.body,
            expected_version=version,
            force=call.query.force,
            by=call.principal.subject,
            now=call.now,
        )

    return await _quota(call, tenant_id, work)


async def delete_quota(call: Call[DeleteQuotaQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    await call.run(
        call.engine.quotas.delete,
        tenant_id,
        call.path_id("quota_id", "quota"),
        force=call.query.force,
        by=call.principal.subject,
        now=call.now,
    )
    return Response(status_code=204)


async def get_quota_history(call: Call[QuotaHistoryQuery, NoBody]) -> Response:
    query = call.query
    query.check()
    history = await call.run(
        call.engine.quotas.history,
        call.tenant_for(query.tenant_id),
        call.path_id("quota_id", "quota"),
        query.wanted_page(),
        scope_id=query.scope_id,
        since=query.since,
        until=query.until,
    )
    return json_reply(replace(history, correlation_id=call.correlation_id))


async def _quota(
    call: Call[Any, Any], tenant_id: str, work: Callable[[], Quota], *, status: int = 200
) -> Response:
    """What `work` gives, with its use as it stands then."""

    def look() -> QuotaView:
        return views_with_use(call.engine.quotas, tenant_id, [work()])[0]

    answer = replace(await call.run(look), correlation_id=call.correlation_id)
    headers = etag(answer.version)
    if status == 201:
        headers |= call.location(f"/quotas/{answer.quota_id}", tenant_id)
    return json_reply(answer, status=status, headers=headers)


ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    *(
        Endpoint(
            operation=operation,
            method="POST",
            path=path,
            tag="Quotas",
            summary=summary,
            description="It binds from the next check on. One whose period overlaps another's of "
            "the same scope and resource type is a 409. Idempotency keys are kept for 7 days.",
            handler=allocate,
            action=Action.CHANGE_QUOTAS,
            answer=QuotaView,
            query=NoQuery,
            request=QuotaSpec,
            status=201,
            errors=("CONFLICT", "IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE"),
            idempotent=True,
            versioned=True,
        )
        for operation, path, summary in (
            ("create_quota", "/quotas", "Allocate a quota"),
            ("allocate_quota", "/quotas/allocate", "Allocate a quota, as `POST /quotas` does"),
        )
    ),
    Endpoint(
        operation="allocate_quotas",
        method="POST",
        path="/quotas/allocate/batch",
        tag="Quotas",
        summary="Allocate up to 100 quotas; each stands or falls alone",
        description="Answers 200 also when some or all of them failed; `results` says which and "
        "why. Idempotency keys are kept for 7 days.",
        handler=allocate_batch,
        action=Action.CHANGE_QUOTAS,
        answer=AllocateBatchAnswer,
        query=NoQuery,
        request=AllocateBatchRequest,
        errors=("IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE"),
        idempotent=True,
    ),
    Endpoint(
        operation="distribute_quotas",
        method="POST",
        path="/quotas/distribute",
        tag="Quotas",
        summary="Share a total out over up to 1000 entities: a quota for each, all or none",
        description="Parts add up to the total exactly. With `dry_run` nothing is allocated. "
        "Idempotency keys are kept for 7 days.",
        handler=distribute,
        action=Action.CHANGE_QUOTAS,
        answer=DistributeAnswer,
        query=NoQuery,
        request=DistributeRequest,
        errors=("CONFLICT", "IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE"),
        idempotent=True,
    ),
    Endpoint(
        operation="list_quotas",
        method="GET",
        path="/quotas",
        tag="Quotas",
        summary="List quotas with their use",
        handler=list_quotas,
        action=Action.VIEW_QUOTAS,
        answer=QuotaPage,
        query=QuotaListQuery,
        request=NoBody,
    ),
    Endpoint(
        operation="get_quota",
        method="GET",
        path="/quotas/{quota_id}",
        tag="Quotas",
        summary="Get a quota with its use",
        handler=get_quota,
        action=Action.VIEW_QUOTAS,
        answer=QuotaView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        versioned=True,
        path_notes=OF_QUOTA,
    ),
    Endpoint(
        operation="replace_quota",
        method="PUT",
        path="/quotas/{quota_id}",
        tag="Quotas",
        summary="Replace a quota's definition by a new version",
        description="Fields left out take their defaults; period, zone and currency stay. With "
        "`version` or `If-Match`, a quota that was changed meanwhile is left alone (409). Scope, "
        "resource type and period cannot change (409). Less than what is used needs `force=true`, "
        "else 409.",
        handler=replace_quota,
        action=Action.CHANGE_QUOTAS,
        answer=QuotaView,
        query=ReplaceQuotaQuery,
        request=QuotaSpec,
        errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_TOO_LARGE"),
        versioned=True,
        path_notes=OF_QUOTA,
    ),
    Endpoint(
        operation="delete_quota",
        method="DELETE",
        path="/quotas/{quota_id}",
        tag="Quotas",
        summary="End a quota; its history stays",
        handler=delete_quota,
        action=Action.CHANGE_QUOTAS,
        answer=None,
        query=DeleteQuotaQuery,
        request=NoBody,
        status=204,
        errors=("NOT_FOUND", "CONFLICT"),
        path_notes=OF_QUOTA,
    ),
    Endpoint(
        operation="get_quota_version",
        method="GET",
        path="/quotas/{quota_id}/versions/{version}",
        tag="Quotas",
        summary="Get a quota as it was in one of its versions",
        handler=get_quota_version,
        action=Action.VIEW_QUOTAS,
        answer=QuotaView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        versioned=True,
        path_notes={**OF_QUOTA, "version": "The number of the version, from 1."},
    ),
    Endpoint(
        operation="get_quota_history",
        method="GET",
        path="/quotas/{quota_id}/history",
        tag="Quotas",
        summary="What was taken from a quota and given back, and the totals of its days",
        description="`rows` come in pages. `days` come with a page by number and add up the whole "
        "range, or else the last 30 days with rows; each is a local day of the quota's time zone.",
        handler=get_quota_history,
        action=Action.VIEW_QUOTAS,
        answer=QuotaHistory,
        query=QuotaHistoryQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        path_notes=OF_QUOTA,
    ),
)

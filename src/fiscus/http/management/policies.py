"""Endpoints of rate-limit policies: their definitions, and emergency capacity."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response
from msgspec.structs import asdict, replace

from fiscus.access.model import Action
from fiscus.http.management.endpoints import Call, Endpoint, NoBody
from fiscus.http.management.queries import NoQuery
from fiscus.http.management.versions import etag, expected_version
from fiscus.http.replies import json_reply
from fiscus.idempotency import ADD_EMERGENCY, CREATE_POLICY
from fiscus.ratelimits.calls import EmergencySpec, EmergencyView, PolicyPage, PolicyView
from fiscus.ratelimits.model import Emergency, PolicySpec, PolicyState
from fiscus.ratelimits.queries import DeletePolicyQuery, PolicyListQuery
from fiscus.ratelimits.views import policy_view
from fiscus.wire.queries import TenantQuery

OF_POLICY: Final = {"policy_id": "The id of the policy."}
"""What the id in a path is."""


def policy_id_of(call: Call[Any, Any]) -> str:
    """The id of the path. Raises `NotFound` when it is none."""
    return call.path_id("policy_id", "policy")


async def create_policy(call: Call[NoQuery, PolicySpec]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    state = await call.run(
        call.engine.policies.create,
        tenant_id,
        call.body,
        by=call.principal.subject,
        now=call.now,
        idempotency=call.idempotency(tenant_id, CREATE_POLICY),
    )
    call.engine.limiter.changed(tenant_id)
    return _policy(state, call, status=201)


async def list_policies(call: Call[PolicyListQuery, NoBody]) -> Response:
    query = call.query
    page = await call.run(
        call.engine.policies.list,
        call.tenant_for(query.tenant_id),
        query.wanted(),
        query.wanted_page(),
    )
    return json_reply(
        PolicyPage(
            policies=[policy_view(state, call.now) for state in page.items],
            pagination=page.pagination,
            correlation_id=call.correlation_id,
        )
    )


async def get_policy(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    return _policy(await call.run(call.engine.policies.get, tenant_id, policy_id_of(call)), call)


async def get_policy_version(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    version, policy_id = call.path_version(), policy_id_of(call)
    return _policy(await call.run(call.engine.policies.get, tenant_id, policy_id, version), call)


async def replace_policy(call: Call[NoQuery, PolicySpec]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    state = await call.run(
        call.engine.policies.replace,
        tenant_id,
        policy_id_of(call),
        call.body,
        expected_version=expected_version(call, call.body.version),
        by=call.principal.subject,
        now=call.now,
    )
    call.engine.limiter.changed(tenant_id)
    return _policy(state, call)


async def delete_policy(call: Call[DeletePolicyQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    policy_id = policy_id_of(call)

    def delete() -> None:
        if not call.query.force:
            # whether it is in use is told from what was written
            call.engine.limiter.flush_usage(policy_id)
        call.engine.policies.delete(
            tenant_id,
            policy_id,
            force=call.query.force,
            by=call.principal.subject,
            now=call.now,
        )

    await call.run(delete)
    call.engine.limiter.changed(tenant_id)
    return Response(status_code=204)


async def add_emergency(call: Call[NoQuery, EmergencySpec]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    policy_id = policy_id_of(call)
    emergency = await call.run(
        call.engine.policies.add_emergency,
        tenant_id,
        policy_id,
        call.body,
        by=call.principal.subject,
        now=call.now,
        idempotency=call.idempotency(tenant_id, ADD_EMERGENCY, policy_id),
    )
    call.engine.limiter.changed(tenant_id)
    return _emergency(emergency, call, status=201)


async def approve_emergency(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    emergency = await call.run(
        call.engine.policies.approve_emergency,
        tenant_id,
        policy_id_of(call),
        call.path_id("emergency_id", "emergency"),
        by=call.principal.subject,
        now=call.now,
    )
    call.engine.limiter.changed(tenant_id)
    return _emergency(emergency, call)


def _policy(state: PolicyState, call: Call[Any, Any], *, status: int = 200) -> Response:
    headers = etag(state.policy.version)
    if status == 201:
        headers |= call.location(f"/rate-limits/{state.policy.policy_id}", state.policy.tenant_id)
    answer = replace(policy_view(state, call.now), correlation_id=call.correlation_id)
    return json_reply(answer, status=status, headers=headers)


def _emergency(emergency: Emergency, call: Call[Any, Any], *, status: int = 200) -> Response:
    view = EmergencyView(**asdict(emergency), correlation_id=call.correlation_id)
    return json_reply(view, status=status)


ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    Endpoint(
        operation="create_policy",
        method="POST",
        path="/rate-limits",
        tag="Rate limits",
        summary="Create a policy",
        description="It binds from the next check on.",
        handler=create_policy,
        action=Action.CHANGE_RATE_LIMITS,
        answer=PolicyView,
        query=NoQuery,
        request=PolicySpec,
        status=201,
        errors=("IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE"),
        idempotent=True,
        versioned=True,
    ),
    Endpoint(
        operation="list_policies",
        method="GET",
        path="/rate-limits",
        tag="Rate limits",
        summary="List policies",
        handler=list_policies,
        action=Action.VIEW_RATE_LIMITS,
        answer=PolicyPage,
        query=PolicyListQuery,
        request=NoBody,
    ),
    Endpoint(
        operation="get_policy",
        method="GET",
        path="/rate-limits/{policy_id}",
        tag="Rate limits",
        summary="Get a policy",
        handler=get_policy,
        action=Action.VIEW_RATE_LIMITS,
        answer=PolicyView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        versioned=True,
        path_notes=OF_POLICY,
    ),
    Endpoint(
        operation="get_policy_version",
        method="GET",
        path="/rate-limits/{policy_id}/versions/{version}",
        tag="Rate limits",
        summary="Get a policy as it was in one of its versions",
        handler=get_policy_version,
        action=Action.VIEW_RATE_LIMITS,
        answer=PolicyView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        versioned=True,
        path_notes={**OF_POLICY, "version": "The number of the version, from 1."},
    ),
    Endpoint(
        operation="replace_policy",
        method="PUT",
        path="/rate-limits/{policy_id}",
        tag="Rate limits",
        summary="Replace a policy's definition by a new version",
        description="Fields left out take their defaults; the time zone stays. With "
        "`version` or `If-Match`, a policy that was changed meanwhile is left alone (409). What "
        "was used stays used, unless algorithm or `scope_type` change.",
        handler=replace_policy,
        action=Action.CHANGE_RATE_LIMITS,
        answer=PolicyView,
        query=NoQuery,
        request=PolicySpec,
        errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_TOO_LARGE"),
        versioned=True,
        path_notes=OF_POLICY,
    ),
    Endpoint(
        operation="delete_policy",
        method="DELETE",
        path="/rate-limits/{policy_id}",
        tag="Rate limits",
        summary="End a policy; its versions stay",
        description="A policy in use (checked in its last window, or in the last hour if that is "
        "longer) is deleted with `force=true` only, else 409.",
        handler=delete_policy,
        action=Action.CHANGE_RATE_LIMITS,
        answer=None,
        query=DeletePolicyQuery,
        request=NoBody,
        status=204,
        errors=("NOT_FOUND", "CONFLICT"),
        path_notes=OF_POLICY,
    ),
    Endpoint(
        operation="add_emergency",
        method="POST",
        path="/rate-limits/{policy_id}/emergency",
        tag="Rate limits",
        summary="Add emergency capacity to a policy for a while",
        description="It holds at once and until `effective_until`: at most 4 hours, unless a "
        "second person approves it; then until `ends_at`, at most 24 hours. While one holds, "
        "another is a 409; so is any for a kept policy whose limit cannot be counted.",
        handler=add_emergency,
        action=Action.GRANT_EMERGENCIES,
        answer=EmergencyView,
        query=NoQuery,
        request=EmergencySpec,
        status=201,
        errors=("NOT_FOUND", "CONFLICT", "IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE"),
        idempotent=True,
        path_notes=OF_POLICY,
    ),
    Endpoint(
        operation="approve_emergency",
        method="POST",
        path="/rate-limits/{policy_id}/emergency/{emergency_id}/approve",
        tag="Rate limits",
        summary="Approve emergency capacity, so that it lasts as long as was asked",
        description="By another person than the one who asked (403): on `/docs`, authorize with "
        "another key first.",
        handler=approve_emergency,
        action=Action.GRANT_EMERGENCIES,
        answer=EmergencyView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND", "CONFLICT"),
        path_notes={
            **OF_POLICY,
            "emergency_id": "The id of the emergency capacity, from its request.",
        },
    ),
)

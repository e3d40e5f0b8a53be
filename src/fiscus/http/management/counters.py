"""Endpoints of rate limits' counters: how far they are used, resets and corrections.

Checks are in the fast lane.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response
from msgspec.structs import replace

from fiscus.access.model import Action
from fiscus.errors import ServiceUnavailable
from fiscus.http.api_limits import ApiLimit
from fiscus.http.management.endpoints import Call, Endpoint, NoBody
from fiscus.http.management.policies import OF_POLICY, policy_id_of
from fiscus.http.management.queries import NoQuery
from fiscus.http.replies import json_reply
from fiscus.ratelimits.calls import (
    AdjustRequest,
    CounterView,
    PolicyUsage,
    RateLimitCheckAnswer,
    ResetRequest,
)
from fiscus.ratelimits.queries import PolicyUsageQuery
from fiscus.ratelimits.resets import counter_scope, reset


async def get_policy_usage(call: Call[PolicyUsageQuery, NoBody]) -> Response:
    query = call.query
    tenant_id = call.tenant_for(query.tenant_id)
    policy_id = policy_id_of(call)

    def look() -> PolicyUsage:
        state = call.engine.policies.get(tenant_id, policy_id)
        scope_id = counter_scope(state.policy, query.scope_id)
        counter: CounterView | None = None
        degraded = False
        if scope_id is not None:
            try:
                counter = call.engine.limiter.counter(state, scope_id, query.resource_key, call.now)
            except ServiceUnavailable:
                degraded = True
        # what this process saw is not to be waited for
        call.engine.limiter.flush_usage(policy_id)
        page = call.engine.usage.windows(
            tenant_id, policy_id, query.wanted_page(), scope_id=query.scope_id
        )
        return PolicyUsage(
            policy_id=policy_id,
            counter=counter,
            windows=page.items,
            degraded=degraded,
            pagination=page.pagination,
            correlation_id=call.correlation_id,
        )

    return json_reply(await call.run(look))


async def reset_policy(call: Call[NoQuery, ResetRequest]) -> Response:
    await call.run(
        reset,
        call.engine.policies,
        call.engine.limiter,
        call.tenant_for(call.body.tenant_id),
        policy_id_of(call),
        call.body,
        by=call.principal.subject,
        now=call.now,
    )
    return Response(status_code=204)


async def adjust_rate_limits(call: Call[NoQuery, AdjustRequest]) -> Response:
    answer = await call.run(
        call.engine.limiter.adjust,
        call.body,
        call.tenant_for(call.body.tenant_id),
        call.now,
        key_id=call.principal.key_id,
    )
    return json_reply(replace(answer, correlation_id=call.correlation_id))


ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    Endpoint(
        operation="get_policy_usage",
        method="GET",
        path="/rate-limits/{policy_id}/usage",
        tag="Rate limits",
        summary="How far a policy is used, now and in past windows",
        description="The counter is as it is now; windows are written in the background, so the "
        "latest checks may not be in them yet.",
        handler=get_policy_usage,
        action=Action.VIEW_RATE_LIMITS,
        answer=PolicyUsage,
        query=PolicyUsageQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        path_notes=OF_POLICY,
    ),
    Endpoint(
        operation="reset_policy",
        method="POST",
        path="/rate-limits/{policy_id}/reset",
        tag="Rate limits",
        summary="Make counters of a policy unused",
        description="One counter when `scope_id` or `resource_key` is sent, else all of them.",
        handler=reset_policy,
        action=Action.CHANGE_RATE_LIMITS,
        answer=None,
        query=NoQuery,
        request=ResetRequest,
        status=204,
        errors=("NOT_FOUND", "PAYLOAD_TOO_LARGE"),
        path_notes=OF_POLICY,
    ),
    Endpoint(
        operation="adjust_rate_limits",
        method="POST",
        path="/rate-limits/adjust",
        tag="Rate limits",
        summary="Correct what a check charged",
        description="Charges the counters of every policy that applies with what a check charged "
        "too little, or gives back what it charged too much; use never falls below zero. It is "
        "never refused. Answers what a look at the counters says afterwards. A 503 whose "
        "`retriable` is false may have been corrected: look before you send it again.",
        handler=adjust_rate_limits,
        limited_as=ApiLimit.RATE_LIMIT_CHECKS,
        action=Action.OPERATE,
        answer=RateLimitCheckAnswer,
        query=NoQuery,
        request=AdjustRequest,
        errors=("PAYLOAD_TOO_LARGE",),
    ),
)

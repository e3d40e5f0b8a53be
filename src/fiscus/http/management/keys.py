"""Endpoints of API keys."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response
from msgspec.structs import asdict

from fiscus.access.model import (
    Action,
    ApiKeyPage,
    ApiKeySpec,
    ApiKeyView,
    NewApiKey,
    check_grantable,
    hash_key,
    made_key,
    new_key,
)
from fiscus.http.management.endpoints import Call, Endpoint, NoBody
from fiscus.http.management.queries import NoQuery
from fiscus.http.replies import json_reply
from fiscus.idempotency import CREATE_API_KEY
from fiscus.wire.queries import PageQuery, TenantQuery


async def create_api_key(call: Call[NoQuery, ApiKeySpec]) -> Response:
    """A new key. Repeated with the same idempotency key it answers the same key without its secret,
    which nobody has any more."""
    spec = call.body
    tenant_id = call.tenant_for(spec.tenant_id)
    check_grantable(call.principal, spec.roles)
    secret = new_key()
    key = made_key(secret, spec, tenant_id, by=call.principal.subject, now=call.now)
    kept = await call.run(
        call.engine.api_keys.create,
        key,
        hash_key(secret),
        idempotency=call.idempotency(tenant_id, CREATE_API_KEY),
    )
    answer = NewApiKey(
        **asdict(kept),
        api_key=secret if kept.key_id == key.key_id else None,
        correlation_id=call.correlation_id,
    )
    return json_reply(answer, status=201)


async def list_api_keys(call: Call[PageQuery, NoBody]) -> Response:
    page = await call.run(
        call.engine.api_keys.list,
        call.tenant_for(call.query.tenant_id),
        call.query.wanted_page(),
    )
    return json_reply(
        ApiKeyPage(
            api_keys=page.items, pagination=page.pagination, correlation_id=call.correlation_id
        )
    )


async def revoke_api_key(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    key_id = call.path_id("key_id", "API key")
    api_keys = call.engine.api_keys
    # the roles of a key never change, so what is seen here still holds below
    check_grantable(call.principal, (await call.run(api_keys.get, tenant_id, key_id)).roles)
    key = await call.run(api_keys.revoke, tenant_id, key_id, call.now)
    call.engine.credential_cache.forget(key_id)
    return json_reply(ApiKeyView(**asdict(key), correlation_id=call.correlation_id))


ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    Endpoint(
        operation="create_api_key",
        method="POST",
        path="/api-keys",
        tag="API keys",
        summary="Make an API key; it is shown once",
        handler=create_api_key,
        action=Action.MANAGE_KEYS,
        answer=NewApiKey,
        query=NoQuery,
        request=ApiKeySpec,
        status=201,
        errors=("IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE"),
        idempotent=True,
    ),
    Endpoint(
        operation="list_api_keys",
        method="GET",
        path="/api-keys",
        tag="API keys",
        summary="List API keys",
        handler=list_api_keys,
        action=Action.MANAGE_KEYS,
        answer=ApiKeyPage,
        query=PageQuery,
        request=NoBody,
    ),
    Endpoint(
        operation="revoke_api_key",
        method="DELETE",
        path="/api-keys/{key_id}",
        tag="API keys",
        summary="Revoke an API key, for good",
        description="At once in the process that answers, over gRPC (Envoy) too; other processes "
        "refuse the key within 10 seconds. Keys of platform_admin are revoked by a platform_admin "
        "only.",
        handler=revoke_api_key,
        action=Action.MANAGE_KEYS,
        answer=ApiKeyView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        path_notes={"key_id": "The id of the key, not the key."},
    ),
)

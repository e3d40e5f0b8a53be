"""Endpoints of tenants: the settings that stand in where a call leaves a field out."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response
from msgspec.structs import replace

from fiscus.access.model import Action
from fiscus.errors import Conflict, NotFound
from fiscus.http.management.endpoints import Call, Endpoint, NoBody
from fiscus.http.management.queries import NoQuery
from fiscus.http.management.versions import etag, expected_version, is_for_what_exists
from fiscus.http.replies import json_reply
from fiscus.scopes import parse_id
from fiscus.tenants import Tenant, TenantSpec, TenantStore


async def get_tenant(call: Call[NoQuery, NoBody]) -> Response:
    tenant = await call.run(call.engine.tenants.get, _tenant_id(call))
    return _answer(tenant, call)


async def put_tenant(call: Call[NoQuery, TenantSpec]) -> Response:
    tenant_id = _tenant_id(call)
    if is_for_what_exists(call):
        await call.run(_require, call.engine.tenants, tenant_id)
    tenant = await call.run(
        call.engine.tenants.put,
        tenant_id,
        call.body,
        expected_version=expected_version(call, call.body.version),
        now=call.now,
    )
    return _answer(tenant, call)


def _require(tenants: TenantStore, tenant_id: str) -> None:
    """Raises `Conflict` where there is no tenant yet; one that there is stays for good."""
    try:
        tenants.get(tenant_id)
    except NotFound:
        raise Conflict(
            f"Nothing was set for tenant {tenant_id} that could be replaced",
            details={"tenant_id": tenant_id},
            suggested_action="Leave If-Match out to set its settings for the first time.",
        ) from None


def _tenant_id(call: Call[Any, Any]) -> str:
    given: str = call.request.path_params["tenant_id"]
    return call.tenant_for(parse_id(given, "tenant_id"))


def _answer(tenant: Tenant, call: Call[Any, Any]) -> Response:
    view = replace(tenant, correlation_id=call.correlation_id)
    return json_reply(view, headers=etag(tenant.version))


_TENANT_ID: Final = {"tenant_id": "The id of the tenant; a tenant_admin may name its own only."}

ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    Endpoint(
        operation="put_tenant",
        method="PUT",
        path="/tenants/{tenant_id}",
        tag="Tenants",
        summary="Set a tenant's settings, making the tenant where there is none",
        description="Fields left out take their defaults.",
        handler=put_tenant,
        action=Action.CHANGE_TENANT,
        answer=Tenant,
        query=NoQuery,
        request=TenantSpec,
        errors=("CONFLICT", "PAYLOAD_TOO_LARGE"),
        versioned=True,
        path_notes=_TENANT_ID,
    ),
    Endpoint(
        operation="get_tenant",
        method="GET",
        path="/tenants/{tenant_id}",
        tag="Tenants",
        summary="Get a tenant's settings",
        handler=get_tenant,
        action=Action.VIEW_TENANT,
        answer=Tenant,
        query=NoQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        versioned=True,
        path_notes=_TENANT_ID,
    ),
)

"""Who may call what: every role against every endpoint."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from fiscus.access.model import ALLOWED, Role
from fiscus.http.app import ENDPOINTS
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS
from fiscus.http.openapi.examples import PATH_IDS
from fiscus.wire.paths import BASE_PATH

if TYPE_CHECKING:
    import httpx

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

ROUTES = [
    *((one.operation, "POST", one.path, one.action) for one in DECISION_ENDPOINTS),
    *((one.operation, one.method, one.path, one.action) for one in ENDPOINTS),
]


async def call(client: AppClient, method: str, path: str, key: str | None) -> httpx.Response:
    url = BASE_PATH + re.sub(r"{(\w+)}", lambda match: PATH_IDS[match[1]], path)
    return await client.send(method, url, key=key, content=b"{}")


@pytest.mark.parametrize("role", Role)
async def test_a_role_gets_past_the_door_exactly_where_the_table_lets_it(
    client: AppClient, role: Role
) -> None:
    key = client.make_key(role)
    for operation, method, path, action in ROUTES:
        reply = await call(client, method, path, key)
        may = role in ALLOWED[action] or role is Role.PLATFORM_ADMIN
        assert (reply.status_code != 403) is may, (operation, role, reply.text)
        if not may:
            problem = reply.json()
            assert problem["error_code"] == "FORBIDDEN"
            assert problem["details"]["required_roles"] == sorted(map(str, ALLOWED[action]))


async def test_no_endpoint_answers_without_a_credential(client: AppClient) -> None:
    for operation, method, path, _ in ROUTES:
        reply = await call(client, method, path, None)
        assert reply.status_code == 401, operation
        assert reply.json()["error_code"] == "UNAUTHORIZED"
        assert "Bearer" in reply.headers["WWW-Authenticate"]


async def test_only_a_platform_admin_grants_platform_admin(client: AppClient) -> None:
    spec = {"name": "k", "roles": ["platform_admin"]}
    key = client.make_key(Role.TENANT_ADMIN)
    refused = await client.post("/api-keys", spec, key=key)
    assert refused.status_code == 403
    assert refused.json()["details"] == {"field": "roles"}
    assert (await client.post("/api-keys", spec)).status_code == 201


async def test_only_a_platform_admin_revokes_a_key_of_platform_admin(client: AppClient) -> None:
    spec = {"name": "k", "roles": ["tenant_admin", "platform_admin"]}
    made = (await client.post("/api-keys", spec)).json()
    path = f"/api-keys/{made['key_id']}"
    admin = client.make_key(Role.TENANT_ADMIN)
    refused = await client.delete(path, key=admin)
    assert refused.status_code == 403
    assert refused.json()["details"] == {"field": "roles"}
    assert (await client.get("/budgets", key=made["api_key"])).status_code == 200
    assert (await client.delete(path)).status_code == 200
    assert (await client.get("/budgets", key=made["api_key"])).status_code == 401
    assert (await client.delete("/api-keys/none", key=admin)).status_code == 404


async def test_metrics_are_for_platform_admins_and_system_architects(client: AppClient) -> None:
    for role in Role:
        reply = await client.send("GET", "/metrics", key=client.make_key(role))
        may = role in {Role.PLATFORM_ADMIN, Role.SYSTEM_ARCHITECT}
        assert reply.status_code == (200 if may else 403), role
    assert (await client.send("GET", "/metrics", key=None)).status_code == 401


async def test_csv_needs_a_role_that_may_export(client: AppClient) -> None:
    for role, status in ((Role.AUDITOR, 403), (Role.FINANCIAL_CONTROLLER, 200)):
        key = client.make_key(role)
        assert (await client.get("/cost-tracking/reports", key=key)).status_code == 200
        reply = await client.get("/cost-tracking/reports?format=csv", key=key)
        assert reply.status_code == status
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert reply.text.startswith("currency,cost,record_count")

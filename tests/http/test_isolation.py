"""One tenant's credential never reaches another tenant, by any name for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from fiscus.http.app import ENDPOINTS
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS
from fiscus.wire.paths import BASE_PATH
from fiscus.wire.queries import TenantQuery
from tests.http.app_client import API, BUDGET, POLICY, QUOTA
from tests.log_lines import told

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

OTHER = {"tenant_id": "globex"}
NOBODY = "01a20dc2-6604-7c51-8289-92e520253797"
EMERGENCY = {"additional_capacity": 5, "duration_minutes": 60, "reason": "Launch day"}
ADJUST = {"resource_type": "llm", "request_count": 1}
DISTRIBUTE = {
    "resource_type": "gpu_hours",
    "total_amount": 10,
    "strategy": "fair_share",
    "entities": [{"scope_type": "user", "scope_id": "ada"}],
}
ASK = {
    "quota_id": "019cd7d8-7c00-7a11-8f00-0123456789ab",
    "additional_amount": 5,
    "reason": "Launch day",
}
BODIES: dict[str, Any] = {
    "create_budget": BUDGET,
    "replace_budget": BUDGET,
    "create_policy": POLICY,
    "replace_policy": POLICY,
    "add_emergency": EMERGENCY,
    "adjust_rate_limits": ADJUST,
    "create_quota": QUOTA,
    "allocate_quota": QUOTA,
    "allocate_quotas": {"allocations": [QUOTA]},
    "distribute_quotas": DISTRIBUTE,
    "replace_quota": QUOTA,
    "ask_for_quota": ASK,
    "approve_quota_request": {},
    "reject_quota_request": {},
    "create_api_key": {"name": "k", "roles": ["service"]},
    "put_tenant": {},
    "reset_policy": {},
    "make_report": {},
}
"""Of the endpoints whose body may name a tenant, but for the decisions; and of `put_tenant`."""


async def made_by_globex(client: AppClient) -> dict[str, str]:
    """What another tenant has, by the names its ids have in paths."""
    key = client.make_key(Role.TENANT_ADMIN, Role.SYSTEM_ARCHITECT, tenant_id="globex")
    budget = await client.make_budget(key=key)
    check = {"resource_type": "llm", "estimated_cost": 1, "project_id": "search"}
    reservation = (await client.post("/budgets/check", check, key=key)).json()
    cost = {"resource_type": "llm", "cost_amount": 1, "project_id": "search"}
    record = (await client.post("/cost-tracking/record", cost, key=key)).json()
    policy = await client.make_policy(key=key)
    path = f"/rate-limits/{policy['policy_id']}/emergency"
    emergency = (await client.post(path, EMERGENCY, key=key)).json()
    quota = await client.make_quota(key=key)
    use = {"resource_type": "gpu_hours", "required_amount": 1, "project_id": "vision"}
    consumption = (await client.post("/quotas/check", use, key=key)).json()
    ask = {**ASK, "quota_id": quota["quota_id"]}
    request = (await client.post("/quotas/requests", ask, key=key)).json()
    made = (await client.post("/api-keys", {"name": "k", "roles": ["service"]}, key=key)).json()
    return {
        "budget_id": budget["budget_id"],
        "reservation_id": reservation["reservation_id"],
        "record_id": record["record_id"],
        "policy_id": policy["policy_id"],
        "emergency_id": emergency["emergency_id"],
        "quota_id": quota["quota_id"],
        "consumption_id": consumption["consumption_id"],
        "request_id": request["request_id"],
        "key_id": made["key_id"],
        "tenant_id": "globex",
        "version": "1",
    }


async def test_things_of_another_tenant_are_not_found_by_their_id(client: AppClient) -> None:
    ids = await made_by_globex(client)
    key = client.make_key(Role.TENANT_ADMIN, Role.SYSTEM_ARCHITECT)
    bodies: dict[str, Any] = {
        **BODIES,
        **{one.operation: one.example for one in DECISION_ENDPOINTS},
    }
    tried = 0
    rows = [
        *((one.operation, "POST", one.path) for one in DECISION_ENDPOINTS),
        *((one.operation, one.method, one.path) for one in ENDPOINTS),
    ]
    for operation, method, path in rows:
        if "{" not in path:
            continue
        reply = await client.send(
            method, BASE_PATH + path.format(**ids), key=key, json=bodies.get(operation)
        )
        expected = 403 if "tenant" in operation else 404
        assert reply.status_code == expected, (operation, reply.text)
        tried += 1
    assert tried >= 20
    admin = await client.get(f"/budgets/{ids['budget_id']}", params=OTHER)
    assert admin.status_code == 200
    assert admin.json()["version"] == 1


async def test_naming_another_tenant_is_forbidden_on_every_route(client: AppClient) -> None:
    ids = await made_by_globex(client)
    key = client.make_key(Role.TENANT_ADMIN, Role.SYSTEM_ARCHITECT)
    for one in DECISION_ENDPOINTS:
        body = dict(one.example)
        if "checks" in body:
            body["checks"] = [{**item, **OTHER} for item in body["checks"]]
        else:
            body |= OTHER
        reply = await client.send("POST", BASE_PATH + one.path.format(**ids), key=key, json=body)
        assert reply.status_code == 403, (one.operation, reply.text)
    for one in ENDPOINTS:
        if issubclass(one.query, TenantQuery) or one.operation == "get_report":
            sent: dict[str, Any] = {"params": OTHER}
        elif "{tenant_id}" in one.path:
            sent = {"json": BODIES.get(one.operation)}
        else:
            sent = {"json": {**BODIES[one.operation], **OTHER}}
        reply = await client.send(one.method, API + one.path.format(**ids), key=key, **sent)
        assert reply.status_code == 403, (one.operation, reply.text)
        assert reply.json()["tenant_id"] == "acme"


async def test_lists_and_reports_show_the_own_tenant_only(client: AppClient) -> None:
    await made_by_globex(client)
    key = client.make_key(Role.TENANT_ADMIN, tenant_id="initech")
    for path, name in (
        ("/budgets", "budgets"),
        ("/budgets/reservations", "reservations"),
        ("/cost-tracking/records", "records"),
        ("/rate-limits", "policies"),
        ("/quotas", "quotas"),
        ("/quotas/requests", "requests"),
    ):
        answer = (await client.get(path, key=key)).json()
        assert answer[name] == []
        assert answer["pagination"]["total_count"] == 0
    keys = (await client.get("/api-keys", key=key)).json()["api_keys"]
    assert [one["tenant_id"] for one in keys] == ["initech"]
    report = (await client.get("/cost-tracking/reports", key=key)).json()
    assert (report["record_count"], report["total_cost"]) == (0, 0)


async def test_a_platform_admin_acts_for_the_tenant_it_names(client: AppClient) -> None:
    budget = await client.make_budget(tenant_id="globex")
    assert budget["tenant_id"] == "globex"
    found = (await client.get("/budgets", params=OTHER)).json()["budgets"]
    assert [one["budget_id"] for one in found] == [budget["budget_id"]]
    assert (await client.get("/budgets")).json()["budgets"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"/budgets/{NOBODY}?tenant_id=globex", None, 404),
        ("DELETE", f"/quotas/{NOBODY}?tenant_id=globex", None, 404),
        ("PUT", "/tenants/globex", {"version": 7}, 409),
        ("POST", "/budgets", {**BUDGET, "tenant_id": "globex", "period_type": "custom"}, 400),
        (
            "POST",
            f"/budgets/reservations/{NOBODY}/settle",
            {"actual_cost": 1, "tenant_id": "globex"},
            404,
        ),
        ("POST", "/budgets/reservations/x/release", {"tenant_id": "globex"}, 404),
        (
            "POST",
            "/budgets/check",
            {"resource_type": "llm", "estimated_cost": -1, "tenant_id": "globex"},
            400,
        ),
        (
            "POST",
            "/quotas/check/batch",
            {"checks": [{"resource_type": "a", "required_amount": -1, "tenant_id": "globex"}]},
            400,
        ),
        (
            "POST",
            "/rate-limits/check",
            {"resource_type": "a", "priority": "critical", "tenant_id": "globex"},
            403,
        ),
        (
            "POST",
            "/rate-limits/check/batch",
            {"checks": [{"resource_type": "a", "tenant_id": "globex"}] * 501},
            413,
        ),
    ],
)
async def test_a_problem_tells_the_tenant_that_was_named(
    client: AppClient, method: str, path: str, body: Any, status: int
) -> None:
    reply = await client.send(method, API + path, json=body)
    assert (reply.status_code, reply.json()["tenant_id"]) == (status, "globex"), reply.text


async def test_a_problem_for_naming_another_tenant_tells_the_own(client: AppClient) -> None:
    key = client.make_key(Role.TENANT_ADMIN)
    for reply in (
        await client.get("/budgets?tenant_id=globex", key=key),
        await client.post("/rate-limits/check", {"resource_type": "a", "tenant_id": "b"}, key=key),
    ):
        assert (reply.status_code, reply.json()["tenant_id"]) == (403, "acme")


async def test_an_item_that_names_no_tenant_is_the_credentials_own(client: AppClient) -> None:
    """Wherever in a batch it stands, also where a platform_admin names another one before it."""
    check = {"resource_type": "llm", "estimated_cost": 1}
    use = {"resource_type": "gpu", "required_amount": 1}
    for path, one in (("/budgets/check/batch", check), ("/quotas/check/batch", use)):
        for checks in ([{**one, **OTHER}, one], [one, {**one, **OTHER}]):
            reply = await client.post(path, {"checks": checks})
            assert reply.status_code == 400, reply.text
            assert reply.json()["details"] == {"field": "checks[1].tenant_id"}

    record = {"resource_type": "llm", "cost_amount": 1}
    for path, name, one in (
        ("/cost-tracking/record/batch", "records", record),
        ("/quotas/allocate/batch", "allocations", QUOTA),
    ):
        for key in (client.key, client.make_key(Role.TENANT_ADMIN, tenant_id="initech")):
            for foreign in (0, 1):
                items = [{**one, "resource_type": f"of {foreign}"} for _ in range(2)]
                items[foreign] |= OTHER
                reply = await client.post(path, {name: items}, key=key)
                assert reply.status_code < 300, reply.text
                errors = [item["error"] for item in reply.json()["results"]]
                assert errors.pop(foreign)["error_code"] == "FORBIDDEN"
                assert errors == [None]
        # all of them name the same, as far as they can be read
        answer = (await client.post(path, {name: [5, {**one, **OTHER}, {**one, **OTHER}]})).json()
        assert answer["results"][1]["error"] is None
    for path, params, count in (
        ("/cost-tracking/records", {}, 2),
        ("/cost-tracking/records", OTHER, 2),
        ("/quotas", {}, 2),
        ("/quotas", OTHER, 1),  # the second one overlaps
    ):
        page = (await client.get(path, params=params)).json()
        assert page["pagination"]["total_count"] == count, (path, params)


async def test_a_crossing_within_a_batch_is_logged_once_and_counted(
    client: AppClient, caplog: pytest.LogCaptureFixture
) -> None:
    key = client.make_key(Role.TENANT_ADMIN)
    record = {"resource_type": "llm", "cost_amount": 1}
    records = [record, {**record, **OTHER}, {**record, "cost_amount": "x"}, {**record, **OTHER}]
    for path, more in (
        ("/cost-tracking/record/batch", {"json": {"records": records}}),
        ("/cost-tracking/record/stream", {"content": "\n".join(map(json.dumps, records))}),
        ("/quotas/allocate/batch", {"json": {"allocations": [QUOTA, {**QUOTA, **OTHER}]}}),
    ):
        headers = {"X-Correlation-ID": f"trace:{path}"}
        caplog.clear()
        reply = await client.send("POST", API + path, key=key, headers=headers, **more)
        assert reply.status_code in {200, 202}
        (found,) = [line.fields for line in told(caplog) if line.event == "access_denied"]
        assert (found["reason"], found["tenant_id"]) == ("tenant", "acme")
        assert (found["path"], found["correlation_id"]) == (API + path, f"trace:{path}")
    assert (
        'fiscus_access_denied_total{reason="tenant"} 3.0'
        in b"".join(client.metrics.render()).decode()
    )


async def test_a_crossing_is_logged_with_its_correlation_id_and_counted(
    client: AppClient, caplog: pytest.LogCaptureFixture
) -> None:
    key = client.make_key(Role.TENANT_ADMIN)
    headers = {"X-Correlation-ID": "trace-17"}
    await client.get("/budgets", params=OTHER, key=key, headers=headers)
    await client.post(
        "/budgets/check",
        {"resource_type": "llm", "estimated_cost": 1, **OTHER},
        key=key,
        headers=headers,
    )
    found = [line.fields for line in told(caplog) if line.event == "access_denied"]
    assert [line["reason"] for line in found] == ["tenant", "tenant"]
    assert {line["correlation_id"] for line in found} == {"trace-17"}
    assert {line["tenant_id"] for line in found} == {"acme"}
    assert (
        'fiscus_access_denied_total{reason="tenant"} 2.0'
        in b"".join(client.metrics.render()).decode()
    )


async def test_what_a_platform_admin_makes_for_another_tenant_is_where_it_says(
    client: AppClient,
) -> None:
    for path, body in (("/budgets", BUDGET), ("/rate-limits", POLICY), ("/quotas", QUOTA)):
        made = await client.post(path, {**body, **OTHER})
        assert made.status_code == 201, made.text
        found = await client.send("GET", made.headers["Location"])
        assert (found.status_code, found.json()["tenant_id"]) == (200, "globex")

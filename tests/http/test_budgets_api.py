"""Budgets, reservations and tenants over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fiscus.http.openapi.examples import REQUESTS
from tests.http.app_client import API, BUDGET

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

GLOBEX = {"currency": "EUR", "timezone": "Europe/Berlin"}
NOBODY = "019cd7d8-7c00-7a11-8f00-0123456789ab"


async def test_a_budget_is_made_read_and_listed(client: AppClient) -> None:
    made = await client.post("/budgets", BUDGET)
    assert made.status_code == 201
    budget = made.json()
    assert made.headers["ETag"] == '"1"'
    assert made.headers["Location"] == f"{API}/budgets/{budget['budget_id']}"
    read = await client.send("GET", made.headers["Location"])
    assert read.json() == {**budget, "correlation_id": read.headers["X-Correlation-ID"]}
    listed = (await client.get("/budgets")).json()["budgets"]
    del budget["correlation_id"]
    assert listed == [budget]


async def test_amounts_keep_every_digit(client: AppClient) -> None:
    for amount in (b"1E-12", b"99999999999999999999999999.999999999999"):
        body = (
            b'{"budget_name":"b","budget_amount":%b,"period_type":"monthly",'
            b'"allocated_to_type":"project","allocated_to_id":"search"}' % amount
        )
        reply = await client.send("POST", f"{API}/budgets", content=body)
        assert b'"budget_amount":%b,' % amount in reply.content


async def test_a_stale_version_is_a_409_by_header_and_by_body(client: AppClient) -> None:
    budget = await client.make_budget()
    path = f"/budgets/{budget['budget_id']}"
    second = await client.put(path, BUDGET, headers={"If-Match": '"1"'})
    assert (second.status_code, second.headers["ETag"]) == (200, '"2"')
    for body, headers in (
        (BUDGET, {"If-Match": '"1"'}),
        ({**BUDGET, "version": 1}, {}),
        ({**BUDGET, "version": 1}, {"If-Match": "*"}),
    ):
        stale = await client.put(path, body, headers=headers)
        assert (stale.status_code, stale.json()["error_code"]) == (409, "CONFLICT")
    third = await client.put(path, {**BUDGET, "version": 2, "budget_amount": 7})
    assert (third.status_code, third.json()["version"]) == (200, 3)
    assert (await client.get(f"{path}/versions/1")).json()["budget_amount"] == 500
    assert (await client.get(f"{path}/versions/4")).status_code == 404


@pytest.mark.parametrize("tag", ["1", 'W/"1"', '"one"', '"1", "2"', ""])
async def test_an_unreadable_if_match_is_a_400(client: AppClient, tag: str) -> None:
    budget = await client.make_budget()
    path = f"/budgets/{budget['budget_id']}"
    reply = await client.put(path, BUDGET, headers={"If-Match": tag})
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, "If-Match")


async def test_if_match_and_version_must_agree(client: AppClient) -> None:
    path = f"/budgets/{(await client.make_budget())['budget_id']}"
    reply = await client.put(path, {**BUDGET, "version": 2}, headers={"If-Match": '"1"'})
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, "version")


@pytest.mark.parametrize("version", ["0", "-1", "x", "1.0", "99999999999", "%C2%B2"])
async def test_a_version_that_is_no_number_is_a_400(client: AppClient, version: str) -> None:
    budget = await client.make_budget()
    reply = await client.get(f"/budgets/{budget['budget_id']}/versions/{version}")
    assert reply.status_code == 400


async def test_ids_that_are_none_are_not_found(client: AppClient) -> None:
    for budget_id in (NOBODY, "x", "..%2f..", "%00", "a" * 5000, "'; DROP TABLE budgets"):
        for method, path in (
            ("GET", f"/budgets/{budget_id}"),
            ("DELETE", f"/budgets/{budget_id}"),
            ("GET", f"/budgets/{budget_id}/utilization"),
            ("GET", f"/budgets/reservations/{budget_id}"),
            ("GET", f"/cost-tracking/records/{budget_id}"),
            ("DELETE", f"/api-keys/{budget_id}"),
        ):
            reply = await client.send(method, API + path)
            assert reply.status_code == 404, (method, path)


async def test_creating_again_with_the_same_key_makes_one_budget(client: AppClient) -> None:
    headers = {"X-Idempotency-Key": "once"}
    first = await client.post("/budgets", BUDGET, headers=headers)
    again = await client.post("/budgets", BUDGET, headers=headers)
    assert again.status_code == 201
    assert again.json()["budget_id"] == first.json()["budget_id"]
    assert len((await client.get("/budgets")).json()["budgets"]) == 1
    other = await client.post("/budgets", {**BUDGET, "budget_amount": 1}, headers=headers)
    assert other.json()["error_code"] == "IDEMPOTENCY_CONFLICT"
    both = {**headers, "Idempotency-Key": "twice"}
    assert (await client.post("/budgets", BUDGET, headers=both)).status_code == 400
    assert (
        await client.post("/budgets", BUDGET, headers={"Idempotency-Key": "x" * 257})
    ).status_code == 400


async def test_pages_by_number_and_by_token_show_each_budget_once(client: AppClient) -> None:
    made = [
        (await client.make_budget(budget_name=f"b{number}"))["budget_id"] for number in range(5)
    ]
    first = (await client.get("/budgets?page_size=2")).json()
    assert first["pagination"] | {"next_page_token": None} == {
        "page": 1,
        "page_size": 2,
        "total_count": 5,
        "total_pages": 3,
        "next_page_token": None,
        "prev_page_token": None,
    }
    seen = [one["budget_id"] for one in first["budgets"]]
    token = first["pagination"]["next_page_token"]
    while token is not None:
        page = (await client.get("/budgets", params={"page_size": 2, "page_token": token})).json()
        assert page["pagination"]["total_count"] is None
        seen += [one["budget_id"] for one in page["budgets"]]
        token = page["pagination"]["next_page_token"]
    assert sorted(seen) == sorted(made)
    numbered: list[str] = []
    for number in (1, 2, 3, 4):
        page = (await client.get("/budgets", params={"page_size": 2, "page": number})).json()
        numbered += [one["budget_id"] for one in page["budgets"]]
    assert numbered == seen


async def test_lists_are_filtered(client: AppClient) -> None:
    await client.make_budget(budget_name="Search")
    await client.make_budget(
        budget_name="Users", allocated_to_type="user", allocated_to_id="*", currency="EUR"
    )

    async def names(query: str) -> list[str]:
        found = (await client.get(f"/budgets?{query}")).json()["budgets"]
        return sorted(one["budget_name"] for one in found)

    assert await names("allocated_to_type=user") == ["Users"]
    assert await names("allocated_to_id=*") == ["Users"]
    assert await names("currency=USD") == ["Search"]
    assert await names("name_contains=ear") == ["Search"]
    assert await names("name_contains=%25") == []
    assert await names("period_type=monthly") == ["Search", "Users"]
    assert await names("enforcement_action=throttle") == []


@pytest.mark.parametrize("tag", ["*", '"1"'])
async def test_what_makes_something_refuses_if_match(client: AppClient, tag: str) -> None:
    for operation, path in {
        "create_budget": "/budgets",
        "create_policy": "/rate-limits",
        "create_quota": "/quotas",
        "create_api_key": "/api-keys",
    }.items():
        reply = await client.post(path, REQUESTS[operation], headers={"If-Match": tag})
        assert (reply.status_code, reply.json()["details"]["field"]) == (400, "If-Match")
        assert (await client.post(path, REQUESTS[operation])).status_code == 201
        assert (await client.get(path, headers={"If-Match": tag})).status_code == 200


@pytest.mark.parametrize("tag", ["*", '"1"'])
async def test_decisions_refuse_if_match_and_change_nothing(client: AppClient, tag: str) -> None:
    for path, body, made in (
        ("/budgets/check", {"resource_type": "llm", "estimated_cost": 1}, "/budgets/reservations"),
        (
            "/cost-tracking/record",
            {"resource_type": "llm", "cost_amount": 1},
            "/cost-tracking/records",
        ),
    ):
        reply = await client.post(path, body, headers={"If-Match": tag})
        assert (reply.status_code, reply.json()["details"]["field"]) == (400, "If-Match")
        assert (await client.get(made)).json()["pagination"]["total_count"] == 0


async def test_a_budget_in_use_is_deleted_only_by_force(client: AppClient) -> None:
    budget = await client.make_budget()
    path = f"/budgets/{budget['budget_id']}"
    check = {"resource_type": "llm", "estimated_cost": 1, "project_id": "search"}
    await client.post("/budgets/check", check)
    assert (await client.delete(path)).status_code == 409
    assert (await client.delete(path, headers={"If-Match": '"1"'})).status_code == 400
    assert (await client.delete(f"{path}?force=maybe")).status_code == 400
    deleted = await client.delete(f"{path}?force=true")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.delete(f"{path}?force=true")).status_code == 404


async def test_reservations_are_listed_read_and_end(client: AppClient) -> None:
    budget = await client.make_budget()
    check: dict[str, Any] = {"resource_type": "llm", "estimated_cost": 1, "project_id": "search"}
    held = (await client.post("/budgets/check", check)).json()["reservation_id"]
    other = (await client.post("/budgets/check", {**check, "operation_id": "op-1"})).json()
    path = f"/budgets/reservations/{held}"
    assert (await client.get(path)).json()["status"] == "pending"
    assert (await client.post(f"{path}/release")).json()["status"] == "released"

    async def ids(query: str) -> list[str]:
        found = (await client.get(f"/budgets/reservations?{query}")).json()["reservations"]
        return [one["reservation_id"] for one in found]

    assert await ids("status=released") == [held]
    assert await ids("operation_id=op-1") == [other["reservation_id"]]
    assert await ids(f"budget_id={budget['budget_id']}&status=pending") == [other["reservation_id"]]
    assert await ids("project_id=elsewhere") == []


async def test_utilization_shows_present_and_past_periods(client: AppClient) -> None:
    budget = await client.make_budget(period_type="daily")
    cost = {"resource_type": "llm", "project_id": "search"}
    for day, amount in ((9, 3), (10, 5)):
        timestamp = f"2026-03-{day:02}T10:00:00Z"
        await client.post(
            "/cost-tracking/record", {**cost, "cost_amount": amount, "timestamp": timestamp}
        )
    answer = (await client.get(f"/budgets/{budget['budget_id']}/utilization")).json()
    assert [(one["current"], one["spent"]) for one in answer["periods"]] == [(True, 5), (False, 3)]
    assert answer["pagination"]["total_count"] == 2
    assert answer["correlation_id"]


async def test_a_tenants_settings_are_set_and_read(client: AppClient) -> None:
    assert (await client.get("/tenants/globex")).status_code == 404
    none_yet = await client.put("/tenants/globex", {}, headers={"If-Match": "*"})
    assert none_yet.status_code == 409
    assert (await client.get("/tenants/globex")).status_code == 404
    made = await client.put("/tenants/globex", GLOBEX)
    assert made.status_code == 200
    read = await client.get("/tenants/globex")
    assert (read.json()["currency"], read.headers["ETag"]) == ("EUR", made.headers["ETag"])
    stale = await client.put("/tenants/globex", {}, headers={"If-Match": '"99"'})
    assert stale.status_code == 409
    assert (await client.put("/tenants/globex", {"timezone": "Nowhere"})).status_code == 400
    any_version = await client.put("/tenants/globex", GLOBEX, headers={"If-Match": "*"})
    assert (any_version.status_code, any_version.json()["version"]) == (200, 2)
    assert (await client.put("/tenants/a%20b", {})).status_code == 400
    budget = await client.make_budget(tenant_id="globex")
    assert (budget["currency"], budget["timezone"]) == ("EUR", "Europe/Berlin")

"""The application below another path of a larger one, as ASGI frameworks mount it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import ANY

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.http.app_client import API, BUDGET, POLICY, QUOTA

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio


@pytest.fixture
async def below(client: AppClient) -> AsyncGenerator[httpx.AsyncClient]:
    """Calls of an admin to Fiscus at `/costs/fiscus`."""
    larger = Starlette(routes=[Mount("/costs", Starlette(routes=[Mount("/fiscus", client.app)]))])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=larger),
        base_url=f"http://platform.test/costs/fiscus{API}",
        headers={"X-API-Key": client.key},
    ) as http:
        yield http


async def test_a_mounted_application_decides_records_and_reports(below: httpx.AsyncClient) -> None:
    made = await below.post("/budgets", json=BUDGET)
    assert made.status_code == 201, made.text
    budget_id = made.json()["budget_id"]
    assert made.headers["Location"] == f"/costs/fiscus{API}/budgets/{budget_id}"
    operation = {"resource_type": "llm", "project_id": "search"}
    checked = await below.post("/budgets/check", json={**operation, "estimated_cost": 2})
    assert (checked.status_code, checked.json()["budget_id"]) == (200, budget_id)
    settle = f"/budgets/reservations/{checked.json()['reservation_id']}/settle"
    assert (await below.post(settle, json={"actual_cost": 1})).status_code == 200
    recorded = await below.post("/cost-tracking/record", json={**operation, "cost_amount": 3})
    assert recorded.status_code == 202
    report = await below.get("/cost-tracking/reports")
    assert (report.status_code, report.json()["total_cost"]) == (200, 4)


@pytest.mark.parametrize(
    ("path", "body"), [("/budgets", BUDGET), ("/rate-limits", POLICY), ("/quotas/allocate", QUOTA)]
)
async def test_a_mounted_application_says_where_it_finds_what_was_made(
    below: httpx.AsyncClient, path: str, body: dict[str, object]
) -> None:
    made = await below.post(path, json=body)
    assert made.status_code == 201, made.text
    found = await below.get(httpx.URL("http://platform.test").join(made.headers["Location"]))
    assert found.status_code == 200
    assert found.json().items() >= {**made.json(), "correlation_id": ANY}.items()


async def test_a_mount_of_the_callers_choice_ends_no_header(client: AppClient) -> None:
    larger = Starlette(routes=[Mount("/{team}", client.app)])
    transport = httpx.ASGITransport(app=larger)
    async with httpx.AsyncClient(transport=transport, base_url="http://platform.test") as http:
        team = "/a%0D%0ASet-Cookie:%20b%E2%9C%93"
        key = {"X-API-Key": client.key}
        made = await http.post(f"{team}{API}/budgets", json=BUDGET, headers=key)
        assert made.status_code == 201
        assert (await http.get(made.headers["Location"], headers=key)).status_code == 200


async def test_the_document_of_a_mounted_application_names_its_server(
    client: AppClient, below: httpx.AsyncClient
) -> None:
    document = (await client.send("GET", "/openapi.json", key=None)).json()
    shown = (await below.get("http://platform.test/costs/fiscus/openapi.json")).json()
    assert [one["url"] for one in shown["servers"]] == ["/costs/fiscus"]
    assert {**shown, "servers": document["servers"]} == document


async def test_a_mounted_application_tells_the_methods_of_a_path(below: httpx.AsyncClient) -> None:
    for path, allow in (("/budgets/check", "POST"), ("/budgets", "GET, HEAD, POST")):
        reply = await below.delete(path)
        assert (reply.status_code, reply.headers["Allow"]) == (405, allow)
        assert reply.json()["instance"] == f"/costs/fiscus{API}{path}"


async def test_an_unknown_path_is_counted_as_none_of_the_mounts(below: httpx.AsyncClient) -> None:
    assert (await below.get("/nowhere")).status_code == 404
    shown = (await below.get("http://platform.test/costs/fiscus/metrics")).text
    assert 'fiscus_http_requests_total{method="GET",route="none",status="404"} 1.0' in shown


async def test_a_path_that_only_begins_like_the_mount_is_none(below: httpx.AsyncClient) -> None:
    reply = await below.post(f"http://platform.test/costs/fiscus2{API}/budgets/check", json={})
    assert reply.status_code == 404

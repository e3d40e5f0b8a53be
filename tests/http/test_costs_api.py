"""Cost records and reports over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from fiscus.access.model import Role
from fiscus.costs.calls import RecordRequest
from fiscus.http.management.stream import MAX_LINE_BYTES
from fiscus.ledger.requests.costs import record_command
from fiscus.money import Amount
from fiscus.wire.nesting import MAX_LEVELS
from tests.http.app_client import API

if TYPE_CHECKING:
    import httpx

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

COSTS: list[dict[str, Any]] = [
    {"cost_amount": 1.5, "project_id": "search", "user_id": "u-1", "tags": {"team": "a"}},
    {"cost_amount": 2.25, "project_id": "search", "region": "eu", "tags": {"team": "a:b"}},
    {
        "cost_amount": 4,
        "project_id": "ads",
        "service_name": "gpt",
        "timestamp": "2026-03-09T10:00:00Z",
    },
]


async def record_all(client: AppClient) -> list[str]:
    body = {"records": [{"resource_type": "llm", **one} for one in COSTS]}
    reply = await client.post("/cost-tracking/record/batch", body)
    assert reply.status_code == 202, reply.text
    assert reply.json()["failed"] == 0, reply.text
    return [one["record"]["record_id"] for one in reply.json()["results"]]


async def test_records_are_read_one_by_one(client: AppClient) -> None:
    for record_id, sent in zip(await record_all(client), COSTS, strict=True):
        record = (await client.get(f"/cost-tracking/records/{record_id}")).json()
        assert record["cost_amount"] == sent["cost_amount"]
        assert record["project_id"] == sent["project_id"]
        assert record["correlation_id"]


async def test_record_without_an_amount_is_a_400_and_usage_without_a_price_a_422(
    client: AppClient,
) -> None:
    codes = {
        "VALIDATION_ERROR": [{}, {"usage": {}}, {"usage_unit": "tokens"}],
        "COST_CALCULATION_ERROR": [{"usage": {"tokens": 1}}, {"usage_quantity": 0}],
    }
    for code, bodies in codes.items():
        for body in ({"resource_type": "llm", **more} for more in bodies):
            reply = await client.post("/cost-tracking/record", body)
            assert reply.status_code == (400 if code == "VALIDATION_ERROR" else 422)
            assert reply.json()["error_code"] == code
            assert reply.json()["details"]["field"] == "cost_amount"
            batch = await client.post("/cost-tracking/record/batch", {"records": [body]})
            assert batch.json()["results"][0]["error"]["error_code"] == code


async def test_records_are_filtered_by_every_parameter(client: AppClient) -> None:
    ids = await record_all(client)

    async def found(query: str) -> set[int]:
        reply = await client.get(f"/cost-tracking/records?{query}")
        assert reply.status_code == 200, reply.text
        return {ids.index(one["record_id"]) for one in reply.json()["records"]}

    assert await found("") == {0, 1, 2}
    assert await found("project_id=search") == {0, 1}
    assert await found("user_id=u-1") == {0}
    assert await found("region=eu") == {1}
    assert await found("service_name=gpt") == {2}
    assert await found("resource_type=gpu") == set()
    assert await found("charge_category=credit") == set()
    assert await found("currency=EUR") == set()
    assert await found("start=2026-03-10T00:00:00Z") == {0, 1}
    assert await found("end=2026-03-10T00:00:00Z") == {2}
    assert await found("start=2026-03-09T11:00:00%2B01:00&end=2026-03-09T10:00:01Z") == {2}
    assert await found("tags=team:a") == {0}
    assert await found("tags=team:a:b") == {1}
    assert await found("tags=team:a&tags=other:x") == set()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("tags=team", "tags"),
        ("tags=:a", "tags"),
        ("tags=team:a&tags=team:b", "tags"),
        ('tags={"team":"a","team":"b"}', "tags"),
        ('tags={"team":"a"}&tags=team:b', "tags"),
        ('tags={"team":1}', "tags"),
        ('tags={"team":["a"]}', "tags"),
        ('tags={"team":{"a":"b"}}', "tags"),
        ("tags={team:a}", "tags"),
        ("tags={", "tags"),
        ('tags={"":"a"}', "tags"),
        ("&".join(f"tags=t{number}:a" for number in range(11)), "tags"),
        ("start=2026-03-10T00:00:00Z&end=2026-03-10T00:00:00Z", "start"),
        ("start=yesterday", "start"),
        ("charge_category=bribe", "charge_category"),
    ],
)
async def test_a_wrong_filter_is_named(client: AppClient, query: str, field: str) -> None:
    reply = await client.get(f"/cost-tracking/records?{query}")
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, field)


@pytest.mark.parametrize(
    "query", ["tags=team:a&tags=team:b", 'tags={"team":"a","team":"b"}', "tags={"]
)
async def test_a_wrong_filter_of_a_report_is_named(client: AppClient, query: str) -> None:
    reply = await client.get(f"/cost-tracking/reports?{query}")
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, "tags")


async def test_costs_are_found_by_any_tag_key(client: AppClient) -> None:
    tagged: list[dict[str, str]] = [
        {"aws:createdBy": "ann", "team": "a"},
        {"aws": "createdBy:ann"},
        {"{team}": "a"},
        {'a "quoted" key': "50%,\u00e4"},
    ]
    for number, tags in enumerate(tagged):
        body = {"resource_type": "llm", "cost_amount": 10**number, "tags": tags}
        assert (await client.post("/cost-tracking/record", body)).status_code == 202

    async def total(*tags: str) -> int:
        query = [("tags", one) for one in tags]
        listed = await client.get("/cost-tracking/records", params=query)
        assert listed.status_code == 200, listed.text
        costs = sum(one["cost_amount"] for one in listed.json()["records"])
        report = await client.get("/cost-tracking/reports", params=query)
        assert report.json()["total_cost"] == costs
        return costs

    for number, tags in enumerate(tagged):
        assert await total(json.dumps(tags)) == 10**number
    assert await total('{"aws:createdBy":"ann"}', "team:a") == 1
    assert await total('{"team":"a"}', "team:a") == 1
    assert await total("aws:createdBy:ann") == 10
    assert await total("{}") == 1111


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
async def test_a_number_that_is_no_json_is_named_by_its_record(
    client: AppClient, constant: str
) -> None:
    records = '{"resource_type":"llm","cost_amount":1},{"resource_type":"llm","cost_amount":%s}'
    body = f'{{"records":[{records % constant}]}}'
    reply = await client.send("POST", f"{API}/cost-tracking/record/batch", content=body)
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, "records[1].cost_amount")
    assert (await client.get("/cost-tracking/records")).json()["records"] == []


# the first of these can be decoded, and with more of the stack in use it cannot
@pytest.mark.parametrize("levels", [33, 900, 960, 100_000])
async def test_usage_that_is_nested_too_deep_is_refused_and_nothing_else_is(
    client: AppClient, levels: int
) -> None:
    deep = '{"a":' * levels + "1" + "}" * levels
    record = '{"resource_type":"llm","cost_amount":1,"usage":%s}'

    async def send(path: str, body: str) -> httpx.Response:
        return await client.send("POST", API + path, content=body)

    def require_named(problem: Any, field: str) -> None:
        assert problem["error_code"] == "VALIDATION_ERROR"
        assert problem["details"] == {"field": field}
        assert problem["message"] == f"{field}: is nested deeper than 32 levels"

    reply = await send("/cost-tracking/record", record % deep)
    assert reply.status_code == 400
    require_named(reply.json(), "usage")

    check = f'{{"resource_type":"llm","estimated_cost":1,"operation_context":{deep}}}'
    reply = await send("/budgets/check", check)
    assert reply.status_code == 400
    require_named(reply.json(), "operation_context")
    reply = await send("/budgets/check/batch", f'{{"checks":[{check}]}}')
    assert reply.status_code == 400
    require_named(reply.json(), "checks[0].operation_context")

    await client.make_budget()
    held = await client.post(
        "/budgets/check", {"resource_type": "llm", "estimated_cost": 1, "project_id": "search"}
    )
    settle = f"/budgets/reservations/{held.json()['reservation_id']}/settle"
    reply = await send(settle, f'{{"actual_cost":1,"usage":{deep}}}')
    assert reply.status_code == 400
    require_named(reply.json(), "usage")

    items = f"{record % deep},{record % '{}'}"
    reply = await send("/cost-tracking/record/batch", f'{{"records":[{items}]}}')
    assert reply.status_code == 202
    refused, kept = reply.json()["results"]
    require_named(refused["error"], "usage")
    assert kept["record"]["record_id"]

    reply = await send("/cost-tracking/record/stream", f"{record % deep}\n{record % '{}'}")
    first, second, _ = map(json.loads, reply.text.splitlines())
    if len(deep) < MAX_LINE_BYTES:
        require_named(first["error"], "usage")
    else:
        assert first["error"]["error_code"] == "PAYLOAD_TOO_LARGE"
    assert second["record_id"]

    records = (await client.get("/cost-tracking/records")).json()["records"]
    assert {one["record_id"] for one in records} == {
        kept["record"]["record_id"],
        second["record_id"],
    }


async def test_usage_of_before_its_depth_was_limited_leaves_the_list_readable(
    client: AppClient,
) -> None:
    request = RecordRequest(resource_type="llm", cost_amount=Amount(1))
    command = record_command(request, "acme", client.clock.now())
    usage = json.loads('{"a":' * 900 + "1" + "}" * 900)
    client.engine.ledger.execute(replace(command, cost=replace(command.cost, usage=usage)))
    reply = await client.get("/cost-tracking/records")
    assert reply.status_code == 200
    (record,) = reply.json()["records"]
    inner = record["usage"]
    for _ in range(MAX_LEVELS):
        inner = inner["a"]
    assert inner == '{"a":' * 868 + "1" + "}" * 868
    reply = await client.get(f"/cost-tracking/records/{record['record_id']}")
    assert reply.json()["usage"] == record["usage"]


async def test_a_report_is_the_same_by_query_and_by_body(client: AppClient) -> None:
    await record_all(client)
    query = "report_type=by_resource&group_by=project&group_by=region&tags=team:a"
    by_query = (await client.get(f"/cost-tracking/reports?{query}")).json()
    body = {
        "report_type": "by_resource",
        "group_by": ["project", "region"],
        "tags": {"team": "a"},
    }
    by_body = (await client.post("/cost-tracking/reports", body)).json()
    assert by_query.pop("correlation_id") != by_body.pop("correlation_id")
    assert by_query == by_body
    assert by_query["total_cost"] == 1.5
    assert by_query["group_by"] == ["resource_type", "project", "region"]


async def test_a_report_adds_up_and_compares(client: AppClient) -> None:
    await record_all(client)
    query = (
        "start_date=2026-03-10T00:00:00Z&end_date=2026-03-11T00:00:00Z"
        "&compare_previous=true&group_by=project"
    )
    report = (await client.get(f"/cost-tracking/reports?{query}")).json()
    assert report["total_cost"] == 3.75
    assert report["previous"]["total_cost"] == 4
    csv = await client.get(f"/cost-tracking/reports?{query}&format=csv")
    assert csv.headers["Content-Disposition"] == 'attachment; filename="costs.csv"'
    assert csv.text.splitlines()[1].startswith("search,USD,3.75,2")


async def test_a_reports_defaults_are_the_tenants(client: AppClient) -> None:
    await client.put("/tenants/acme", {"currency": "EUR", "timezone": "Asia/Kolkata"})
    report = (await client.get("/cost-tracking/reports")).json()
    assert (report["currency"], report["timezone"]) == ("EUR", "Asia/Kolkata")
    assert (await client.get("/cost-tracking/reports?timezone=Nowhere")).status_code == 400
    assert (await client.get("/cost-tracking/reports?group_by=moon")).status_code == 400


async def test_costs_are_for_tenant_users_too(client: AppClient) -> None:
    ids = await record_all(client)
    key = client.make_key(Role.TENANT_USER)
    assert (await client.get(f"/cost-tracking/records/{ids[0]}", key=key)).status_code == 200
    assert (await client.get("/cost-tracking/reports", key=key)).status_code == 200
    assert (await client.get("/budgets", key=key)).status_code == 403

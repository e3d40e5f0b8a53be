"""Times at the ends of time: some zones have moments there that UTC has not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from fiscus.http.app import ENDPOINTS
from fiscus.http.openapi.document import build_document
from tests.http.app_client import API

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

TOO_LATE = "9999-12-31T23:59:59-14:00"
TOO_EARLY = "0001-01-01T00:00:00+14:00"
LAST = "9999-12-31T23:59:59.999999Z"
FIRST = "0001-01-01T00:00:00Z"


class Place(NamedTuple):
    """Where a time is taken."""

    method: str
    path: str
    field: str
    body: dict[str, Any] | None
    """With this around it; None: it is a parameter of the query."""

    def __str__(self) -> str:
        return f"{self.method} {self.path.removeprefix(API)} {self.field}"


def is_moment(schema: dict[str, Any]) -> bool:
    return any(one.get("format") == "date-time" for one in (schema, *schema.get("anyOf", [])))


def places() -> list[Place]:
    """Every field of a body and every parameter that is a time, by the API's own description."""
    document = json.loads(build_document(ENDPOINTS))
    found: list[Place] = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found += [
                Place(method.upper(), path, one["name"], None)
                for one in operation["parameters"]
                if is_moment(one["schema"])
            ]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None:
                continue
            schema = document["components"]["schemas"][body["schema"]["$ref"].rsplit("/", 1)[1]]
            found += [
                Place(method.upper(), path, name, body["example"])
                for name, one in schema["properties"].items()
                if is_moment(one)
            ]
    return found


PLACES = places()


def test_times_are_found_in_bodies_and_queries() -> None:
    assert {place.field for place in PLACES} >= {"expires_at", "timestamp", "start", "since"}


@pytest.mark.parametrize("moment", [TOO_LATE, TOO_EARLY, LAST, FIRST])
@pytest.mark.parametrize("place", PLACES, ids=str)
async def test_a_time_that_is_out_of_range_is_a_400_that_names_it(
    client: AppClient, place: Place, moment: str
) -> None:
    path = place.path
    if "{quota_id}" in path:
        path = path.replace("{quota_id}", (await client.make_quota())["quota_id"])
    path = path.replace("{reservation_id}", "01a20dc2-6604-7c51-8289-92e520253797")
    if place.body is None:
        reply = await client.send(place.method, path, params={place.field: moment})
    else:
        reply = await client.send(place.method, path, json={**place.body, place.field: moment})
    if place.path.endswith("/history"):
        assert reply.status_code == 200  # it is empty or whole
        return
    assert reply.status_code == 400, reply.text
    assert reply.json()["details"] == {"field": place.field}


async def test_a_time_out_of_range_fails_its_record_alone(client: AppClient) -> None:
    records = [
        {"resource_type": "llm", "cost_amount": 1, "timestamp": moment}
        for moment in (TOO_LATE, "2026-03-10T12:00:00Z", TOO_EARLY)
    ]
    answer = (await client.post("/cost-tracking/record/batch", {"records": records})).json()
    assert (answer["recorded"], answer["failed"]) == (1, 2)


async def test_a_key_expires_when_it_was_said_in_whatever_zone(client: AppClient) -> None:
    spec = {"name": "gateway", "roles": ["service"], "expires_at": "2026-03-10T22:00:00+09:00"}
    made = (await client.post("/api-keys", spec)).json()
    assert made["expires_at"] == "2026-03-10T13:00:00Z"
    assert (await client.get("/api-keys")).status_code == 200
    assert (await client.delete(f"/api-keys/{made['key_id']}")).status_code == 200

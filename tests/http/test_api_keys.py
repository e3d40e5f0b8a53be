"""API keys over HTTP: made once, shown once, revoked at once."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from fiscus.access.keys import CredentialCache
from fiscus.access.model import Role
from fiscus.http.auth.authenticator import Authenticator
from fiscus.http.header_fields import HeaderFields
from fiscus.settings import Settings
from tests.http.app_client import API, NOON

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

SPEC = {"name": "gateway", "roles": ["service", "service"]}


async def test_a_new_key_works_and_is_never_shown_again(client: AppClient) -> None:
    made = (await client.post("/api-keys", SPEC)).json()
    assert made["roles"] == ["service"]
    assert made["api_key"].startswith(made["hint"])
    check = {"resource_type": "llm", "estimated_cost": 1}
    assert (await client.post("/budgets/check", check, key=made["api_key"])).status_code == 200
    bearer = {"Authorization": f"Bearer {made['api_key']}"}
    reply = await client.post("/budgets/check", check, key=None, headers=bearer)
    assert reply.status_code == 200
    listed = await client.get("/api-keys")
    assert made["api_key"] not in listed.text
    assert made["key_id"] in listed.text


async def test_a_key_may_claim_the_priority_it_was_made_with(client: AppClient) -> None:
    assert (await client.post("/api-keys", SPEC)).json()["highest_priority"] == "normal"
    made = (await client.post("/api-keys", {**SPEC, "highest_priority": "high"})).json()
    assert made["highest_priority"] == "high"
    door = Authenticator(client.engine.api_keys, CredentialCache(), Settings())
    caller = await door.authenticate(HeaderFields({b"x-api-key": made["api_key"].encode()}), NOON)
    assert caller.highest_priority == "high"
    refused = await client.post("/api-keys", {**SPEC, "highest_priority": "urgent"})
    assert refused.status_code == 400
    assert refused.json()["details"] == {"field": "highest_priority"}


async def test_a_revoked_key_is_refused_at_once(client: AppClient) -> None:
    made = (await client.post("/api-keys", SPEC)).json()
    check = {"resource_type": "llm", "estimated_cost": 1}
    assert (await client.post("/budgets/check", check, key=made["api_key"])).status_code == 200
    for _ in range(2):
        revoked = await client.delete(f"/api-keys/{made['key_id']}")
        assert revoked.status_code == 200
        assert revoked.json()["revoked_at"] == "2026-03-10T12:00:00Z"
    reply = await client.post("/budgets/check", check, key=made["api_key"])
    assert reply.status_code == 401
    assert reply.json()["message"] == "The API key was revoked"


async def test_a_key_revoked_by_another_process_is_refused_within_ten_seconds(
    client: AppClient,
) -> None:
    made = (await client.post("/api-keys", SPEC)).json()
    check = {"resource_type": "llm", "estimated_cost": 1}
    assert (await client.post("/budgets/check", check, key=made["api_key"])).status_code == 200
    client.engine.api_keys.revoke("acme", made["key_id"], client.clock.now())
    client.clock.advance(seconds=10)
    assert (await client.post("/budgets/check", check, key=made["api_key"])).status_code == 401


async def test_a_key_stops_at_its_expiry_also_when_it_is_remembered(client: AppClient) -> None:
    spec = {**SPEC, "expires_at": "2026-03-10T12:00:05Z"}
    made = (await client.post("/api-keys", spec)).json()
    check = {"resource_type": "llm", "estimated_cost": 1}
    assert (await client.post("/budgets/check", check, key=made["api_key"])).status_code == 200
    client.clock.advance(seconds=5)
    reply = await client.post("/budgets/check", check, key=made["api_key"])
    assert reply.status_code == 401
    assert reply.json()["message"] == "The API key has expired"


async def test_a_key_that_expires_in_the_past_is_not_made(client: AppClient) -> None:
    reply = await client.post("/api-keys", {**SPEC, "expires_at": "2026-03-10T12:00:00Z"})
    assert reply.status_code == 400
    assert reply.json()["details"] == {"field": "expires_at"}


async def test_the_secret_is_answered_to_the_first_of_repeated_requests_only(
    client: AppClient,
) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = await client.post("/api-keys", SPEC, headers=headers)
    again = await client.post("/api-keys", SPEC, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["key_id"] == first.json()["key_id"]
    assert again.json()["api_key"] is None
    other = await client.post("/api-keys", {**SPEC, "name": "other"}, headers=headers)
    assert other.status_code == 409
    assert other.json()["error_code"] == "IDEMPOTENCY_CONFLICT"


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "No credential"),
        ({"X-API-Key": ""}, "No credential"),
        ({"X-API-Key": "fsk_nobody-has-this-key-at-all"}, "not valid"),
        ({"X-API-Key": "k" * 5000}, "not valid"),
        ({"X-API-Key": "schlüssel".encode()}, "not valid"),
        ({"Authorization": "Basic YTpi"}, "Bearer"),
        ({"Authorization": "Bearer"}, "No credential"),
        ({"Authorization": "Bearer a.b.c"}, "JSON Web Token"),
        ({"Authorization": "Bearer fsk_a.b.c"}, "not valid"),
        ({"Authorization": "Bearer x", "X-API-Key": "x"}, "Two credentials"),
    ],
)
async def test_a_bad_credential_is_refused_with_its_reason(
    client: AppClient, headers: dict[str, str], says: str
) -> None:
    for method, path in (("GET", "/budgets"), ("POST", "/budgets/check")):
        reply = await client.http.request(method, API + path, headers=headers)
        assert reply.status_code == 401
        problem = reply.json()
        assert says in problem["message"]
        assert problem["tenant_id"] is None
        assert problem["suggested_action"]
        assert reply.headers["WWW-Authenticate"]


async def test_expiry_of_a_key_shows_in_the_list(client: AppClient) -> None:
    client.make_key(Role.AUDITOR, expires_at=NOON + timedelta(days=1))
    listed = (await client.get("/api-keys?page_size=1")).json()
    assert listed["api_keys"][0]["expires_at"] == "2026-03-11T12:00:00Z"
    assert listed["pagination"]["total_count"] == 2

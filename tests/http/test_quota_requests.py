"""Requests for more of a quota over HTTP: who may ask, who decides, what a decision does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from tests.http.quota_calls import NOBODY, path_of, use

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio


async def ask(client: AppClient, quota: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request of a new tenant_user's."""
    body = {"quota_id": quota["quota_id"], "additional_amount": 25, "reason": "Launch", **fields}
    reply = await client.post("/quotas/requests", body, key=client.make_key(Role.TENANT_USER))
    assert reply.status_code == 201, reply.text
    return reply.json()


async def decide(client: AppClient, request: dict[str, Any], verb: str, **more: Any) -> Any:
    return await client.post(f"/quotas/requests/{request['request_id']}/{verb}", {}, **more)


async def test_an_approved_request_grows_the_quota(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=100)
    await use(client, 100)
    request = await ask(client, quota)
    assert (request["status"], request["decided_by"]) == ("pending", None)
    assert (await use(client, 5))["allowed"] is False, "asking alone changes nothing"
    path = f"/quotas/requests/{request['request_id']}/approve"
    reply = await client.post(path, {"comment": "For March"})
    assert reply.status_code == 200, reply.text
    approved = reply.json()
    assert (approved["status"], approved["comment"]) == ("approved", "For March")
    assert approved["decided_by"] not in {None, request["requested_by"]}
    grown = (await client.get(path_of(quota))).json()
    assert (grown["allocated_amount"], grown["version"]) == (125, 2)
    assert (await use(client, 5))["allowed"] is True


async def test_a_rejected_request_leaves_the_quota_alone(client: AppClient) -> None:
    quota = await client.make_quota()
    request = await ask(client, quota)
    rejected = await decide(client, request, "reject")
    assert (rejected.status_code, rejected.json()["status"]) == (200, "rejected")
    assert (await client.get(path_of(quota))).json()["version"] == 1


async def test_a_request_is_decided_once(client: AppClient) -> None:
    quota = await client.make_quota()
    request = await ask(client, quota)
    assert (await decide(client, request, "approve")).status_code == 200
    for verb in ("approve", "reject"):
        reply = await decide(client, request, verb)
        assert (reply.status_code, reply.json()["error_code"]) == (409, "CONFLICT")
    assert (await client.get(path_of(quota))).json()["allocated_amount"] == 125


async def test_nobody_decides_their_own_request(client: AppClient) -> None:
    quota = await client.make_quota()
    body = {"quota_id": quota["quota_id"], "additional_amount": 1, "reason": "Launch"}
    key = client.make_key(Role.TENANT_ADMIN)
    request = (await client.post("/quotas/requests", body, key=key)).json()
    for verb in ("approve", "reject"):
        reply = await decide(client, request, verb, key=key)
        assert (reply.status_code, reply.json()["error_code"]) == (403, "FORBIDDEN")
    other = client.make_key(Role.TENANT_ADMIN)
    assert (await decide(client, request, "approve", key=other)).status_code == 200


async def test_a_tenant_user_may_look_and_ask_and_no_more(client: AppClient) -> None:
    quota = await client.make_quota()
    request = await ask(client, quota)
    key = client.make_key(Role.TENANT_USER)
    assert (await client.get(path_of(quota), key=key)).status_code == 200
    assert (await client.get("/quotas/requests", key=key)).status_code == 200
    for verb in ("approve", "reject"):
        assert (await decide(client, request, verb, key=key)).status_code == 403
    assert (await client.delete(path_of(quota), key=key)).status_code == 403
    check = {"resource_type": "gpu_hours", "required_amount": 1, "project_id": "vision"}
    assert (await client.post("/quotas/check", check, key=key)).status_code == 403


async def test_requests_are_listed_by_status_and_quota(client: AppClient) -> None:
    vision, speech = await client.make_quota(), await client.make_quota(scope_id="speech")
    first, second = await ask(client, vision), await ask(client, speech)
    await decide(client, second, "reject")

    async def shown(**query: Any) -> list[str]:
        reply = await client.get("/quotas/requests", params=query)
        assert reply.status_code == 200, reply.text
        return [one["request_id"] for one in reply.json()["requests"]]

    assert await shown() == [second["request_id"], first["request_id"]]
    assert await shown(status="pending") == [first["request_id"]]
    assert await shown(status="rejected") == [second["request_id"]]
    assert await shown(quota_id=speech["quota_id"]) == [second["request_id"]]
    wrong = await client.get("/quotas/requests?status=open")
    assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "status")


async def test_asking_again_with_the_same_key_asks_once(client: AppClient) -> None:
    quota = await client.make_quota()
    body = {"quota_id": quota["quota_id"], "additional_amount": 1, "reason": "Launch"}
    headers = {"X-Idempotency-Key": "once"}
    first, again = [
        (await client.post("/quotas/requests", body, headers=headers)).json() for _ in range(2)
    ]
    assert first["request_id"] == again["request_id"]
    assert len((await client.get("/quotas/requests")).json()["requests"]) == 1


async def test_wrong_requests_name_the_field(client: AppClient) -> None:
    quota = await client.make_quota()
    body = {"quota_id": quota["quota_id"], "additional_amount": 1, "reason": "Launch"}
    for fields, field in (
        ({"additional_amount": 0}, "additional_amount"),
        ({"additional_amount": -1}, "additional_amount"),
        ({"additional_amount": "NaN"}, "additional_amount"),
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"reason": "a\x00"}, "reason"),
        ({"quota_id": "a b"}, "quota_id"),
        ({"amount": 1}, "amount"),
    ):
        reply = await client.post("/quotas/requests", {**body, **fields})
        assert (reply.status_code, reply.json()["details"]["field"]) == (400, field), fields
    for quota_id in (NOBODY, "x"):
        reply = await client.post("/quotas/requests", {**body, "quota_id": quota_id})
        assert (reply.status_code, reply.json()["error_code"]) == (404, "NOT_FOUND")
    for request_id in (NOBODY, "x"):
        for verb in ("approve", "reject"):
            reply = await client.post(f"/quotas/requests/{request_id}/{verb}", {})
            assert (reply.status_code, reply.json()["error_code"]) == (404, "NOT_FOUND")


async def test_a_request_whose_period_is_over_is_not_approved(client: AppClient) -> None:
    quota = await client.make_quota()
    request = await ask(client, quota)
    client.clock.advance(hours=40 * 24)
    reply = await decide(client, request, "approve")
    assert (reply.status_code, reply.json()["error_code"]) == (409, "CONFLICT")

"""Counters of rate limits over HTTP: use, resets, corrections, bad input, no counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from tests.http.app_client import open_app
from tests.http.rate_limit_calls import path_of, remaining, take

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.app_client import AppClient
    from tests.valkey import Servers

pytestmark = pytest.mark.anyio


async def adjust(client: AppClient, count: int, **fields: Any) -> dict[str, Any]:
    body = {"resource_type": "llm", "user_id": "ada", "request_count": count, **fields}
    reply = await client.post("/rate-limits/adjust", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


# ---------------------------------------------------------------- use


async def test_usage_shows_the_counter_asked_for(client: AppClient) -> None:
    policy = await client.make_policy()
    await take(client, 2)
    await take(client, 1, resource_key="10.0.0.7")

    async def counter(**query: Any) -> Any:
        reply = await client.get(path_of(policy, "/usage"), params=query)
        assert reply.status_code == 200, reply.text
        assert reply.json()["degraded"] is False
        return reply.json()["counter"]

    assert await counter() is None
    assert (await counter(scope_id="ada"))["remaining_requests"] == 3
    keyed = await counter(scope_id="ada", resource_key="10.0.0.7")
    assert keyed == {
        "scope_id": "ada",
        "resource_key": "10.0.0.7",
        "limit_value": 5,
        "remaining_requests": 4,
        "reset_time": "2026-03-10T12:00:12Z",
    }
    assert (await counter(scope_id="bob"))["remaining_requests"] == 5


async def test_usage_of_a_policy_for_one_scope_needs_no_scope_id(client: AppClient) -> None:
    policy = await client.make_policy(scope_id="ada")
    await take(client, 2)
    found = (await client.get(path_of(policy, "/usage"))).json()
    assert found["counter"]["remaining_requests"] == 3
    wrong = await client.get(path_of(policy, "/usage?scope_id=bob"))
    assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "scope_id")


async def test_usage_shows_windows_newest_first(client: AppClient) -> None:
    policy = await client.make_policy()
    await take(client, 4)
    await take(client, 2)
    await take(client, 1, user_id="bob")
    client.clock.advance(minutes=2)
    await take(client, 3)
    client.engine.limiter.flush_usage()

    async def windows(**query: Any) -> list[tuple[Any, ...]]:
        found = (await client.get(path_of(policy, "/usage"), params=query)).json()
        names = ("scope_id", "window_start", "checks", "admitted", "denied")
        return [tuple(one[name] for name in names) for one in found["windows"]]

    early, late = "2026-03-10T12:00:00Z", "2026-03-10T12:02:00Z"
    assert await windows(scope_id="ada") == [("ada", late, 1, 3, 0), ("ada", early, 2, 4, 2)]
    assert await windows(scope_id="bob") == [("bob", early, 1, 1, 0)]
    everybody = await windows()
    assert len(everybody) == 3
    assert await windows(page_size=2) + await windows(page_size=2, page=2) == everybody


# ---------------------------------------------------------------- reset


async def test_a_reset_makes_one_counter_unused(client: AppClient) -> None:
    policy = await client.make_policy()
    for fields in ({}, {"resource_key": "k"}, {"user_id": "bob"}):
        await take(client, 5, **fields)
    path = path_of(policy, "/reset")
    assert (await client.post(path, {"scope_id": "ada"})).status_code == 204
    assert await remaining(client) == 5
    assert await remaining(client, resource_key="k") == 0
    assert (await client.post(path, {"scope_id": "ada", "resource_key": "k"})).status_code == 204
    assert await remaining(client, resource_key="k") == 5
    assert await remaining(client, user_id="bob") == 0


async def test_a_reset_without_a_scope_makes_every_counter_unused(client: AppClient) -> None:
    policy = await client.make_policy()
    for fields in ({}, {"resource_key": "k"}, {"user_id": "bob"}):
        await take(client, 5, **fields)
    assert (await client.post(path_of(policy, "/reset"), {})).status_code == 204
    for fields in ({}, {"resource_key": "k"}, {"user_id": "bob"}):
        assert await remaining(client, **fields) == 5
    assert (await client.get(path_of(policy))).json()["version"] == 1


async def test_a_reset_must_say_whose_counter_it_means(client: AppClient) -> None:
    path = path_of(await client.make_policy(), "/reset")
    for body, field in (
        ({"resource_key": "k"}, "scope_id"),
        ({"scope_id": "a b"}, "scope_id"),
        ({"scope_id": "ada", "resource_key": ""}, "resource_key"),
        ({"scope_id": "ada", "resource_key": "k" * 10_240}, "resource_key"),
        ({"all": True}, "all"),
    ):
        reply = await client.post(path, body)
        assert (reply.status_code, reply.json()["details"]["field"]) == (400, field)
    own = path_of(await client.make_policy(scope_id="ada"), "/reset")
    assert (await client.post(own, {"scope_id": "bob"})).status_code == 400
    assert (await client.post(own, {"resource_key": "k"})).status_code == 204


# ---------------------------------------------------------------- corrections


async def test_an_adjustment_gives_back_and_charges_more(client: AppClient) -> None:
    await client.make_policy()
    await take(client, 4)
    back = await adjust(client, -3)
    assert (back["allowed"], back["remaining_requests"], back["degraded"]) == (True, 4, False)
    assert (await adjust(client, 2))["remaining_requests"] == 2
    assert await remaining(client) == 2


async def test_an_adjustment_never_falls_below_zero_use_and_is_never_refused(
    client: AppClient,
) -> None:
    policy = await client.make_policy()
    assert (await adjust(client, -100))["remaining_requests"] == 5
    assert (await adjust(client, 100))["remaining_requests"] == 0
    assert (await take(client))["allowed"] is False
    assert (await adjust(client, -100))["policy_id"] == policy["policy_id"]
    assert await remaining(client) == 5


async def test_an_adjustment_that_no_policy_matches_changes_nothing(client: AppClient) -> None:
    await client.make_policy()
    answer = await adjust(client, 3, resource_type="api")
    assert (answer["policy_id"], answer["policies"]) == (None, [])


async def test_an_adjustment_is_of_the_calling_api_key(client: AppClient) -> None:
    await client.make_policy(scope_type="api_key")
    key = client.make_key(Role.SERVICE)
    body = {"resource_type": "llm", "request_count": 2}
    reply = await client.post("/rate-limits/adjust", body, key=key)
    assert (reply.status_code, reply.json()["remaining_requests"]) == (200, 3)
    other = await client.post("/rate-limits/adjust", body, key=client.make_key(Role.SERVICE))
    assert other.json()["remaining_requests"] == 3


# ---------------------------------------------------------------- requests that cannot be


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"request_count": 10**12 + 1}, "request_count"),
    ({"request_count": -(10**12) - 1}, "request_count"),
    ({"request_count": 0.5}, "request_count"),
    ({"request_count": "1"}, "request_count"),
    ({"request_count": 10**400}, "request_count"),
    ({"resource_type": ""}, "resource_type"),
    ({"resource_type": None}, "resource_type"),
    ({"resource_key": ""}, "resource_key"),
    ({"resource_key": "k" * 10_240}, "resource_key"),
    ({"resource_key": "a\x00b"}, "resource_key"),
    ({"user_id": "ada@example.org"}, "user_id"),
    ({"key": "k"}, "key"),
]


@pytest.mark.parametrize("path", ["/rate-limits/check", "/rate-limits/adjust"])
async def test_bad_input_is_a_400_that_names_the_field(client: AppClient, path: str) -> None:
    await client.make_policy()
    for fields, field in BAD_REQUESTS:
        body = {"resource_type": "llm", "user_id": "ada", "request_count": 1, **fields}
        reply = await client.post(path, body)
        assert (reply.status_code, reply.json()["details"].get("field")) == (400, field), fields
    assert await remaining(client) == 5


async def test_a_batch_with_bad_input_names_the_check_and_takes_nothing(client: AppClient) -> None:
    await client.make_policy()
    good = {"resource_type": "llm", "user_id": "ada"}
    for bad in ("", "k" * 10_240):
        checks = [good, {**good, "resource_key": bad}]
        reply = await client.post("/rate-limits/check/batch", {"checks": checks})
        assert reply.status_code == 400
        assert reply.json()["details"]["field"].startswith("checks[")
        assert reply.json()["details"]["field"].endswith("resource_key")
    assert await remaining(client) == 5


async def test_more_than_a_counter_can_hold_is_said_to_be_never_satisfiable(
    client: AppClient,
) -> None:
    await client.make_policy(burst_capacity=2)
    answer = await take(client, 8)
    assert (answer["allowed"], answer["retry_after"]) == (False, None)
    assert (answer["remaining_requests"], answer["policies"][0]["ceiling"]) == (7, 7)
    assert "never" in answer["message"]
    assert (await take(client, 7))["allowed"] is True


async def test_a_resource_key_may_be_1024_characters_long(client: AppClient) -> None:
    await client.make_policy()
    key = "é" * 1024
    assert (await take(client, 2, resource_key=key))["remaining_requests"] == 3
    assert await remaining(client, resource_key=key) == 3
    assert await remaining(client, resource_key=key[:-1]) == 5


# ---------------------------------------------------------------- without counters


async def test_without_counters_usage_says_so_and_corrections_can_be_sent_again(
    data_dir: Path,
) -> None:
    async with open_app(data_dir, redis_url="redis://127.0.0.1:1/0") as client:
        policy = await client.make_policy()
        assert (await take(client))["degraded"] is True
        usage = await client.get(path_of(policy, "/usage?scope_id=ada"))
        assert usage.status_code == 200
        assert (usage.json()["degraded"], usage.json()["counter"]) == (True, None)
        body = {"resource_type": "llm", "user_id": "ada", "request_count": 1}
        for path, sent in (
            ("/rate-limits/adjust", body),
            (path_of(policy, "/reset"), {"scope_id": "ada"}),
        ):
            reply = await client.post(path, sent)
            assert (reply.status_code, reply.json()["retriable"]) == (503, True)
            assert int(reply.headers["Retry-After"]) >= 1
        assert (await client.post(path_of(policy, "/reset"), {})).status_code == 204
        assert (await client.delete(path_of(policy, "?force=true"))).status_code == 204


async def test_a_correction_that_was_not_answered_is_not_said_to_be_retriable(
    data_dir: Path, valkey_servers: Servers
) -> None:
    valkey = valkey_servers.start()
    async with open_app(data_dir, redis_url=valkey.url) as client:
        await client.make_policy()
        body = {"resource_type": "llm", "user_id": "ada", "request_count": 1}
        valkey.pause()
        reply = await client.post("/rate-limits/adjust", body)
        assert (reply.status_code, reply.json()["retriable"]) == (503, False)
        assert "may have been made" in reply.json()["message"]
        assert "Retry-After" not in reply.headers
        valkey.resume()


async def test_a_correction_that_no_policy_matches_asks_no_counters(
    data_dir: Path, valkey_url: str
) -> None:
    async with open_app(data_dir, redis_url=valkey_url) as client:
        answer = await adjust(client, -3)
        assert (answer["message"], answer["policies"]) == ("No policy applies", [])

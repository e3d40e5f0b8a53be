"""Checks of rate limits over HTTP: what is answered, with which headers, by which credential."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from fiscus.http.limiting import LoopLimiter
from fiscus.ids import uuid7
from fiscus.ratelimits.counter_loop import PORTION
from tests.http.app_client import POLICY, AppClient, open_app
from tests.ratelimits.desk import Desk
from tests.ratelimits.policies import TENANT, policy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from fiscus.ratelimits.policy_port import TenantPolicies
    from tests.valkey import Servers, Valkey

pytestmark = pytest.mark.anyio

CHECK = {"resource_type": "llm", "user_id": "u-1"}


async def check(client: AppClient, path: str = "/rate-limits/check", **fields: Any) -> Any:
    reply = await client.post(path, {**CHECK, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_five_a_minute_admit_five_and_say_when(client: AppClient) -> None:
    policy = await client.make_policy(limit_value=5)
    answers = [await check(client) for _ in range(6)]
    assert [one["allowed"] for one in answers] == [True] * 5 + [False]
    assert [one["remaining_requests"] for one in answers] == [4, 3, 2, 1, 0, 0]
    denied = answers[-1]
    assert denied["policy_id"] == policy["policy_id"]
    assert (denied["retry_after"], denied["retry_after_ms"]) == (12, 12_000)
    client.clock.advance(seconds=12)
    assert (await check(client))["allowed"]


async def test_headers_tell_of_the_deciding_policy(client: AppClient) -> None:
    policy = await client.make_policy(limit_value=1)
    name = policy["policy_id"]
    first = await client.post("/rate-limits/check", CHECK)
    assert first.headers["RateLimit-Policy"] == f'"{name}";q=1;w=60'
    assert first.headers["RateLimit"] == f'"{name}";r=0;t=60'
    assert first.headers["X-RateLimit-Limit"] == "1"
    assert first.headers["X-RateLimit-Remaining"] == "0"
    assert first.headers["X-RateLimit-Reset"] == str(int(client.clock.now().timestamp()) + 60)
    assert "Retry-After" not in first.headers
    second = await client.post("/rate-limits/check", CHECK)
    assert second.headers["Retry-After"] == "60"


async def test_enforced_denial_is_429_with_the_answer_in_it(client: AppClient) -> None:
    await client.make_policy(limit_value=1)
    await check(client)
    reply = await client.post("/rate-limits/check?enforce=true", CHECK)
    assert reply.status_code == 429
    assert reply.headers.get_list("Retry-After") == ["60"]
    problem = reply.json()
    assert problem["error_code"] == "RATE_LIMIT_VIOLATED"
    assert problem["retriable"] is True
    assert problem["details"]["policies"][0]["decision"] == "deny"
    assert problem["details"]["correlation_id"] == problem["correlation_id"]


async def test_enforced_denial_that_waiting_never_helps_is_not_retriable(client: AppClient) -> None:
    await client.make_policy(limit_value=5)
    reply = await client.post("/rate-limits/check?enforce=true", {**CHECK, "request_count": 6})
    assert reply.status_code == 429
    assert "Retry-After" not in reply.headers
    assert reply.json()["retriable"] is False
    assert reply.json()["details"]["retry_after"] is None


async def test_a_new_policy_binds_the_next_check(client: AppClient) -> None:
    assert (await check(client))["policies"] == []
    policy = await client.make_policy(limit_value=5)
    assert (await check(client))["policy_id"] == policy["policy_id"]
    changed = {k: policy[k] for k in ("scope_type", "scope_id", "resource_type", "version")}
    changed |= {"limit_value": 2, "time_window_seconds": 60}
    await client.put(f"/rate-limits/{policy['policy_id']}", changed)
    assert (await check(client))["remaining_requests"] == 0
    await client.delete(f"/rate-limits/{policy['policy_id']}?force=true")
    assert (await check(client))["policies"] == []


async def test_policies_that_change_all_the_time_are_read_once_a_call_and_beside_the_event_loop(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.make_policy()
    policies, readers = client.engine.policies, list[int]()
    live = policies.live

    def live_and_changed(tenant_id: str, now: datetime) -> TenantPolicies:
        found = live(tenant_id, now)
        readers.append(threading.get_ident())
        client.engine.limiter.changed(tenant_id)
        return found

    monkeypatch.setattr(policies, "live", live_and_changed)
    await check(client)
    await client.post("/rate-limits/check/batch", {"checks": [CHECK] * 5})
    assert len(readers) == 2
    assert threading.get_ident() not in readers


async def test_a_check_that_waits_for_policies_read_since_before_a_change_goes_by_the_change(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = await client.make_policy(limit_value=5)
    policies = client.engine.policies
    live, has_read, may_end = policies.live, threading.Event(), threading.Event()

    def live_slowly(tenant_id: str, now: datetime) -> TenantPolicies:
        found = live(tenant_id, now)
        has_read.set()
        may_end.wait(30)
        return found

    monkeypatch.setattr(policies, "live", live_slowly)
    before = asyncio.create_task(check(client))
    await asyncio.to_thread(has_read.wait, 30)
    await client.put(f"/rate-limits/{policy['policy_id']}", {**POLICY, "limit_value": 7})
    after = asyncio.create_task(check(client))
    await asyncio.sleep(0)
    may_end.set()
    assert (await before)["limit_value"] in {5, 7}
    assert (await after)["limit_value"] == 7


async def test_a_check_that_comes_as_a_reading_ends_goes_by_what_changed_during_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class AtOnce(LoopLimiter):
        """Its readings take one step of the event loop, after which others hear of their end."""

        async def _read(self, tenant_id: str, now: datetime) -> None:
            self._limiter.read_policies(tenant_id, now)

    desk = Desk(policy("a", limit_value=10))
    live, limiter, now = desk.policies.live, AtOnce(desk.limiter), desk.clock.now()

    def live_and_changed(tenant_id: str, now: datetime) -> TenantPolicies:
        found = live(tenant_id, now)
        monkeypatch.undo()
        desk.policies.put(policy("a", limit_value=3))
        desk.limiter.changed(TENANT)
        return found

    monkeypatch.setattr(desk.policies, "live", live_and_changed)
    before = asyncio.create_task(limiter.ready(TENANT, now))
    await asyncio.sleep(0)
    after = asyncio.create_task(limiter.ready(TENANT, now))
    await asyncio.gather(before, after)
    assert desk.policies.reads == 2
    assert desk.limiter.is_ready(TENANT)


async def test_batch_answers_each_in_order(client: AppClient) -> None:
    await client.make_policy(limit_value=3)
    body = {"checks": [{**CHECK, "request_count": n} for n in (2, 2, 1)]}
    answer = (await client.post("/rate-limits/check/batch", body)).json()
    assert [one["allowed"] for one in answer["results"]] == [True, False, True]
    assert answer["allowed"] is False
    enforced = await client.post("/rate-limits/check/batch?enforce=true", body)
    assert enforced.status_code == 429
    problem = enforced.json()
    assert [one["allowed"] for one in problem["details"]["results"]] == [False] * 3
    assert problem["details"]["correlation_id"] == problem["correlation_id"]


async def test_batch_of_more_than_500_is_413(client: AppClient) -> None:
    body = {"checks": [CHECK] * 501}
    assert (await client.post("/rate-limits/check/batch", body)).status_code == 413
    assert (await client.post("/rate-limits/check/batch", {"checks": []})).status_code == 400


async def test_a_batch_to_which_too_many_policies_apply_is_413_and_takes_nothing(
    client: AppClient,
) -> None:
    for _ in range(11):
        await client.make_policy(limit_value=1000)
    reply = await client.post("/rate-limits/check/batch", {"checks": [CHECK] * 500})
    problem = reply.json()
    assert (reply.status_code, problem["error_code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert problem["details"] == {"field": "checks", "maximum": 5000}
    assert (await check(client, request_count=0))["remaining_requests"] == 1000
    fewer = await client.post("/rate-limits/check/batch", {"checks": [CHECK] * 454})
    assert fewer.json()["allowed"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_count": -1}, "request_count"),
        ({"request_count": 1.5}, "request_count"),
        ({"request_count": 10**13}, "request_count"),
        ({"resource_key": ""}, "resource_key"),
        ({"resource_key": "x" * 10_000}, "resource_key"),
        ({"resource_key": "a\x00b"}, "resource_key"),
        ({"resource_type": ""}, "resource_type"),
        ({"priority": "urgent"}, "priority"),
        ({"user_id": "a b"}, "user_id"),
        ({"limit": 5}, "limit"),
    ],
)
async def test_wrong_checks_name_the_field(
    client: AppClient, fields: dict[str, Any], field: str
) -> None:
    reply = await client.post("/rate-limits/check", {**CHECK, **fields})
    assert reply.status_code == 400
    assert reply.json()["details"]["field"] == field


async def test_priority_is_what_the_key_may_claim(client: AppClient) -> None:
    await client.make_policy(limit_value=10)
    reply = await client.post("/rate-limits/check", {**CHECK, "priority": "high"})
    assert reply.status_code == 403
    assert reply.json()["details"]["field"] == "priority"
    made = await client.post(
        "/api-keys", {"name": "vip", "roles": ["service"], "highest_priority": "critical"}
    )
    key = made.json()["api_key"]
    reply = await client.post("/rate-limits/check", {**CHECK, "request_count": 0}, key=key)
    assert reply.json()["remaining_requests"] == 20
    assert reply.json()["policies"][0]["ceiling"] == 20


async def test_policies_of_api_keys_hold_for_the_calling_key(client: AppClient) -> None:
    key_id = uuid7()
    key = client.make_key(Role.SERVICE, key_id=key_id)
    await client.make_policy(scope_type="api_key", scope_id=key_id, limit_value=1)
    replies = [await client.post("/rate-limits/check", CHECK, key=key) for _ in range(2)]
    assert [one.json()["allowed"] for one in replies] == [True, False]
    assert (await check(client))["policies"] == []


async def test_another_tenants_policies_do_not_apply(client: AppClient) -> None:
    await client.make_policy(limit_value=1)
    key = client.make_key(Role.SERVICE, tenant_id="globex")
    reply = await client.post("/rate-limits/check", CHECK, key=key)
    assert reply.json()["policies"] == []
    reply = await client.post("/rate-limits/check", {**CHECK, "tenant_id": "acme"}, key=key)
    assert reply.status_code == 403


async def test_checks_are_counted_in_metrics(client: AppClient) -> None:
    await client.make_policy(limit_value=1)
    for _ in range(3):
        await check(client)
    shown = (await client.get("/metrics")).text
    assert (
        'fiscus_rate_limit_duration_seconds_count{operation="rate_limit_check",outcome="denied"} 2'
        in shown
    )
    assert 'fiscus_rate_limit_violations_total{algorithm="token_bucket"} 2.0' in shown


# ---------------------------------------------------------------- counters in Valkey


@asynccontextmanager
async def on_valkey(data_dir: Path, url: str, **more: Any) -> AsyncGenerator[AppClient]:
    # a machine that is busy with other tests must not make answers degraded
    settings = {"redis_url": url, "counters_timeout_seconds": 5.0, **more}
    async with open_app(data_dir, **settings) as client:
        yield client


async def test_on_valkey_a_hundred_at_once_admit_five(data_dir: Path, valkey_url: str) -> None:
    async with on_valkey(data_dir, valkey_url) as client:
        await client.make_policy(limit_value=5)
        answers = await asyncio.gather(*(check(client) for _ in range(100)))
    assert sum(one["allowed"] for one in answers) == 5
    assert not any(one["degraded"] for one in answers)


async def test_on_valkey_a_large_batch_is_asked_for_in_portions(
    data_dir: Path, valkey_servers: Servers
) -> None:
    valkey = valkey_servers.start()
    async with open_app(data_dir, redis_url=valkey.url, counters_timeout_seconds=5) as client:
        for limit in (5, 6, 7):
            await client.make_policy(scope_type="user", scope_id="*", limit_value=limit)
        checks = [{**CHECK, "user_id": f"u-{number % 50}"} for number in range(500)]
        reply = await client.post("/rate-limits/check/batch", {"checks": checks})
        results = reply.json()["results"]
        assert [one["allowed"] for one in results] == [True] * 250 + [False] * 250
        assert not any(one["degraded"] for one in results)
    with closing(valkey.client()) as redis:
        stats = redis.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] >= 500 * 3 / PORTION


async def test_on_valkey_two_servers_share_the_limit(
    data_dir: Path, tmp_path: Path, valkey_url: str
) -> None:
    async with on_valkey(data_dir, valkey_url) as one, on_valkey(data_dir, valkey_url) as other:
        await one.make_policy(limit_value=5)
        answers = await asyncio.gather(
            *(check(client) for client in (one, other) for _ in range(20))
        )
    assert sum(answer["allowed"] for answer in answers) == 5


async def test_on_valkey_the_apis_own_limit_comes_with_the_check(
    data_dir: Path, valkey_servers: Servers
) -> None:
    url = valkey_servers.start().url
    async with on_valkey(data_dir, url, api_limit_rate_limit_checks=3) as client:
        await client.make_policy(limit_value=2)
        replies = [await client.post("/rate-limits/check", CHECK) for _ in range(4)]
    assert [one.status_code for one in replies] == [200, 200, 200, 429]
    assert [one.json()["allowed"] for one in replies[:3]] == [True, True, False]
    assert replies[3].json()["details"]["limit"] == "api-rate-limit-checks"


@pytest.mark.parametrize(("policy", "allowed"), [("allow", True), ("deny", False)])
async def test_without_valkey_each_policy_says_what_happens(
    data_dir: Path, valkey_servers: Servers, policy: str, *, allowed: bool
) -> None:
    server = valkey_servers.start()
    async with on_valkey(data_dir, server.url) as client:
        await client.make_policy(limit_value=1, on_store_failure=policy)
        assert (await check(client))["allowed"]
        server.stop()
        answers = [await check(client) for _ in range(3)]
        assert [one["allowed"] for one in answers] == [allowed] * 3
        assert all(one["degraded"] for one in answers)
        shown = (await client.get("/metrics")).text
        assert "fiscus_rate_limit_degraded_answers_total 3.0" in shown
        health = (await client.send("GET", "/health", key=None)).json()
    assert health["status"] == "DEGRADED"
    assert any("counters" in reason for reason in health["reasons"])


async def test_without_valkey_local_policies_count_here_until_it_is_back(
    data_dir: Path, valkey_servers: Servers
) -> None:
    server = valkey_servers.start()
    async with on_valkey(data_dir, server.url) as client:
        await client.make_policy(limit_value=3)
        await check(client)
        server.stop()
        answers = [await check(client) for _ in range(4)]
        assert [one["allowed"] for one in answers] == [True, True, True, False]
        assert all(one["degraded"] for one in answers)
        server.start()
        client.clock.advance(seconds=5)  # the breaker's pause
        answer = await check(client)
    assert answer["allowed"]
    assert not answer["degraded"]


async def test_a_valkey_that_hangs_delays_no_answer_beyond_the_time_out(
    data_dir: Path, valkey_servers: Servers
) -> None:
    server: Valkey = valkey_servers.start()
    async with on_valkey(data_dir, server.url, counters_timeout_seconds=1) as client:
        await client.make_policy(limit_value=1000)
        assert not (await check(client))["degraded"]
        server.pause()
        try:
            loop = asyncio.get_running_loop()
            began = loop.time()
            answers = await asyncio.gather(*(check(client) for _ in range(50)))
            took = loop.time() - began
        finally:
            server.resume()
    assert all(one["degraded"] and one["allowed"] for one in answers)
    assert took < 5  # a hang would last as long as the pause

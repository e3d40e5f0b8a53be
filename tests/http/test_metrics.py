"""What Prometheus is told."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from fiscus.access.model import Role
from fiscus.http.monitoring import metrics as metrics_module
from tests.http.app_client import open_app

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client.registry import Collector

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio


async def samples(client: AppClient) -> dict[str, float]:
    reply = await client.send("GET", "/metrics")
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    rows = (line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


async def test_decisions_are_timed_by_operation_and_outcome(client: AppClient) -> None:
    await client.make_budget(budget_amount=1)
    check = {"resource_type": "llm", "estimated_cost": 1, "project_id": "search"}
    held = (await client.post("/budgets/check", check)).json()
    await client.post("/budgets/check", check)
    await client.post("/budgets/check?enforce=true", check)
    await client.post("/budgets/check", {})
    await client.post(f"/budgets/reservations/{held['reservation_id']}/settle", {"actual_cost": 1})
    found = await samples(client)

    def count(family: str, operation: str, outcome: str) -> float:
        labels = f'operation="{operation}",outcome="{outcome}"'
        return found[f"fiscus_{family}_duration_seconds_count{{{labels}}}"]

    assert count("check", "check", "allowed") == 1
    assert count("check", "check", "denied") == 2
    assert count("check", "check", "error") == 1
    assert count("record", "settle", "allowed") == 1
    assert count("commit", "group", "committed") >= 4
    assert found['fiscus_denials_total{action="hard_stop"}'] == 2


async def test_others_are_answered_between_two_metrics_of_an_answer(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    generate = metrics_module.generate_latest

    def noted(metric: Collector) -> bytes:
        order.append("metric")
        return generate(metric)

    async def others() -> None:
        while True:
            order.append("others")
            await asyncio.sleep(0)

    monkeypatch.setattr(metrics_module, "generate_latest", noted)
    going_on = asyncio.create_task(others())
    assert "fiscus_group_size_count" in await samples(client)
    going_on.cancel()
    shown = [at for at, what in enumerate(order) if what == "metric"]
    assert len(shown) > 10
    assert all("others" in order[one:next_] for one, next_ in pairwise(shown))


async def test_latency_buckets_are_those_of_the_contract(client: AppClient) -> None:
    found = await samples(client)
    bounds = [
        float(match[1]) * 1000
        for name in found
        if name.startswith("fiscus_commit_duration_seconds_bucket")
        and (match := re.search(r'le="([\d.]+)"', name))
    ]
    assert bounds == pytest.approx([1, 2, 5, 10, 15, 25, 50, 100, 250, 500])


async def test_the_ledger_shows_its_queue_groups_and_breaker(client: AppClient) -> None:
    await client.post("/budgets/check", {"resource_type": "llm", "estimated_cost": 1})
    found = await samples(client)
    assert found["fiscus_ledger_queue_depth"] == 0
    assert found["fiscus_group_size_count"] >= 1
    assert found['fiscus_breaker_state{state="closed"}'] == 1
    assert found['fiscus_breaker_state{state="open"}'] == 0
    assert found["fiscus_store_errors_total"] == 0


async def test_requests_are_counted_by_route_never_by_id(client: AppClient) -> None:
    for number in range(3):
        await client.get(f"/budgets/{number}")
    await client.send("GET", "/nobody/knows/this")
    await client.get("/budgets", key=None)
    found = await samples(client)

    def count(route: str, status: int) -> float:
        labels = f'method="GET",route="{route}",status="{status}"'
        return found[f"fiscus_http_requests_total{{{labels}}}"]

    assert count("/budget/v1/budgets/{budget_id}", 404) == 3
    assert count("none", 404) == 1
    assert count("/budget/v1/budgets", 401) == 1
    assert found['fiscus_access_denied_total{reason="credential"}'] == 1


_WORKER = """
from fiscus.http.monitoring.metrics import Metrics
metrics = Metrics()
metrics.decided("check", "allowed", 0.003)
metrics.group_committed(3, 0.002)
print(b"".join(metrics.render()).decode())
"""


def test_worker_processes_are_shown_as_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _WORKER],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert "fiscus_group_size_count 2.0" in done.stdout
    labels = 'operation="check",outcome="allowed"'
    assert f"fiscus_check_duration_seconds_count{{{labels}}} 2.0" in done.stdout


def looked_up(found: dict[str, float], cache: str) -> tuple[float, float]:
    """Hits and misses."""
    family = "fiscus_cache_lookups_total"
    hits = found[f'{family}{{cache="{cache}",outcome="hit"}}']
    return hits, found[f'{family}{{cache="{cache}",outcome="miss"}}']


async def test_caches_tell_their_hits_from_their_misses(client: AppClient) -> None:
    found = await samples(client)
    assert looked_up(found, "credentials") == (0, 1)
    assert looked_up(found, "definitions") == looked_up(found, "policies") == (0, 0)

    for _ in range(3):
        await client.post("/budgets/check", {"resource_type": "llm", "estimated_cost": 1})
        await client.post("/rate-limits/check", {"resource_type": "api"})
    found = await samples(client)
    assert looked_up(found, "credentials") == (7, 1)
    assert looked_up(found, "policies") == (2, 1)
    # a tenant of which nothing was written has no definitions to read
    assert looked_up(found, "definitions") == (3, 0)

    await client.make_budget()
    await client.make_policy()
    for _ in range(3):
        await client.post("/budgets/check", {"resource_type": "llm", "estimated_cost": 1})
        await client.post("/rate-limits/check", {"resource_type": "api"})
    found = await samples(client)
    assert looked_up(found, "policies") == (4, 2)
    assert looked_up(found, "definitions") == (5, 1)


async def test_a_method_that_a_word_in_the_place_of_an_id_has_not_is_counted_as_no_route(
    client: AppClient,
) -> None:
    assert (await client.get("/budgets/check")).status_code == 405
    labels = 'method="GET",route="none",status="405"'
    assert (await samples(client))[f"fiscus_http_requests_total{{{labels}}}"] == 1


async def test_callers_who_share_a_reading_of_policies_miss_once(client: AppClient) -> None:
    checks = [client.post("/rate-limits/check", {"resource_type": "api"}) for _ in range(5)]
    await asyncio.gather(*checks)
    assert looked_up(await samples(client), "policies") == (4, 1)


async def test_a_credential_that_is_refused_is_a_miss_each_time(client: AppClient) -> None:
    for _ in range(2):
        await client.get("/budgets", key="not-a-key-0123456789-abcdefghij")
    assert looked_up(await samples(client), "credentials") == (0, 3)


async def test_the_pool_is_shown(client: AppClient) -> None:
    await client.get("/budgets")
    found = await samples(client)
    assert found['fiscus_pool_connections{state="in_use"}'] == 0
    assert found['fiscus_pool_connections{state="idle"}'] >= 1


async def test_others_see_what_no_group_tells_within_seconds(
    client: AppClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await client.get("/budgets")
    value = client.metrics._registry.get_sample_value
    name, labels = "fiscus_cache_lookups_total", {"cache": "credentials", "outcome": "miss"}
    assert value(name, labels) == 0
    # alone, render() is soon enough
    await client.metrics.keep_told()
    assert value(name, labels) == 1
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(metrics_module, "TELL_SECONDS", 0)
    telling = asyncio.create_task(client.metrics.keep_told())
    try:
        await client.get("/budgets", key=client.make_key(Role.TENANT_ADMIN))
        async with asyncio.timeout(30):
            while value(name, labels) != 2:
                await client.get("/health/live", key=None)
    finally:
        telling.cancel()


def state_told_of(client: AppClient, breaker: str) -> list[str]:
    """The states shown without looking at the breaker, as by another process."""
    found = client.metrics._registry.get_sample_value
    states = ("closed", "open", "half_open")
    return [one for one in states if found(f"fiscus_{breaker}_state", {"state": one})]


async def test_others_see_breakers_as_each_group_left_them(tmp_path: Path) -> None:
    async with open_app(tmp_path, redis_url="redis://127.0.0.1:1/0") as client:
        await client.make_policy()
        for _ in range(5):
            await client.post("/rate-limits/check", {"resource_type": "api"})
        assert state_told_of(client, "counters_breaker") == ["open"]

        for _ in range(5):
            client.engine.ledger.breaker.failed(client.clock.now())
        client.metrics.group_failed(1)
        assert state_told_of(client, "breaker") == ["open"]
        client.clock.advance(seconds=2)
        await client.post("/budgets/check", {"resource_type": "llm", "estimated_cost": 1})
        assert state_told_of(client, "breaker") == ["closed"]

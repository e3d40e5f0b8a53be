"""What `/metrics` tells of the budgets and quotas that are used most, to whom and how often."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from fiscus.access.model import Role
from fiscus.errors import ServiceUnavailable
from fiscus.http.monitoring import most_used
from tests.http.quota_calls import use

if TYPE_CHECKING:
    from collections.abc import Callable

    from fiscus.budgets.port import BudgetUse
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio
FAMILIES = ("fiscus_budget_utilization_ratio", "fiscus_quota_utilization_ratio")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, what is asked for is waited for."""
    monkeypatch.setattr(most_used, "PATIENCE_SECONDS", 60)


async def shown(client: AppClient, key: str = "") -> list[str]:
    reply = await client.get("/metrics", key=key)
    assert reply.status_code == 200
    assert "fiscus_group_size_count" in reply.text
    return [line for line in reply.text.splitlines() if line.startswith(FAMILIES)]


async def spend(client: AppClient, cost: float) -> None:
    body = {"resource_type": "llm", "cost_amount": cost, "project_id": "search"}
    assert (await client.post("/cost-tracking/record", body)).status_code == 202


async def test_what_is_used_most_is_shown_as_its_utilization_says(client: AppClient) -> None:
    budget = await client.make_budget()
    quota = await client.make_quota()
    await spend(client, 137.5)
    await use(client, 30)
    told = (await client.get(f"/budgets/{budget['budget_id']}/utilization")).json()
    ratio = told["periods"][0]["utilization_ratio"]
    budget_labels = f'budget_id="{budget["budget_id"]}",tenant_id="acme"'
    quota_labels = f'quota_id="{quota["quota_id"]}",resource_type="gpu_hours",tenant_id="acme"'
    assert await shown(client) == [
        f"fiscus_budget_utilization_ratio{{{budget_labels}}} {ratio}",
        f"fiscus_quota_utilization_ratio{{{quota_labels}}} 0.3",
    ]


async def test_only_a_platform_admin_is_told_what_names_tenants(client: AppClient) -> None:
    await client.make_budget()
    await spend(client, 10)
    assert len(await shown(client)) == 1
    architect = client.make_key(Role.SYSTEM_ARCHITECT, Role.TENANT_ADMIN)
    assert await shown(client, architect) == []
    text = (await client.get("/metrics", key=architect)).text
    assert not any(family in text for family in FAMILIES)


async def test_the_store_is_read_once_a_minute_at_most(client: AppClient) -> None:
    await client.make_budget()
    await spend(client, 50)
    first = await shown(client)
    await spend(client, 50)
    client.clock.advance(seconds=59)
    assert await shown(client) == first
    client.clock.advance(seconds=1)
    assert [line.rsplit(" ")[-1] for line in await shown(client)] == ["0.2"]


async def test_a_clock_that_goes_back_does_not_keep_what_was_read(client: AppClient) -> None:
    await client.make_budget()
    await spend(client, 50)
    assert await shown(client)
    await spend(client, 50)
    client.clock.advance(seconds=-3600)
    assert [line.rsplit(" ")[-1] for line in await shown(client)] == ["0.2"]


async def test_of_what_is_used_at_most_twenty_are_shown(client: AppClient) -> None:
    for number in range(22):
        await client.make_budget(budget_amount=100 + number)
    await spend(client, 50)
    lines = await shown(client)
    assert len(lines) == 20
    assert lines[0].endswith(" 0.5")
    assert lines[-1].endswith(f" {50 / 119:.12f}")


def asked_of_store(
    client: AppClient, monkeypatch: pytest.MonkeyPatch, before: Callable[[], object]
) -> None:
    """Do something before the store is asked what is used most."""
    budgets = client.engine.budgets
    ask = budgets.most_used

    def asked(*arguments: object) -> list[BudgetUse]:
        before()
        return ask(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(budgets, "most_used", asked)


async def test_while_the_store_fails_the_last_is_shown_for_five_minutes(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.make_budget()
    await spend(client, 50)
    first = await shown(client)
    tries = 0

    def fail() -> None:
        nonlocal tries
        tries += 1
        raise ServiceUnavailable("The database cannot be reached")

    with monkeypatch.context() as failing:
        asked_of_store(client, failing, fail)
        for _ in range(4):
            client.clock.advance(seconds=60)
            assert await shown(client) == first
            assert await shown(client) == first
        client.clock.advance(seconds=60)
        assert await shown(client) == []
    assert tries == 5
    client.clock.advance(seconds=60)
    assert await shown(client) == first


async def test_a_slow_store_is_asked_once_and_not_waited_for(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.make_budget()
    await spend(client, 50)
    may_end = threading.Event()
    tries: list[int] = []
    asked_of_store(client, monkeypatch, lambda: (tries.append(1), may_end.wait(30)))
    with monkeypatch.context() as impatient:
        impatient.setattr(most_used, "PATIENCE_SECONDS", 0.01)
        try:
            assert await asyncio.gather(*(shown(client) for _ in range(3))) == [[], [], []]
            client.clock.advance(seconds=120)
            assert await shown(client) == []
        finally:
            may_end.set()
    # the next finds what they could not wait for
    monkeypatch.setattr(most_used, "AGAIN_AFTER", most_used.SHOWN_FOR)
    assert len(await shown(client)) == 1
    assert tries == [1]

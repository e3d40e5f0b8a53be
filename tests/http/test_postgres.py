"""The same application over PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fiscus.access.model import Role
from tests.http.app_client import open_app
from tests.http.example_run import run_examples
from tests.servers import drop_database, fresh_database

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.own_postgres import OwnPostgres

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def test_every_example_works(tmp_path: Path, postgres_url: str) -> None:
    async with open_app(tmp_path, database_url=postgres_url) as client:
        answers = await run_examples(client)
        health = (await client.send("GET", "/health", key=None)).json()
    assert answers["get_report"]["total_cost"] > 0
    assert health["status"] == "UP"
    assert health["dependencies"][0]["message"] == "postgresql answers"


async def test_tenants_do_not_see_each_other(tmp_path: Path, postgres_url: str) -> None:
    async with open_app(tmp_path, database_url=postgres_url) as client:
        theirs = client.make_key(Role.TENANT_ADMIN, tenant_id="globex")
        ours = client.make_key(Role.TENANT_ADMIN, tenant_id="initech")
        budget = await client.make_budget(key=theirs)
        path = f"/budgets/{budget['budget_id']}"
        assert (await client.get(path, key=theirs)).status_code == 200
        assert (await client.get(path, key=ours)).status_code == 404
        assert (await client.delete(path, key=ours)).status_code == 404
        assert (await client.get("/budgets", key=ours)).json()["budgets"] == []
        policy = await client.make_policy(key=theirs)
        path = f"/rate-limits/{policy['policy_id']}"
        check = {"resource_type": "llm", "user_id": "ada"}
        for key, status, policy_id in ((theirs, 200, policy["policy_id"]), (ours, 404, None)):
            answer = (await client.post("/rate-limits/check", check, key=key)).json()
            assert answer["policy_id"] == policy_id
            assert (await client.get(path, key=key)).status_code == status
            assert (await client.get(f"{path}/usage", key=key)).status_code == status
        assert (await client.delete(f"{path}?force=true", key=ours)).status_code == 404
        assert (await client.get("/rate-limits", key=ours)).json()["policies"] == []


async def test_quotas_are_used_up_given_back_and_kept_apart(
    tmp_path: Path, postgres_url: str
) -> None:
    async with open_app(tmp_path, database_url=postgres_url) as client:
        theirs = client.make_key(Role.TENANT_ADMIN, tenant_id="umbrella")
        ours = client.make_key(Role.TENANT_ADMIN, tenant_id="hooli")
        quota = await client.make_quota(key=theirs, allocated_amount=10, max_burst_amount=2)
        path = f"/quotas/{quota['quota_id']}"
        use = {"resource_type": "gpu_hours", "required_amount": "11.5", "project_id": "vision"}
        taken = (await client.post("/quotas/check", use, key=theirs)).json()
        assert (taken["allowed"], taken["remaining_amount"]) == (True, 0.5)
        denied = (await client.post("/quotas/check", use, key=theirs)).json()
        assert (denied["allowed"], denied["max_allowed_amount"]) == (False, 0.5)
        assert (await client.post("/quotas/check", use, key=ours)).json()["matched"] == 0
        release = f"/quotas/consumptions/{taken['consumption_id']}/release"
        assert (await client.post(release, key=ours)).status_code == 404
        assert (await client.post(release, {"amount": 4}, key=theirs)).status_code == 200
        shown = (await client.get(path, key=theirs)).json()
        assert (shown["used_amount"], shown["burst_used"]) == (7.5, 0)
        history = (await client.get(f"{path}/history", key=theirs)).json()
        assert [one["kind"] for one in history["rows"]] == ["release", "consume"]
        assert history["days"][0]["consumed"] == 11.5
        for path_of_ours in (path, f"{path}/history"):
            assert (await client.get(path_of_ours, key=ours)).status_code == 404
        assert (await client.get("/quotas", key=ours)).json()["quotas"] == []
        assert (await client.delete(f"{path}?force=true", key=ours)).status_code == 404
        assert (await client.delete(path, key=theirs)).status_code == 409
        assert (await client.delete(f"{path}?force=true", key=theirs)).status_code == 204


async def test_what_is_decided_without_the_store_is_decided_for_ten_minutes(
    tmp_path: Path, own_postgres: OwnPostgres
) -> None:
    url = fresh_database(own_postgres.server)
    async with open_app(tmp_path, database_url=url) as client:
        await client.make_budget(on_store_failure="allow")
        await client.make_policy()
        spend = {"resource_type": "llm", "estimated_cost": 1, "project_id": "search"}
        ask = {"resource_type": "llm", "user_id": "ada"}

        async def decide() -> tuple[int, bool | None, int]:
            budget = await client.post("/budgets/check", spend)
            limit = await client.post("/rate-limits/check", ask)
            return budget.status_code, budget.json().get("degraded"), limit.status_code

        assert await decide() == (200, False, 200)
        own_postgres.kill()
        try:
            for _ in range(9):
                client.clock.advance(minutes=1)
                assert await decide() == (200, True, 200)
            client.clock.advance(minutes=1)
            assert await decide() == (503, None, 503)
        finally:
            own_postgres.start()
        client.clock.advance(seconds=2)
        assert await decide() == (200, False, 200)
    drop_database(own_postgres.server, url)

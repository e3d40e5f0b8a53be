"""The same application over PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fiscus.access.model import Role
from tests.http.app_client import open_app
from tests.http.example_run import run_examples

if TYPE_CHECKING:
    from pathlib import Path

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

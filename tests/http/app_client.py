"""The whole application over a real store, spoken to without a socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from fiscus.access.model import ApiKey, Role, hash_key, hint_of, new_key
from fiscus.clock import ManualClock
from fiscus.http.app import create_app
from fiscus.http.monitoring.metrics import Metrics
from fiscus.ids import uuid7
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from fiscus.engine import Engine

API = "/budget/v1"
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


@dataclass
class AppClient:
    """Sends requests with an admin's key, unless another one is given."""

    http: httpx.AsyncClient
    engine: Engine
    clock: ManualClock
    metrics: Metrics
    app: Any
    key: str

    async def send(
        self, method: str, path: str, *, key: str | None = "", **more: Any
    ) -> httpx.Response:
        """`key`: another API key, or None for none at all."""
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers["X-API-Key"] = key or self.key
        return await self.http.request(method, path, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.send("GET", API + path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return await self.send("POST", API + path, json=body, **more)

    async def put(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return await self.send("PUT", API + path, json=body, **more)

    async def delete(self, path: str, **more: Any) -> httpx.Response:
        return await self.send("DELETE", API + path, **more)

    def make_key(self, *roles: Role, tenant_id: str = "acme", **fields: Any) -> str:
        return keep_key(self.engine, *roles, tenant_id=tenant_id, **fields)

    async def make_budget(self, **fields: Any) -> dict[str, Any]:
        key = fields.pop("key", "")
        reply = await self.post("/budgets", {**BUDGET, **fields}, key=key)
        assert reply.status_code == 201, reply.text
        return reply.json()

    async def make_policy(self, **fields: Any) -> dict[str, Any]:
        key = fields.pop("key", "")
        reply = await self.post("/rate-limits", {**POLICY, **fields}, key=key)
        assert reply.status_code == 201, reply.text
        return reply.json()

    async def make_quota(self, **fields: Any) -> dict[str, Any]:
        key = fields.pop("key", "")
        reply = await self.post("/quotas", {**QUOTA, **fields}, key=key)
        assert reply.status_code == 201, reply.text
        return reply.json()


BUDGET = {
    "budget_name": "Search",
    "budget_amount": 500,
    "period_type": "monthly",
    "allocated_to_type": "project",
    "allocated_to_id": "search",
}
POLICY = {
    "scope_type": "user",
    "scope_id": "*",
    "resource_type": "llm",
    "limit_value": 5,
    "time_window_seconds": 60,
}
QUOTA = {
    "scope_type": "project",
    "scope_id": "vision",
    "resource_type": "gpu_hours",
    "allocated_amount": 100,
}


def keep_key(engine: Engine, *roles: Role, tenant_id: str = "acme", **fields: Any) -> str:
    """A new API key, straight into the store."""
    secret = new_key()
    key = ApiKey(
        key_id=fields.pop("key_id", uuid7()),
        tenant_id=tenant_id,
        name="for a test",
        hint=hint_of(secret),
        roles=list(roles),
        created_by="test",
        created_at=engine.clock.now(),
        expires_at=fields.pop("expires_at", None),
        revoked_at=None,
    )
    engine.api_keys.create(key, hash_key(secret))
    return secret


@asynccontextmanager
async def open_app(folder: Path, **settings: Any) -> AsyncGenerator[AppClient]:
    """The application over a fresh SQLite file, or over `database_url`."""
    clock = ManualClock(NOON)
    given = {
        "default_tenant": "acme",
        "sqlite_synchronous": "OFF",
        # on a busy machine a commit may take longer than callers wait by default
        "ledger_deadline_seconds": 30,
        **settings,
    }
    engine = open_engine(Settings(data_dir=folder, **given), clock=clock)
    try:
        metrics = Metrics()
        app = create_app(engine, metrics)
        key = keep_key(engine, Role.PLATFORM_ADMIN)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://fiscus.test") as http:
            yield AppClient(http, engine, clock, metrics, app, key)
    finally:
        engine.close()

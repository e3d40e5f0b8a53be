"""The three forms of the Python API behind one awaitable face, so that one suite covers them.

The blocking forms are called as they are; in these tests nothing else runs in the loop meanwhile.
"""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from fiscus import AsyncClient
from fiscus.access.model import ApiKey, Role, hash_key, hint_of, new_key
from fiscus.http.app import create_app
from fiscus.http.fast_lane.connections import connections_of
from fiscus.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from fiscus.client.blocking.api import BlockingApi
    from fiscus.clock import ManualClock
    from fiscus.engine import Engine

BUDGET = {
    "budget_name": "Search",
    "budget_amount": 1,
    "period_type": "monthly",
    "allocated_to_type": "project",
    "allocated_to_id": "search",
}
OPERATION = {"project": "search", "resource_type": "llm"}


@dataclass(frozen=True)
class RunningServer:
    """A real server on a loopback port, with the engine behind it."""

    url: str
    key: str
    engine: Engine
    clock: ManualClock


@contextmanager
def serving(engine: Engine) -> Iterator[str]:
    """The URL of a uvicorn in a thread over `engine`."""
    app = create_app(engine)
    config = uvicorn.Config(
        app, http=connections_of(app), host="127.0.0.1", port=0, log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="test-server")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def keep_key(engine: Engine, *roles: Role, tenant_id: str) -> str:
    """A new API key, straight into the store."""
    secret = new_key()
    key = ApiKey(
        key_id=uuid7(),
        tenant_id=tenant_id,
        name="for a test",
        hint=hint_of(secret),
        roles=list(roles),
        created_by="test",
        created_at=engine.clock.now(),
        expires_at=None,
        revoked_at=None,
    )
    engine.api_keys.create(key, hash_key(secret))
    return secret


class Awaited:
    """A blocking API whose calls can be awaited."""

    def __init__(self, api: BlockingApi) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        blocking = getattr(self._api, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return blocking(*args, **kwargs)

        return call

    @asynccontextmanager
    async def reserve(self, **fields: Any) -> AsyncGenerator[Any]:
        with self._api.reserve(**fields) as reservation:
            yield AwaitedReservation(reservation)

    @asynccontextmanager
    async def quota(self, *args: Any, **fields: Any) -> AsyncGenerator[Any]:
        with self._api.quota(*args, **fields) as consumption:
            yield AwaitedConsumption(consumption)


class AwaitedConsumption:
    def __init__(self, consumption: Any) -> None:
        self._consumption = consumption
        self.answer = consumption.answer
        self.consumption_id = consumption.consumption_id

    async def release(self, *args: Any) -> None:
        self._consumption.release(*args)


class AwaitedReservation:
    def __init__(self, reservation: Any) -> None:
        self._reservation = reservation

    @property
    def answer(self) -> Any:
        return self._reservation.answer

    @property
    def reservation_id(self) -> Any:
        return self._reservation.reservation_id

    @property
    def degraded(self) -> bool:
        return self._reservation.degraded

    def __getattr__(self, name: str) -> Any:
        blocking = getattr(self._reservation, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return blocking(*args, **kwargs)

        return call


class Bench:
    """One form of the API with a tenant of its own, and what a test looks at beside it."""

    def __init__(self, api: Any, tenant: str, clock: ManualClock) -> None:
        self.api = api
        self.tenant = tenant
        self.clock = clock

    async def budget(self, **fields: Any) -> Any:
        return await self.api.create_budget(**{**BUDGET, **fields})

    async def use(self, budget: Any) -> tuple[Any, Any]:
        """What the budget's current period has spent and reserved."""
        period = (await self.api.utilization(budget.budget_id)).periods[0]
        return period.spent, period.reserved

    async def costs(self) -> list[Any]:
        return [one.cost_amount for one in (await self.api.records()).items]


@asynccontextmanager
async def open_async(server: RunningServer, tenant: str, **options: Any) -> AsyncGenerator[Any]:
    async with AsyncClient(server.url, server.key, tenant=tenant, **options) as client:
        yield client

"""`bench` runs a test three times: in process, over HTTP blocking, and over HTTP asynchronous."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from fiscus import Client, Fiscus
from fiscus.access.model import Role
from fiscus.clock import ManualClock
from fiscus.ids import uuid7
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from tests.client.apis import Awaited, Bench, RunningServer, keep_key, open_async, serving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return f"t-{uuid7()}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    clock = ManualClock(NOON)
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("server"), sqlite_synchronous="OFF", port=3472
    )
    engine = open_engine(settings, clock=clock)
    key = keep_key(engine, Role.PLATFORM_ADMIN, tenant_id="operators")
    try:
        with serving(engine) as url:
            yield RunningServer(url, key, engine, clock)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fiscus, ManualClock]]:
    clock = ManualClock(NOON)
    folder = tmp_path_factory.mktemp("embedded")
    with Fiscus.open(
        data_dir=folder, clock=clock, tenant="operators", sqlite_synchronous="OFF"
    ) as fiscus:
        yield fiscus, clock


@pytest.fixture(params=["embedded", "client", "async_client"])
async def bench(request: pytest.FixtureRequest, tenant: str) -> AsyncGenerator[Bench]:
    if request.param == "embedded":
        fiscus, clock = request.getfixturevalue("embedded")
        yield Bench(Awaited(Fiscus(fiscus._backend, tenant)), tenant, clock)
        return
    server: RunningServer = request.getfixturevalue("server")
    if request.param == "client":
        with Client(server.url, server.key, tenant=tenant) as client:
            yield Bench(Awaited(client), tenant, server.clock)
        return
    async with open_async(server, tenant) as client:
        yield Bench(client, tenant, server.clock)

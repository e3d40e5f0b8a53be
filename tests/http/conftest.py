"""The whole application over a real store, for every test that asks for `client`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.http.app_client import open_app
from tests.http.live_server import LiveServer, serving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from tests.http.app_client import AppClient


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def data_dir(tmp_path: Path, migrated: Path) -> Path:
    """A fresh data folder with an empty database."""
    return Path(shutil.copytree(migrated, tmp_path / "data"))


@pytest.fixture
async def client(data_dir: Path) -> AsyncGenerator[AppClient]:
    async with open_app(data_dir) as client:
        yield client


@pytest.fixture
def server(data_dir: Path) -> Iterator[LiveServer]:
    """The application behind a socket."""
    with serving(data_dir, default_tenant="acme") as server:
        yield server


@pytest.fixture
def straight(data_dir: Path) -> Iterator[LiveServer]:
    """A server on which nothing but what goes straight to the lane is answered."""

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan", scope["path"]
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    with serving(data_dir, default_tenant="acme", asgi=fail) as server:
        yield server

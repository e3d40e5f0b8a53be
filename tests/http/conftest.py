"""The whole application over a real store, for every test that asks for `client`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.http.app_client import open_app

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.http.app_client import AppClient


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[AppClient]:
    async with open_app(tmp_path) as client:
        yield client

"""One engine on each database for the tests of a module; each of those has a tenant of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fiscus.clock import ManualClock
from fiscus.engine import Engine
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from tests.stores.costs.desk import NOON


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    postgres = request.param == "postgresql"
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("fiscus"),
        database_url=request.getfixturevalue("postgres_url") if postgres else None,
        sqlite_synchronous="OFF",
        ledger_deadline_seconds=30,
    )
    opened = open_engine(settings, clock=ManualClock(NOON))
    try:
        yield opened
    finally:
        opened.close()

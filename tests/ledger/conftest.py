"""An engine on real SQLite and on real PostgreSQL, and a tenant of its own for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiscus.clock import ManualClock
from fiscus.engine import Engine
from tests.ledger.desk import Desk, open_at
from tests.servers import drop_database, fresh_database


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def store_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An empty database that the tests of one module share, each as a tenant of its own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('store') / 'fiscus.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    url = fresh_database(server)
    yield url
    drop_database(server, url)


@pytest.fixture
def engine(store_url: str, tmp_path: Path, clock: ManualClock) -> Iterator[Engine]:
    opened = open_at(store_url, tmp_path, clock)
    yield opened
    opened.close()


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine, f"acme-{secrets.token_hex(4)}")

"""A database that a test has to itself, and a desk on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.concurrency.runs import TENANT, Processes, Run
from tests.concurrency.runs import run as run_on
from tests.ledger.desk import open_at
from tests.ledger.quota_desk import QuotaDesk
from tests.servers import PostgresServer, drop_database, fresh_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fiscus.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made = fresh_database(server)
    yield made
    drop_database(server, made)


@pytest.fixture
def desk(url: str, tmp_path: Path) -> Iterator[QuotaDesk]:
    with closing(open_at(url, tmp_path / "files")) as engine:
        yield QuotaDesk(engine, TENANT)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    running = Processes()
    yield running
    running.close()


@pytest.fixture
def run(desk: QuotaDesk, url: str, processes: Processes) -> Run:
    """Does the named work on the test's database, in many threads."""
    return lambda work: run_on(desk, url, work, processes)

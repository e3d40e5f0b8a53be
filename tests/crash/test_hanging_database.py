"""PostgreSQL that keeps its connections open and answers nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
import sqlalchemy as sa

from fiscus.errors import ServiceUnavailable
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.postgres.answering import SILENT_LOOKS
from tests.fiscus_process import fiscus_server
from tests.servers import drop_database, fresh_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.own_postgres import OwnPostgres
    from tests.fiscus_process import FiscusProcess

pytestmark = pytest.mark.postgres

PATIENCE_SECONDS = 20
"""Three and a connection's two, on a machine that has much else to do."""


@pytest.fixture
def urls(own_postgres: OwnPostgres) -> Iterator[tuple[str, str]]:
    """Of two databases of one server."""
    made = fresh_database(own_postgres.server), fresh_database(own_postgres.server)
    yield made
    own_postgres.thaw()
    for one in made:
        drop_database(own_postgres.server, one)


@pytest.fixture
def url(urls: tuple[str, str]) -> str:
    return urls[0]


def read(database: Database, sql: str = "SELECT 1") -> object:
    with database.read("acme") as connection:
        return connection.execute(sa.text(sql)).scalar_one()


def test_a_statement_that_takes_its_time_is_waited_for(url: str) -> None:
    database = Database(url)
    seconds = SILENT_LOOKS * 0.1 * 2.5
    assert read(database, f"SELECT 'done' FROM pg_sleep({seconds})") == "done"
    database.close()


def test_connections_in_use_and_new_ones_give_up_a_server_that_hangs(
    url: str, own_postgres: OwnPostgres
) -> None:
    database = Database(url)
    outside = database.connect_psycopg()
    assert read(database) == 1
    own_postgres.freeze()
    began = time.monotonic()
    with ThreadPoolExecutor() as threads:  # one has the connection that was used before
        tries = [
            threads.submit(read, database),
            threads.submit(read, database),
            threads.submit(database.write, "acme", lambda one: one.execute(sa.text("SELECT 1"))),
        ]
    for one in tries:
        with pytest.raises(ServiceUnavailable):
            one.result()
    assert time.monotonic() - began < PATIENCE_SECONDS
    own_postgres.thaw()
    assert read(database) == 1
    outside.close()
    database.close()


def test_a_server_whose_database_hangs_answers_and_ends_when_told(
    urls: tuple[str, str], own_postgres: OwnPostgres, tmp_path: Path
) -> None:
    apart, together = (
        {"FISCUS_DATABASE_URL": url, "FISCUS_LEDGER_APART": apart}
        for url, apart in zip(urls, ("true", "false"), strict=True)
    )
    check = {"resource_type": "llm", "estimated_cost": 1}

    def answers_and_ends(server: FiscusProcess) -> None:
        with client_of(server) as client:
            assert client.get("/budgets").status_code == 503
            assert client.post("/budgets/check", json=check).status_code == 503
            health = client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "DOWN")
        assert server.stop() == 0, server.output()

    with (
        fiscus_server(tmp_path / "apart", env=apart) as first,
        fiscus_server(tmp_path / "together", env=together) as second,
        ThreadPoolExecutor() as threads,
    ):
        for server in (first, second):
            with client_of(server) as client:
                assert client.post("/budgets/check", json=check).status_code == 200
                assert client.get("/budgets").status_code == 200
        own_postgres.freeze()
        list(threads.map(answers_and_ends, (first, second)))


def client_of(server: FiscusProcess) -> httpx.Client:
    return httpx.Client(
        base_url=f"{server.url}/budget/v1",
        headers={"X-API-Key": server.key},
        timeout=PATIENCE_SECONDS,
    )

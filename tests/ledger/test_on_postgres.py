"""What only a database that is a server can do to the ledger: lose an answer, plan badly."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from fiscus.budgets.calls import CheckAnswer
from fiscus.errors import ServiceUnavailable
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from tests.ledger.desk import Desk
from tests.servers import PostgresServer, drop_database, fresh_database
from tests.valkey import wait_until

pytestmark = pytest.mark.postgres

PARTITIONS = (
    "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'cost_records'::regclass"
)


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = fresh_database(postgres_server)
    yield made
    drop_database(postgres_server, made)


class Relay:
    """Between Fiscus and PostgreSQL; can break the connection once a commit has reached it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "", parts.port or 0)
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = url.replace(f":{parts.port}/", f":{port}/")
        self.loses_next_commit = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in (self._listening, *self._open):
            _end(one)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                for pump in (self._to_server, self._to_client):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                if self.loses_next_commit and b"COMMIT" in data:
                    self.loses_next_commit = False
                    _end(client)
                server.sendall(data)
        _end(server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                client.sendall(data)
        _end(client)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def test_a_session_that_ended_while_nobody_used_it_fails_no_group(
    postgres_server: PostgresServer, url: str, tmp_path: Path
) -> None:
    engine = open_engine(Settings(data_dir=tmp_path, database_url=url))
    desk = Desk(engine, "acme")
    budget = desk.budget("10", on_store_failure="allow")
    desk.record("1")
    ended = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = %s"
    for spent in range(2, 5):
        with contextlib.closing(postgres_server.connect()) as admin:
            admin.execute(ended, [urlsplit(url).path[1:]])
        desk.record("1")
        with contextlib.closing(postgres_server.connect()) as admin:
            admin.execute(ended, [urlsplit(url).path[1:]])
        answer = desk.check("9.5")
        assert (answer.allowed, answer.degraded) == (False, False)
        assert desk.used(budget) == (str(spent), "0")
    engine.close()


@pytest.mark.parametrize("apart", [False, True])
def test_a_commit_whose_answer_is_lost_is_not_said_to_have_changed_nothing(
    url: str, tmp_path: Path, *, apart: bool
) -> None:
    relay = Relay(url)
    engine = open_engine(
        Settings(data_dir=tmp_path, database_url=relay.url, ledger_deadline_seconds=10),
        ledger_apart=apart,
    )
    desk = Desk(engine, "acme")
    budget = desk.budget("10", on_store_failure="allow")
    desk.record("1")
    for key, lost in (
        ("record", lambda: desk.record("2", "record")),
        ("check", lambda: desk.check("3", "check")),
    ):
        for _ in range(5):  # a connection is there then, and the breaker stays closed
            desk.record("0")
        relay.loses_next_commit = True
        with pytest.raises(ServiceUnavailable, match="not durable within") as caught:
            lost()
        assert "same idempotency key" in str(caught.value.suggested_action), key
        assert caught.value.details == {"outcome": "unknown"}
        assert not relay.loses_next_commit
    wait_until(lambda: desk.used(budget) == ("3", "3"))
    assert desk.record("2", "record").record_id
    answer = desk.check("3", "check")
    assert (answer.allowed, answer.degraded) == (True, False)
    assert desk.used(budget) == ("3", "3")
    engine.close()
    relay.close()


def test_balances_of_a_new_period_are_found_by_key_whatever_the_statistics_say(
    url: str, tmp_path: Path
) -> None:
    """As it is on a day whose rows are too few beside those before for a new look at the table."""
    others, days_before = 60_000, 5

    def open_desk() -> Desk:
        return Desk(open_engine(Settings(data_dir=tmp_path, database_url=url)), "acme")

    desk = open_desk()
    users = {"period_type": "daily", "allocated_to_type": "user", "allocated_to_id": "*"}
    desk.budget("10", **users)
    desk.budget("10", period_type="daily", allocated_to_type="tenant", allocated_to_id="acme")
    desk.check("1", user_id="u")
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("SELECT set_config('fiscus.tenants', 'acme', false)")
        owner.execute("ALTER TABLE budget_periods SET (autovacuum_enabled = off)")
        for days in range(days_before, -1, -1):
            owner.execute(
                """
                INSERT INTO budget_periods
                SELECT budget_id, 'x' || n, period_start - make_interval(days => %(days)s),
                       tenant_id, period_end - make_interval(days => %(days)s), 1, 0, 0
                FROM budget_periods, generate_series(1, %(others)s) AS n WHERE scope_id = 'u'
                """,
                {"days": days, "others": others},
            )
            if days == 1:
                owner.execute("VACUUM ANALYZE budget_periods")
        desk.engine.close()
        before = _rows_read(owner)
        desk = open_desk()
        for _ in range(5):
            desk.check("1", user_id="u")
        desk.engine.close()  # with the connection ends what its server counts apart
        assert _rows_read(owner) - before < others


def _rows_read(owner: psycopg.Connection) -> int:
    """How many rows of balances were read by an index."""
    wait_until(
        lambda: (
            owner.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            ).fetchone()
            == (1,)
        )
    )
    (row,) = owner.execute(
        "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'budget_periods'"
    ).fetchall()
    return int(row[0])


def test_tables_that_are_missing_are_a_store_that_failed(url: str, tmp_path: Path) -> None:
    engine = open_engine(Settings(data_dir=tmp_path, database_url=url))
    desk = Desk(engine, "acme")
    budget = desk.budget("10")
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("ALTER TABLE budget_periods RENAME TO elsewhere")
        for call in (lambda: desk.check("1"), lambda: desk.used(budget)):
            with pytest.raises(ServiceUnavailable) as caught:
                call()
            assert "SELECT" not in str(caught.value), "no SQL is shown"
        owner.execute("ALTER TABLE elsewhere RENAME TO budget_periods")
    assert desk.check("1").allowed
    engine.close()


def test_costs_that_no_partition_takes_are_refused_by_name_and_keep_nothing_else_from_being_done(
    url: str, tmp_path: Path
) -> None:
    engine = open_engine(Settings(data_dir=tmp_path, database_url=url))
    desk = Desk(engine, "acme")
    budget = desk.budget("10")
    with psycopg.connect(url, autocommit=True) as owner:
        for (name,) in owner.execute(PARTITIONS).fetchall():
            owner.execute(f"ALTER TABLE cost_records DETACH PARTITION {name}")
        commands = [desk.check_command("1"), desk.record_command("2")]
        checked, refused = desk.outcomes(commands)
        assert isinstance(checked, CheckAnswer)
        assert isinstance(refused, ServiceUnavailable)
        assert "no partition" in refused.message
        owner.execute("ALTER TABLE cost_records ATTACH PARTITION cost_records_default DEFAULT")
    desk.record("2")
    assert desk.used(budget) == ("2", "1")
    engine.close()

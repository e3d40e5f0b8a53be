"""`kill -9` in the middle of a load: what was acknowledged is there, and nothing is there twice."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.crash.clients import Clients, Request, check_body, record_body
from tests.crash.own_postgres import OwnPostgres
from tests.crash.server_process import ADMIN_KEY, TENANT, ServerProcess
from tests.ledger.books import read_books
from tests.ledger.quota_books import read_quota_books
from tests.profile import LONG
from tests.servers import drop_database, fresh_database

ROUNDS = 12 if LONG else 2

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fiscus.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    made = fresh_database(server)
    yield made
    drop_database(server, made)


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path, url)
    try:
        process.start()
        yield process
    finally:
        process.close()


def require_all_there(url: str, clients: list[Clients]) -> None:
    """All that was acknowledged is in the books, once, and the books agree."""
    books, of_quotas = read_books(url, TENANT), read_quota_books(url, TENANT)
    assert books.faults() == []
    assert of_quotas.faults(one_writer=False) == []
    records: set[str] = set()
    reservations: dict[str, str] = {}
    held: dict[str, bool] = {}
    for one in clients:
        assert one.known.unknown == []
        for request, answer in one.known.acknowledged:
            if request.path == "/budgets/check":
                reservations.setdefault(answer["reservation_id"], "pending")
            elif request.path.startswith("/quotas/"):
                consumption_id = answer["consumption_id"]
                held[consumption_id] = request.path == "/quotas/check" and held.get(
                    consumption_id, True
                )
            else:
                assert answer["record_id"] not in records
                records.add(answer["record_id"])
                if answer["reservation_id"]:
                    reservations[answer["reservation_id"]] = "settled"
    premiums = {one.record_id for one in books.records.values() if "burst" in (one.tags or "")}
    assert books.records.keys() - premiums == records
    assert {key: one.status for key, one in books.reservations.items()} == reservations
    kept = {key: one.released < one.amount for key, one in of_quotas.consumptions.items()}
    assert kept == held


def test_a_killed_server_has_kept_all_it_acknowledged_and_charges_no_retry_twice(
    server: ServerProcess, url: str
) -> None:
    server.budget("1000000")
    server.quota("0.5", max_burst_amount="1000000", burst_premium_rate="0.3")
    everyone: list[Clients] = []
    for number in range(ROUNDS):
        clients = Clients(server, f"round-{number}")
        everyone.append(clients)
        clients.start()
        clients.wait_until_busy()
        server.kill()
        clients.join()
        assert clients.known.unknown  # the crash did fall into the load
        server.start()
        clients.finish()
        require_all_there(url, everyone)
    with server.client() as client:
        for request, answer in everyone[0].known.acknowledged[::7]:
            again = request.send_until_answered(client)
            for name in ("record_id", "reservation_id", "consumption_id"):
                assert again.get(name) == answer.get(name)
    require_all_there(url, everyone)


def test_holds_that_ran_out_during_a_crash_are_freed(server: ServerProcess, url: str) -> None:
    server.budget("10", allocated_to_id="small")
    body = check_body("10", project_id="small")
    with server.client() as client:
        held = Request("/budgets/check", "held", body | {"ttl_seconds": 1}).send(client)
        assert held is not None
        assert held["allowed"]
    server.kill()
    server.start()
    with server.client() as client:
        assert any(_is_admitted(client, f"again-{number}", body) for number in range(100))
    books = read_books(url, TENANT)
    assert books.reservations[held["reservation_id"]].status == "expired"
    assert books.faults() == []


def _is_admitted(client: httpx.Client, key: str, body: dict[str, Any]) -> bool:
    """Whether a check is; one that is not leaves the hold a moment more to run out."""
    answer = Request("/budgets/check", key, body).send(client)
    assert answer is not None
    return answer["allowed"] or threading.Event().wait(0.05)


@pytest.mark.postgres
def test_a_killed_postgresql_has_kept_all_that_was_acknowledged(tmp_path: Path) -> None:
    own = OwnPostgres()
    try:
        own.start()
        url = fresh_database(own.server)
        server = ServerProcess(tmp_path, url)
        try:
            server.start()
            server.budget("1000000")
            server.quota("0.5", max_burst_amount="1000000", burst_premium_rate="0.3")
            everyone: list[Clients] = []
            for number in range(ROUNDS):
                clients = Clients(server, f"round-{number}")
                everyone.append(clients)
                clients.start()
                clients.wait_until_busy()
                own.kill()
                clients.join()
                own.start()
                clients.finish()
                require_all_there(url, everyone)
        finally:
            server.close()
    finally:
        own.close()


# -- clients that go away


def raw_request(path: str, body: bytes, key: str, promised: int | None = None) -> bytes:
    return (
        f"POST /budget/v1{path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {ADMIN_KEY}\r\n"
        f"X-Idempotency-Key: {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {promised or len(body)}\r\n\r\n"
    ).encode() + body


def send_and_leave(server: ServerProcess, data: bytes, *, reset: bool) -> None:
    """Send `data` and go, politely or with a reset, without reading an answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        if reset:
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def test_clients_that_leave_in_the_middle_leave_nothing_half_done(
    server: ServerProcess, url: str
) -> None:
    server.budget("1000000")
    everything: list[Request] = []
    count = 200 if LONG else 20
    for number in range(count):
        body: dict[str, Any] = check_body("1") if number % 2 else record_body("1")
        path = "/budgets/check" if number % 2 else "/cost-tracking/record"
        request = Request(path, f"left-{number}", body)
        everything.append(request)
        raw = json.dumps(body).encode()
        whole = raw_request(path, raw, request.key)
        send_and_leave(server, whole, reset=number % 4 < 2)
        # half a header, half a body, and a body that is whole but shorter than promised
        send_and_leave(server, whole[: len(whole) // 3], reset=False)
        send_and_leave(server, whole[: -len(raw) // 2], reset=number % 3 == 0)
        send_and_leave(server, raw_request(path, raw, f"short-{number}", 9999), reset=False)
    with server.client() as client:
        answers = [request.send_until_answered(client) for request in everything]
        again = [request.send_until_answered(client) for request in everything]
    for first, second in zip(answers, again, strict=True):
        assert first.get("record_id") == second.get("record_id")
        assert first.get("reservation_id") == second.get("reservation_id")
    books = read_books(url, TENANT)
    assert books.faults() == []
    assert len(books.records) == count // 2  # each once, and nothing of the halves
    assert len(books.reservations) == count // 2

"""Decisions go from the connection to the lane; whatever else a client does is served as ever."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from fiscus.access.model import Role
from fiscus.http.fast_lane import connections, silence
from fiscus.http.fast_lane.connections import DecisionProtocol, connections_of
from fiscus.http.fast_lane.lane import Reply
from fiscus.ledger.group import GroupRunner
from fiscus.runtime.turns import NEXT_STEP
from tests.http.app_client import API, open_app
from tests.http.live_server import LiveServer, serving
from tests.http.pipes import Pipe
from tests.http.wire import Answer, Wire
from tests.valkey import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fiscus.ledger.commands import Command, Outcome

CHECK = {"resource_type": "llm", "estimated_cost": 1}
LIMIT = {"resource_type": "api"}


def without_moments(answer: Answer) -> tuple[int, set[str], str]:
    """What two equal calls answer alike."""
    changing = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.]+Z")
    return answer.status, set(answer.headers), changing.sub(b"-", answer.body).decode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/budgets/check", CHECK),
        ("/budgets/check?enforce=true", CHECK),
        ("/budgets/check/batch", {"checks": [CHECK, CHECK]}),
        ("/cost-tracking/record", {"resource_type": "llm", "cost_amount": 1}),
        ("/rate-limits/check", LIMIT),
        ("/quotas/check", {"resource_type": "gpu", "required_amount": 1}),
        ("/budgets/reservations/01a20dc2-6604-7c51-8289-92e520253797/settle", {"actual_cost": 1}),
        ("/budgets/reservations/none/release", {}),
        ("/budgets/reservations/01a20dc2%2D6604-7c51-8289-92e520253797/release", {}),
        ("/budgets/check", {"resource_type": "llm", "estimated_cost": -1}),
        ("/budgets/check", b"[not json"),
        ("/budgets/check?no=such", CHECK),
        ("/budgets/check?no=" + 300 * "such", CHECK),
        ("/budgets/reservations/" + 300 * "n" + "/settle", {"actual_cost": 1}),
    ],
)
def test_a_decision_is_answered_the_same_straight_and_through_asgi(
    server: LiveServer, path: str, body: Any
) -> None:
    with Wire(server) as wire:
        wire.send(wire.request(path, body))
        straight = wire.answer()
        # a request that closes its connection takes the long way
        wire.send(wire.request(path, body, "Connection: close"))
        through_asgi = wire.answer()
        assert wire.is_closed()
    status, headers, text = without_moments(through_asgi)
    assert without_moments(straight) == (status, headers - {"connection"}, text)


def test_decisions_need_no_asgi(straight: LiveServer) -> None:
    with Wire(straight) as wire:
        for path, body in (("/budgets/check", CHECK), ("/rate-limits/check", LIMIT)) * 2:
            wire.send(wire.request(path, body, "Connection: keep-alive"))
            assert wire.answer().json()["allowed"]


@pytest.mark.parametrize("path", ["/budgets/check", "/rate-limits/check"])
def test_a_decision_whose_failure_cannot_be_told_leaves_nobody_waiting(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("SELECT secret")

    monkeypatch.setattr("fiscus.http.fast_lane.lane.note_refusal", fail)
    with Wire(server) as wire:
        # at first its key has to be looked up, and at last it goes through ASGI
        for lines in ([], [], ["Connection: close"]):
            wire.send(wire.request(path, {}, *lines))
            answer = wire.answer()
            assert (answer.status, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")
            assert b"SELECT" not in answer.body


def test_a_correlation_id_comes_back(straight: LiveServer) -> None:
    with Wire(straight) as wire:
        wire.send(wire.request("/rate-limits/check", LIMIT, "X-Correlation-ID: mine-1"))
        answer = wire.answer()
    assert answer.headers["x-correlation-id"] == answer.json()["correlation_id"] == "mine-1"


def test_a_request_may_come_in_any_pieces(straight: LiveServer) -> None:
    with Wire(straight) as wire:
        whole = wire.request("/budgets/check", CHECK)
        for cut in (1, 20, len(whole) // 2, whole.index(b"\r\n\r\n") + 3, len(whole) - 1):
            wire.send(whole[:cut])
            wire.send(whole[cut:])
            assert wire.answer().status == 200
        wire.send(*(whole[at : at + 1] for at in range(len(whole))))
        assert wire.answer().status == 200


def test_pipelined_requests_of_both_kinds_are_answered_in_their_order(server: LiveServer) -> None:
    with Wire(server) as wire:
        check = wire.request("/budgets/check", CHECK)
        limit = wire.request("/rate-limits/check", LIMIT)
        page = wire.get(f"{API}/budgets")
        order = [limit, check, limit, page, check, check, page, limit, page, page, check]
        wire.send(b"".join(order))
        for sent in order:
            answer = wire.answer().json()
            kind = {check: "reservation_id", limit: "retry_after", page: "pagination"}[sent]
            assert kind in answer, answer


def test_a_fragment_counts_for_nothing_on_either_way(server: LiveServer) -> None:
    with Wire(server) as wire:
        for lines in ([], ["Via: 1.1 a", "Via: 1.1 b"]):  # the second goes through ASGI
            for target in ("/budgets/check#a", "/budgets/check?#a"):
                wire.send(wire.request(target, CHECK, *lines))
                assert wire.answer().status == 200


def test_of_what_long_targets_ask_for_nothing_is_kept(server: LiveServer) -> None:
    connections._target.cache_clear()
    with Wire(server) as wire:
        for pad, kept in (("a" * 10, 1), ("a" * 60_000, 1), ("b" * 300, 1), ("b" * 10, 2)):
            wire.send(wire.request(f"/budgets/check?{pad}", CHECK))
            assert wire.answer().status == 400
            assert connections._target.cache_info().currsize == kept


def test_nothing_is_read_while_requests_wait_for_their_answer(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    received = DecisionProtocol.data_received

    def watched(connection: DecisionProtocol, data: bytes) -> None:
        waiting.append(len(connection.pipeline))
        received(connection, data)

    monkeypatch.setattr(DecisionProtocol, "data_received", watched)
    with Wire(server) as wire:
        many = wire.get("/health/live") * 4000
        sender = threading.Thread(target=wire.send, args=(many,))
        sender.start()
        for _ in range(4000):
            assert wire.answer().status == 200
        sender.join()
    assert len(waiting) > 1
    assert set(waiting) == {0}


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        (["Transfer-Encoding: chunked"], b"%x\r\n%b\r\n0\r\n\r\n", 200),
        (["Content-Encoding: gzip"], b"%b", 400),
        (["Expect: 100-continue"], b"%b", 200),
    ],
)
def test_other_bodies_are_read_as_ever(
    server: LiveServer, lines: list[str], body: bytes, status: int
) -> None:
    content = json.dumps(CHECK).encode()
    content = body % ((len(content), content) if b"%x" in body else (content,))
    with Wire(server) as wire:
        wire.send(wire.request("/budgets/check", content, *lines))
        if "Expect" in lines[0]:
            assert wire._until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        assert wire.answer().status == status
        wire.send(wire.request("/budgets/check", CHECK))
        assert wire.answer().status == 200


def test_a_large_body_is_read_and_one_that_is_too_large_refused(server: LiveServer) -> None:
    with Wire(server) as wire:
        many = {"checks": [{**CHECK, "user_id": "u" * 128}] * 500}
        wire.send(wire.request("/budgets/check/batch", many))
        assert len(wire.answer().json()["results"]) == 500
        wire.send(wire.request("/budgets/check", b" " * 2_000_001))
        assert wire.answer().status == 413


def test_a_client_of_http_1_0_is_answered_and_let_go(server: LiveServer) -> None:
    with Wire(server) as wire:
        wire.send(wire.request("/budgets/check", CHECK, version="1.0"))
        assert wire.answer().status == 200
        assert wire.is_closed()


def test_what_is_no_http_is_refused_also_after_a_decision(server: LiveServer) -> None:
    with Wire(server) as wire:
        wire.send(wire.request("/rate-limits/check", LIMIT))
        assert wire.answer().status == 200
        wire.send(b"no http at all\r\n\r\n")
        assert wire.answer().status == 400
        assert wire.is_closed()


def test_a_client_that_hangs_up_before_its_answer_has_been_heard(server: LiveServer) -> None:
    """Its check was asked for, so it is decided; the money comes free when the hold expires."""
    with Wire(server) as wire:
        wire.send(wire.request("/rate-limits/check", LIMIT))
        assert wire.answer().status == 200
        wire.send(wire.request("/budgets/check", CHECK))
    with httpx.Client(base_url=server.url, headers={"X-API-Key": server.key}) as client:
        client.post(f"{API}/budgets/check", json=CHECK)  # the ledger goes in order
        held = client.get(f"{API}/budgets/reservations").json()
    assert held["pagination"]["total_count"] == 2


class ManualTimers:
    """The loop's clock and timers, moved by hand; nothing else of it is asked for."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Any) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        timer = asyncio.TimerHandle(self.now + seconds, callback, (), loop)
        self.timers.append(timer)
        return timer

    def call_soon(self, callback: Any, *args: Any) -> asyncio.Handle:
        return asyncio.get_running_loop().call_soon(callback, *args)

    def create_task(self, work: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work)

    def pass_by(self, seconds: float) -> None:
        until = self.now + seconds
        while self.timers and (timer := min(self.timers)).when() <= until:
            self.timers.remove(timer)
            if not timer.cancelled():
                self.now = timer.when()
                timer._run()
        self.now = until


class SteppedLane:
    """A lane whose decisions take two steps, which it writes down."""

    max_body_bytes = 1000

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def answer(self, *asked: Any) -> Reply:
        body: bytes = asked[-1]
        for step in "12":
            self.steps.append(body.decode() + step)
            await NEXT_STEP
        return Reply(200, "Content-Length: 1\r\n", body)


@pytest.mark.anyio
async def test_decisions_of_one_turn_are_as_far_as_each_other() -> None:
    lane = SteppedLane()
    config = uvicorn.Config(cast("Any", lane), log_config=None)
    config.load()
    pipes = [Pipe() for _ in range(3)]
    for pipe, body in zip(pipes, "abc", strict=True):
        connection = connections_of(cast("Any", lane))(config, ServerState(), {})
        connection.connection_made(pipe)
        head = f"POST {API}/budgets/check HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
        connection.data_received((head + body).encode())
    assert lane.steps == []  # more may be read in this turn
    await asyncio.sleep(0)
    assert lane.steps == ["a1", "b1", "c1", "a2", "b2", "c2"]
    assert [pipe.written[-1:] for pipe in pipes] == [b"a", b"b", b"c"]


@pytest.mark.anyio
async def test_a_connection_is_closed_when_nothing_is_asked_on_it_for_a_while(
    data_dir: Path,
) -> None:
    async with open_app(data_dir) as app:
        key = app.make_key(Role.SERVICE)
        config = uvicorn.Config(app.app, log_config=None, timeout_keep_alive=5)
        config.load()
        connection = connections_of(app.app)(config, ServerState(), {})
        timers, pipe = ManualTimers(), Pipe()
        connection.connection_made(pipe)
        connection.loop = timers
        body = json.dumps(LIMIT).encode()
        request = (
            f"POST {API}/rate-limits/check HTTP/1.1\r\nX-API-Key: {key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

        async def ask(part: bytes = request) -> None:
            pipe.written = b""
            connection.data_received(part)
            await asyncio.sleep(0)  # answers are written at the end of the turn
            assert b" 200 OK" in pipe.written

        # from here on the key and the tenant's policies are known, so answers come at once
        await app.post("/rate-limits/check", LIMIT, key=key)
        await ask()
        for _ in range(4):
            timers.pass_by(4)
            assert not pipe.closed
            await ask()
        connection.data_received(request[:40])  # one that is slow to ask is not idle
        timers.pass_by(6)
        assert not pipe.closed
        await ask(request[40:])
        timers.pass_by(6)
        assert pipe.closed


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("asked", "status", "later"),
    [
        (f"POST {API}/budgets HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n", 401, b"{}"),
        ("GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", 200, b"\r\n"),
    ],
    ids=["its body", "an empty line"],
)
async def test_a_connection_is_idle_also_when_something_came_after_the_answer(
    data_dir: Path, asked: str, status: int, later: bytes
) -> None:
    async with open_app(data_dir) as app:
        config = uvicorn.Config(app.app, log_config=None, timeout_keep_alive=5)
        config.load()
        connection = connections_of(app.app)(config, ServerState(), {})
        connection.loop, pipe = ManualTimers(), Pipe()
        connection.connection_made(pipe)
        connection.data_received(asked.encode())
        await pipe.until(f" {status} ".encode())
        connection.loop.pass_by(4)
        assert not pipe.closed
        connection.data_received(later)
        connection.loop.pass_by(6)
        assert pipe.closed


@pytest.mark.anyio
async def test_who_does_not_finish_a_request_is_hung_up_on(data_dir: Path) -> None:
    async with open_app(data_dir) as app:
        key = app.make_key(Role.SERVICE)
        config = uvicorn.Config(app.app, log_config=None, timeout_keep_alive=5)
        config.load()
        await app.post("/rate-limits/check", LIMIT, key=key)  # from here on it is known

        def connect() -> tuple[Any, ManualTimers, Pipe]:
            connection = connections_of(app.app)(config, ServerState(), {})
            connection.loop, pipe = ManualTimers(), Pipe()
            connection.connection_made(pipe)
            return connection, connection.loop, pipe

        body = json.dumps(LIMIT).encode()
        request = (
            f"POST {API}/rate-limits/check HTTP/1.1\r\nX-API-Key: {key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

        connection, timers, pipe = connect()  # asks nothing
        timers.pass_by(29)
        assert not pipe.closed
        timers.pass_by(1)
        assert pipe.closed
        assert pipe.written == b""
        connection.connection_lost(None)

        for sent in (40, len(request) - 1):  # half a head, half a body
            connection, timers, pipe = connect()
            timers.pass_by(20)
            connection.data_received(request[: sent - 1])
            timers.pass_by(20)
            connection.data_received(request[sent - 1 : sent])
            timers.pass_by(29)
            assert not pipe.written
            timers.pass_by(1)
            await asyncio.sleep(0)
            assert pipe.written.startswith(b"HTTP/1.1 408 ")
            assert b"application/problem+json" in pipe.written
            assert pipe.closed
            connection.connection_lost(None)

        connection, timers, pipe = connect()  # a stream that pauses
        head = (
            f"POST {API}/cost-tracking/record/stream HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        ).encode()
        line = json.dumps({"resource_type": "llm", "cost_amount": 1}).encode() + b"\n"
        chunk = b"%x\r\n%b\r\n" % (len(line), line)
        connection.data_received(head + chunk)
        await pipe.until(b"record_id")
        timers.pass_by(600)
        connection.data_received(chunk + b"0\r\n\r\n")
        await pipe.until(b'"recorded":2')
        connection.connection_lost(None)

        connection, timers, pipe = connect()  # comes slowly, and is answered
        for index in range(0, len(request), 40):
            timers.pass_by(29)
            connection.data_received(request[index : index + 40])
        await asyncio.sleep(0)
        assert b" 200 OK" in pipe.written
        connection.connection_lost(None)


# -- over sockets, where nothing may come for a moment only


@pytest.fixture
def impatient(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> LiveServer:
    # long enough for a client of a busy machine to ask in time
    monkeypatch.setattr(silence, "SILENT_SECONDS", 1.5)
    return server


@pytest.mark.parametrize("path", ["/nope", f"{API}/budgets"])
def test_who_was_answered_before_the_body_is_hung_up_on_without_it(
    impatient: LiveServer, path: str
) -> None:
    with Wire(impatient) as wire:
        wire.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        assert wire.answer().status in {401, 404}
        wire.send(b"x")
        assert wire.is_closed()


def reads_little(server: LiveServer) -> socket.socket:
    """A connection on which few bytes wait for the client that it has not asked for."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect(("127.0.0.1", server.port))
    return client


DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "asked",
    [
        DOCUMENT * 300,
        DOCUMENT.replace(b"Host", b"Connection: close\r\nHost"),
        DOCUMENT * 20 + b"no request\r\n\r\n",
    ],
    ids=["many", "closing", "refused"],
)
def test_who_takes_nothing_of_the_answers_is_hung_up_on(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, asked: bytes
) -> None:
    monkeypatch.setattr(silence, "SILENT_SECONDS", 0.2)
    with (
        serving(data_dir, send_buffer_bytes=4096) as server,
        reads_little(server) as client,
    ):
        client.sendall(asked)
        with pytest.raises(ConnectionError):  # noqa: PT012 - one of them comes late
            for _ in range(600):
                time.sleep(0.05)
                client.sendall(b"x")


def test_who_takes_the_answers_slowly_gets_them_all(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "SILENT_SECONDS", 1.5)
    with serving(data_dir, send_buffer_bytes=4096) as server, reads_little(server) as client:
        client.sendall(DOCUMENT.replace(b"Host", b"Connection: close\r\nHost"))
        read = b""
        for _ in range(20):  # for longer than that in all
            time.sleep(0.1)
            read += client.recv(8192)
        while part := client.recv(65_536):
            read += part
    assert read.endswith(b"}")


def test_a_stop_answers_what_is_in_hand_and_closes(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopping = threading.Event(), threading.Event()
    run, shutdown = GroupRunner.run, DecisionProtocol.shutdown

    def run_late(runner: GroupRunner, commands: Sequence[Command]) -> list[Outcome]:
        begun.set()
        assert stopping.wait(30)
        return run(runner, commands)

    def stop(connection: DecisionProtocol) -> None:
        shutdown(connection)
        stopping.set()

    monkeypatch.setattr(GroupRunner, "run", run_late)
    monkeypatch.setattr(DecisionProtocol, "shutdown", stop)
    with serving(data_dir, default_tenant="acme") as server:
        straight, through_asgi, cut = Wire(server), Wire(server), Wire(server)
        cut.send(cut.request("/budgets/check", CHECK)[:-1])  # begun, not whole
        straight.send(straight.request("/budgets/check", CHECK))
        assert begun.wait(30)
        through_asgi.send(through_asgi.request("/budgets/check", CHECK, "Via: a", "Via: b"))
        wait_until(lambda: server.engine.ledger.queue_depth == 1)
    with straight, through_asgi, cut:
        for wire in (straight, through_asgi):
            answer = wire.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert wire.is_closed()
        assert cut.is_closed()


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", f"{API}/health/ready", "/docs", f"{API}/budgets", "/nope"]
)
def test_head_is_answered_as_get_without_a_body(server: LiveServer, path: str) -> None:
    with Wire(server) as wire:
        wire.send(wire.get(path))
        got = wire.answer()
        wire.send(wire.get(path).replace(b"GET", b"HEAD", 1))
        status, headers = wire.head()
        assert status == got.status
        # latencies of the health's dependencies are longer or shorter as they come
        different = {"date", "x-correlation-id", "content-length"}
        assert {k: v for k, v in headers.items() if k not in different} == {
            k: v for k, v in got.headers.items() if k not in different
        }
        assert int(headers["content-length"]) > 0
        wire.send(wire.request("/budgets/check", CHECK))
        assert wire.answer().json()["allowed"]

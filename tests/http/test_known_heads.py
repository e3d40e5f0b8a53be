"""Heads that come again on a connection are not read again, and nobody can tell."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from fiscus.http.body import read_body
from fiscus.http.fast_lane.connections import DecisionProtocol, connections_of
from fiscus.http.fast_lane.decisions import match_endpoint
from fiscus.http.fast_lane.known_heads import MAX_BYTES, MAX_KNOWN, KnownHead, KnownHeads
from fiscus.http.fast_lane.lane import Reply
from fiscus.http.header_fields import HeaderFields
from tests.http.app_client import API
from tests.http.pipes import Pipe
from tests.http.wire import Wire

if TYPE_CHECKING:
    from tests.http.live_server import LiveServer

PATH = f"{API}/budgets/check"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n".encode()
CHECK = {"resource_type": "llm", "estimated_cost": 1}


def read(head: bytes = HEAD) -> KnownHead:
    """What a parser would have read of a head, of which each line ends somehow."""
    lines = head.replace(b"\r", b"").split(b"\n\n")[0].split(b"\n")[1:]
    fields = HeaderFields((name.lower(), value) for name, value in (x.split(b": ") for x in lines))
    matched = match_endpoint(PATH)
    assert matched is not None
    return KnownHead((matched, PATH, b""), fields, int(fields[b"content-length"]))


def test_what_was_kept_is_found_with_the_body_behind_it() -> None:
    heads = KnownHeads()
    assert heads.find(HEAD + b"{}") is None
    kept = read()
    heads.keep(HEAD + b"{}", kept)
    assert heads.find(HEAD + b"[]") == (kept, b"[]")


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        HEAD + b"{",
        HEAD + b"{} ",
        HEAD + b"{}" + HEAD + b"{}",
        HEAD.lower() + b"{}",
        HEAD[:-2] + b"{}",
        b"\r\n" + HEAD + b"{}",
        b"",
    ],
)
def test_anything_but_one_whole_request_of_the_kind_is_left_to_the_parser(data: bytes) -> None:
    heads = KnownHeads()
    heads.keep(HEAD + b"{}", read())
    assert heads.find(data) is None


@pytest.mark.parametrize(
    "line",
    [
        "X-Idempotency-Key: k-1",
        "Idempotency-Key: k-1",
        "X-Correlation-ID: c-1",
        "Traceparent: 00-0-0-01",
        "X-Of-A-Proxy: 1",
        f"User-Agent: {MAX_BYTES * 'a'}",
    ],
)
def test_a_head_that_will_not_come_again_is_not_kept(line: str) -> None:
    head = HEAD.replace(b"Host: a", line.encode())
    heads = KnownHeads()
    heads.keep(head + b"{}", read(head))
    assert heads.find(head + b"{}") is None


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (HEAD.replace(b"\r\n", b"\n"), b"\r\n\r\n"),
        (HEAD.replace(b"a\r\n", b"a\n"), b"{}"),
        (HEAD[:-4] + b"\n\n", b"\r\n\r\n"),
        (b"\r\n\r\n" + HEAD, b"{}"),
    ],
)
def test_a_head_of_which_it_is_not_sure_where_it_ends_is_not_kept(head: bytes, body: bytes) -> None:
    heads = KnownHeads()
    heads.keep(head + body, read())
    assert heads._heads == {}


def test_no_more_are_kept_than_is_set() -> None:
    heads = KnownHeads()
    for number in range(3 * MAX_KNOWN):
        head = HEAD.replace(b": a", f": {number}".encode())
        heads.keep(head + b"{}", read(head))
        assert 0 < len(heads._heads) <= MAX_KNOWN
        assert heads.find(head + b"{}") is not None


def test_where_heads_do_not_come_again_none_is_kept_after_a_while() -> None:
    heads = KnownHeads()
    for number in range(MAX_KNOWN + 1):
        head = HEAD.replace(b": a", f": {number}".encode())
        assert heads.find(head + b"{}") is None
        heads.keep(head + b"{}", read(head))
    assert heads._heads == {}
    heads.keep(HEAD + b"{}", read())
    assert heads.find(HEAD + b"{}") is None


def test_a_head_that_comes_again_is_not_read_again(
    straight: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    decision = DecisionProtocol._decision

    def counted(connection: DecisionProtocol) -> object:
        nonlocal reads
        reads += 1
        return decision(connection)

    monkeypatch.setattr(DecisionProtocol, "_decision", counted)
    with Wire(straight) as wire:
        for times in range(3):
            for cost in (1, 22, 333):
                wire.send(wire.request("/budgets/check", CHECK | {"estimated_cost": cost}))
                assert wire.answer().json()["max_allowed_cost"] is None
            assert reads == 3
            wire.send(wire.request("/budgets/check", CHECK, f"X-Idempotency-Key: key-{times}"))
            assert wire.answer().json()["allowed"]
            reads -= 1


def test_a_key_that_is_revoked_is_refused_on_a_connection_that_knows_its_head(
    server: LiveServer,
) -> None:
    with Wire(server) as wire:
        made = {"name": "short-lived", "roles": ["service"]}
        wire.send(wire.request("/api-keys", made, "Content-Type: application/json"))
        key = wire.answer().json()
        with Wire(server) as other:
            other.key = key["api_key"]
            for _ in range(3):
                other.send(other.request("/budgets/check", CHECK))
                assert other.answer().json()["allowed"]
            wire.send(
                f"DELETE {API}/api-keys/{key['key_id']} HTTP/1.1\r\nHost: a\r\n"
                f"X-API-Key: {wire.key}\r\n\r\n".encode()
            )
            assert wire.answer().status == 200
            other.send(other.request("/budgets/check", CHECK))
            assert other.answer().status == 401


class EchoLane:
    """A lane that answers with what it was sent, as many turns of the loop later as that says."""

    max_body_bytes = 10_000

    async def answer(self, *asked: Any) -> Reply:
        loop = asyncio.get_running_loop()
        body: bytes = asked[-1]
        for _ in range(int(body[:1]) if body[:1].isdigit() else 0):
            later = loop.create_future()
            loop.call_soon(later.set_result, None)
            await later
        return Reply(200, f"Content-Length: {len(body)}\r\n", body)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        fields = dict(scope["headers"])
        body = fields.get(b"x-early") or await read_body(fields, receive, self.max_body_bytes)
        size = str(len(body)).encode()
        head = {"status": 200, "headers": [(b"content-length", size)]}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": body})


def connected(lane: Any) -> tuple[DecisionProtocol, Pipe]:
    """A connection to a lane."""
    config = uvicorn.Config(lane, log_config=None)
    config.load()
    connection, pipe = connections_of(lane)(config, ServerState(), {}), Pipe()
    connection.connection_made(pipe)
    return connection, pipe


def request(kind: str, body: bytes, early: bytes = b"") -> tuple[bytes, bytes]:
    """Head and body of a request of one kind; `chunked` and `early` go through ASGI, which answers
    the latter before its body is there."""
    lines = {
        "plain": b"Content-Length: %d\r\n" % len(body),
        "keyed": b"Idempotency-Key: k\r\nContent-Length: %d\r\n" % len(body),
        "chunked": b"Transfer-Encoding: chunked\r\n",
        "early": b"Via: a\r\nVia: b\r\nX-Early: %b\r\nContent-Length: %d\r\n" % (early, len(body)),
    }[kind]
    if kind == "chunked":
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (PATH.encode(), lines), body


class PathLane:
    """A lane that answers with the path it was asked for."""

    max_body_bytes = 10_000

    async def answer(self, _matched: object, path: str, *_: object) -> Reply:
        return Reply(200, f"Content-Length: {len(path)}\r\n", path.encode())

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        path: bytes = scope["raw_path"]
        size = str(len(path)).encode()
        head = {"status": 200, "headers": [(b"content-length", size)]}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": path})


@pytest.mark.anyio
async def test_of_requests_in_one_packet_none_is_taken_for_another() -> None:
    paths = [PATH.encode(), f"{API}/quotas/check".encode()]
    one, other = (b"".join(request("plain", b"{}")).replace(paths[0], path) for path in paths)
    # answered before its body is there, which is what `one` begins with
    early = b"".join(request("early", one[:-2], b"-"))[: -len(one[:-2])]
    connection, pipe = connected(PathLane())
    for data, path in (
        (one + other, paths[1]),
        (one, paths[0]),
        (b"\r\n" + other + one, paths[0]),
        (other, paths[1]),
        (early, paths[0]),
        (one[:-2] + other, paths[1]),
        (one, paths[0]),
        (other, paths[1]),
    ):
        pipe.written = b""
        connection.data_received(data)
        for _ in range(20):
            await asyncio.sleep(0)
        assert pipe.written.endswith(path)


KINDS = st.sampled_from(["plain", "plain", "plain", "keyed", "chunked", "early"])
TURNS = st.integers(0, 3)
SENT = st.lists(
    st.tuples(
        KINDS,
        TURNS,  # that its answer takes
        st.booleans(),  # whether its body is a request itself
        st.none() | st.just(True) | st.integers(1, 120),  # where it is cut; True: before its body
        st.tuples(TURNS, TURNS),  # after each piece
    ),
    min_size=1,
    max_size=10,
)


@given(sent=SENT)
@example(
    sent=[
        ("plain", 0, False, None, (3, 3)),
        ("early", 0, True, True, (3, 3)),
        ("plain", 0, True, True, (3, 3)),
        ("plain", 3, False, None, (0, 0)),
        ("plain", 0, False, 20, (0, 0)),
    ]
)
def test_requests_in_any_order_and_in_any_pieces_are_answered_in_turn(
    sent: list[tuple[str, int, bool, int | None, tuple[int, int]]],
) -> None:
    expected: list[bytes] = []
    pieces: list[tuple[bytes, int]] = []
    for number, (kind, turns, is_request, cut, after) in enumerate(sent):
        name = b"%d-%02d" % (turns, number)
        content = b"".join(request("plain", name)) if is_request else name
        expected.append(name if kind == "early" else content)
        head, body = request(kind, content, name)
        data, place = head + body, len(head) if cut is True else cut or 0
        pieces += zip((data[:place], data[place:]), after, strict=True)

    async def answered() -> bytes:
        connection, pipe = connected(EchoLane())
        for piece, turns in pieces:
            if piece:
                connection.data_received(piece)
            for _ in range(turns):
                await asyncio.sleep(0)
        await pipe.until(expected[-1])
        return pipe.written

    found = re.split(rb"HTTP/1.1 200 OK\r\n(?:[^\r\n]+\r\n)*\r\n", asyncio.run(answered()))
    assert found == [b"", *expected]

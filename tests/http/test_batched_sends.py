"""Answers of many connections that are sent in one call, over real pairs of sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fiscus.http.fast_lane import batched_sends
from fiscus.http.fast_lane.batched_sends import (
    MAX_SENDS,
    SendBatch,
    descriptor_of,
    send_batch_of,
)
from fiscus.http.fast_lane.joined_writes import LARGE, joining
from fiscus.runtime.turns import turn_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the call is Linux's"),
]

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
FILLS_A_SOCKET = b"before " * 200_000


class Pair:
    """A connection: our transport of it, joined, and the client's socket."""

    def __init__(self, transport: asyncio.Transport, joined: Any, client: socket.socket) -> None:
        self.transport = transport
        self.joined = joined
        self.client = client

    def received(self) -> bytes:
        """What has come by now."""
        found = b""
        with suppress(BlockingIOError):
            while piece := self.client.recv(1_000_000):
                found += piece
        return found

    async def received_whole(self, size: int) -> bytes:
        """So many bytes, as the event loop sends them."""
        found = b""
        while len(found) < size:
            found += self.received()
            await asyncio.sleep(0)
        return found


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[], Awaitable[Pair]]]:
    loop = asyncio.get_running_loop()
    pairs: list[Pair] = []

    async def connected() -> Pair:
        ours, client = socket.socketpair()
        client.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        joined = joining(transport, turn_of(loop), send_batch_of(loop))
        pairs.append(Pair(transport, joined, client))
        return pairs[-1]

    yield connected
    for one in pairs:
        one.transport.close()
        one.client.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many writes each call to the system had."""
    counted: list[int] = []
    submit = SendBatch._submitted

    def count(self: SendBatch, operations: Any) -> int:
        counted.append(len(operations))
        return submit(self, operations)

    monkeypatch.setattr(SendBatch, "_submitted", count)
    return counted


async def test_answers_of_a_turn_are_one_call_and_each_gets_its_own(
    connect: Callable[[], Awaitable[Pair]], calls: list[int]
) -> None:
    pairs = [await connect() for _ in range(40)]
    for number, one in enumerate(pairs):
        one.joined.write(HEAD + b"answer %d" % number)
    assert pairs[0].received() == b""
    await asyncio.sleep(0)
    assert [one.received() for one in pairs] == [HEAD + b"answer %d" % n for n in range(40)]
    assert calls == [40]


async def test_more_than_one_call_has_are_several(
    connect: Callable[[], Awaitable[Pair]], calls: list[int]
) -> None:
    pairs = [await connect() for _ in range(MAX_SENDS + 3)]
    for one in pairs:
        one.joined.write(HEAD + b"answer")
    await asyncio.sleep(0)
    assert all(one.received() == HEAD + b"answer" for one in pairs)
    assert calls == [MAX_SENDS, 3]


async def test_one_whose_client_does_not_read_gets_the_rest_later_and_in_order(
    connect: Callable[[], Awaitable[Pair]],
) -> None:
    slow, quick = await connect(), await connect()
    with suppress(BlockingIOError):
        while True:
            os.write(_descriptor(slow), FILLS_A_SOCKET)
    for answer in (HEAD + b"first", HEAD + b"second"):
        for one in (slow, quick):
            one.joined.write(answer)
        await asyncio.sleep(0)
    assert quick.received() == HEAD + b"first" + HEAD + b"second"
    assert slow.transport.get_write_buffer_size() > 0
    expected = HEAD + b"first" + HEAD + b"second"
    found = slow.received()
    while not found.endswith(expected):
        await asyncio.sleep(0)
        found += slow.received()
    assert found.count(HEAD) == 2


async def test_what_the_system_takes_in_part_arrives_whole(
    connect: Callable[[], Awaitable[Pair]],
) -> None:
    pairs = [await connect() for _ in range(3)]
    batch = SendBatch()
    for one in pairs:
        batch.add(one.transport, _descriptor(one), FILLS_A_SOCKET)
    batch.send()
    for one in pairs:
        assert await one.received_whole(len(FILLS_A_SOCKET)) == FILLS_A_SOCKET


async def test_a_client_that_is_gone_is_in_nobodys_way(
    connect: Callable[[], Awaitable[Pair]],
) -> None:
    pairs = [await connect() for _ in range(3)]
    pairs[1].client.close()
    for one in pairs:
        one.joined.write(HEAD + b"answer")
    await asyncio.sleep(0)
    assert pairs[0].received() == pairs[2].received() == HEAD + b"answer"
    await asyncio.sleep(0)
    assert pairs[1].transport.is_closing()


async def test_nothing_is_written_to_who_has_the_descriptor_of_a_closed_one(
    connect: Callable[[], Awaitable[Pair]],
) -> None:
    pairs = [await connect() for _ in range(3)]
    batch = SendBatch()
    for one in pairs:
        batch.add(one.transport, _descriptor(one), b"answer")
    descriptor = _descriptor(pairs[1])
    pairs[1].transport.abort()
    await asyncio.sleep(0.0)
    await asyncio.sleep(0.0)
    others = socket.socketpair()
    while descriptor not in {one.fileno() for one in others}:
        others = (*others, *socket.socketpair())
    batch.send()
    for one in others:
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(10)
    for one in others:
        one.close()
    assert pairs[0].received() == pairs[2].received() == b"answer"


async def test_an_answer_goes_before_a_large_one_and_before_the_end(
    connect: Callable[[], Awaitable[Pair]],
) -> None:
    first, second = await connect(), await connect()
    turn = turn_of(asyncio.get_running_loop())
    for one in (first, second):
        one.joined.write(HEAD + b"small")
    large = HEAD + b"x" * LARGE
    turn.at_end(lambda: first.joined.write(large))
    turn.at_end(second.joined.close)
    await asyncio.sleep(0)
    assert await first.received_whole(len(HEAD) * 2 + 5 + LARGE) == HEAD + b"small" + large
    assert second.received() == HEAD + b"small"


async def test_two_whole_answers_of_a_turn_arrive_in_their_order_and_with_those_of_others(
    connect: Callable[[], Awaitable[Pair]],
) -> None:
    pairs = [await connect() for _ in range(3)]
    for one in pairs:
        one.joined.write_whole(FILLS_A_SOCKET[: LARGE - 1])
    assert [one.received() for one in pairs] == [b""] * 3
    pairs[0].joined.write_whole(HEAD + b"second")
    pairs[0].joined.write_whole(HEAD + b"third")
    await asyncio.sleep(0)
    first = FILLS_A_SOCKET[: LARGE - 1]
    assert pairs[0].received() == first + HEAD + b"second" + HEAD + b"third"
    assert pairs[1].received() == pairs[2].received() == first


async def test_a_whole_answer_goes_behind_the_head_that_waits_for_its_body(
    connect: Callable[[], Awaitable[Pair]],
) -> None:
    pair = await connect()
    pair.joined.write(HEAD)
    pair.joined.write_whole(b"body")
    await asyncio.sleep(0)
    assert pair.received() == HEAD + b"body"


@pytest.mark.parametrize("error", [OSError, SystemError])
async def test_what_the_system_does_not_take_together_is_sent_one_by_one(
    connect: Callable[[], Awaitable[Pair]], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    pairs = [await connect() for _ in range(3)]

    class Full:
        def submit(self, *_: object) -> int:
            raise error("Resource temporarily unavailable")

    batch = SendBatch()
    monkeypatch.setattr(batch, "_context", Full())
    for one in pairs:
        batch.add(one.transport, _descriptor(one), b"answer")
    batch.send()
    await asyncio.sleep(0)
    assert [one.received() for one in pairs] == [b"answer"] * 3


async def test_where_there_is_no_such_call_answers_go_as_ever(
    connect: Callable[[], Awaitable[Pair]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "caio.linux_aio", None)
    monkeypatch.setattr(batched_sends, "_BATCHES", {})
    assert send_batch_of(asyncio.get_running_loop()) is None
    pairs = [await connect() for _ in range(3)]
    for one in pairs:
        one.joined.write(HEAD + b"answer")
    await asyncio.sleep(0)
    assert [one.received() for one in pairs] == [HEAD + b"answer"] * 3


async def test_nothing_is_written_beneath_tls(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path))
    trusting = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait(writer)

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        _, client = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
        )
        ours = await accepted.get()
        assert descriptor_of(ours.transport) is None
        for one in (client, ours):
            one.close()
        await client.wait_closed()


def _certificate(folder: Path) -> Path:
    """One for localhost that nobody signed but its own key, with that."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def _descriptor(pair: Pair) -> int:
    descriptor = descriptor_of(pair.transport)
    assert descriptor is not None
    return descriptor

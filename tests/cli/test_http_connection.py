"""The load driver's own HTTP: keep-alive, reconnecting, and servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from fiscus.cli.replay.http_connection import HttpConnection, Target, target


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncGenerator[tuple[Target, list[bytes]]]:
    """A server that gives each request the next answer; it hangs up after one that says so."""
    left = list(answers)
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            requests.append(head + await reader.readexactly(length))
            answer = left.pop(0)
            writer.write(answer)
            await writer.drain()
            if b"Connection: close" in answer or not answer:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield target(f"http://127.0.0.1:{port}/base/", "k-1"), requests
    finally:
        server.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlast"
BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


def test_requests_share_a_connection_and_carry_key_and_path() -> None:
    async def run() -> None:
        async with answering(OK, CHUNKED) as (where, requests):
            connection = HttpConnection(where)
            assert (await connection.post("/check", b"{}", "i-1")).body == b"ok"
            assert (await connection.post("/check", b'{"a":1}', "i-2")).body == b"abc"
            connection.close()
        assert requests[0].startswith(b"POST /base/check HTTP/1.1\r\n")
        assert b"X-API-Key: k-1\r\n" in requests[0]
        assert b"Idempotency-Key: i-2\r\n" in requests[1]
        assert requests[1].endswith(b'\r\n\r\n{"a":1}')

    asyncio.run(run())


def test_connection_is_made_again_after_the_server_hung_up() -> None:
    async def run() -> None:
        async with answering(LAST, OK) as (where, _):
            connection = HttpConnection(where)
            assert (await connection.post("/", b"", "i-1")).body == b"last"
            assert (await connection.post("/", b"", "i-2")).body == b"ok"
            connection.close()

    asyncio.run(run())


def test_busy_server_says_when_to_come_back() -> None:
    async def run() -> None:
        async with answering(BUSY) as (where, _):
            connection = HttpConnection(where)
            reply = await connection.post("/", b"", "i-1")
            assert (reply.status, reply.retry_after_seconds) == (503, 3.0)
            connection.close()

    asyncio.run(run())


@pytest.mark.parametrize("answer", [b"", b"SMTP ready\r\n\r\n"])
def test_server_that_hangs_up_or_speaks_something_else_is_an_error(answer: bytes) -> None:
    async def run() -> None:
        async with answering(answer) as (where, _):
            connection = HttpConnection(where)
            with pytest.raises(OSError, match=r"closed|not HTTP"):
                await connection.post("/", b"", "i-1")
            connection.close()

    asyncio.run(run())


def test_address_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        target("nowhere", "k")

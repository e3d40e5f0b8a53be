"""When what a server answers goes out, over a real pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from fiscus.http.fast_lane.batched_sends import send_batch_of
from fiscus.http.fast_lane.joined_writes import LARGE, joining
from fiscus.runtime.turns import turn_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Line:
    """A connection's transport, and its other end."""

    def __init__(self, transport: Any, client: socket.socket) -> None:
        self.transport = transport
        self._client = client

    def received(self) -> bytes:
        """What has come by now."""
        try:
            return self._client.recv(2 * LARGE)
        except BlockingIOError:
            return b""


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    loop = asyncio.get_running_loop()
    ours, client = socket.socketpair()
    client.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    yield Line(joining(transport, turn_of(loop), send_batch_of(loop)), client)
    transport.close()
    client.close()


async def test_an_answer_waits_for_the_end_of_its_turn(line: Line) -> None:
    line.transport.write(HEAD)
    line.transport.write(b"body")
    assert line.received() == b""
    await asyncio.sleep(0)
    assert line.received() == HEAD + b"body"


async def test_a_large_answer_goes_out_at_once_and_whole(line: Line) -> None:
    body = b"x" * LARGE
    line.transport.write(HEAD)
    line.transport.write(body)
    assert line.received() == HEAD + body
    await asyncio.sleep(0)
    assert line.received() == b""


async def test_a_large_answer_goes_out_at_once_when_it_is_one_write(line: Line) -> None:
    answer = HEAD + b"x" * LARGE
    line.transport.write(answer)
    assert line.received() == answer


async def test_answers_of_one_turn_are_in_order_whatever_their_size(line: Line) -> None:
    large = b"x" * LARGE
    for body in (b"first", large, b"last"):
        line.transport.write(HEAD)
        line.transport.write(body)
    line.transport.write(HEAD + b"whole")
    await asyncio.sleep(0)
    answers = HEAD + b"first" + HEAD + large + HEAD + b"last" + HEAD + b"whole"
    assert line.received() == answers

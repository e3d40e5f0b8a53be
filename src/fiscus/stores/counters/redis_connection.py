"""A connection to Redis whose answers an event loop reads; several commands may be on their way."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from hiredis import (
    Reader,
    pack_command,  # pyright: ignore[reportUnknownVariableType]
)
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, RedisError

from fiscus.stores.counters.redis_commands import TROUBLE, Arguments
from fiscus.stores.counters.redis_urls import Connection, Pool

ReplyCallback = Callable[[Any], None]
"""Is given an answer, or the exception that tells why there is none. Must not raise."""

_PART_BYTES: Final = 65_536
_INCOMPLETE: Final = object()
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class LoopConnection:
    """A connection of one event loop. A server answers in the order in which it is asked.

    redis-py connects it, in a thread: what a pool's connections go through (names, TLS, passwords,
    Sentinels) may block. From then on its socket is the event loop's. What is asked before waits.
    """

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.is_open = True
        """It takes questions."""
        self._loop = loop
        self._connection: Connection | None = None
        self._socket: socket.socket | None = None
        self.has_ended = False
        self._early: list[tuple[bytes, ReplyCallback]] = []
        """What is asked before there is a connection."""
        self._waiting: deque[ReplyCallback] = deque()
        """Those whose answers are on their way, in order."""
        self._unsent = b""
        """What the system did not take yet."""
        self._reader = Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            notEnoughData=_INCOMPLETE,
        )
        opening = loop.run_in_executor(None, _connected, pool)
        opening.add_done_callback(self._opened)

    def ask(self, data: bytes, on_reply: ReplyCallback) -> None:
        """Send a command; `on_reply` is given the answer, never before this returns."""
        if self._socket is None:
            self._early.append((data, on_reply))
            return
        self._waiting.append(on_reply)
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(self._socket, data)
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.add_writer(self._socket.fileno(), self._send_rest)

    def give_up(self, on_reply: ReplyCallback) -> None:
        """Do not wait for an answer any longer. What was not sent never will be.

        Else the connection ends, and others who wait get an error: a server that is late for one is
        late for those after it, and a new connection may lead to one that is not.
        """
        if self._socket is None:
            self._early = [one for one in self._early if one[1] is not on_reply]
        elif on_reply in self._waiting:
            self.end(Disconnected("an answer is late"))

    def leave(self) -> None:
        """Take no more questions, and end when those that were asked are answered."""
        self.is_open = False
        if not self._waiting and not self._early:
            self.end(Disconnected("left"))

    def end(self, error: Exception) -> None:
        """Disconnect, and call back those who wait with `error`."""
        if self.has_ended:
            return
        self.has_ended = True
        self.is_open = False
        if self._socket is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        if self._connection is not None:
            self._connection.disconnect()
        disappointed = [*self._waiting, *(on_reply for _, on_reply in self._early)]
        self._waiting.clear()
        self._early.clear()
        for on_reply in disappointed:
            on_reply(error)

    def _opened(self, opening: asyncio.Future[Connection]) -> None:
        error = opening.exception()
        if error is not None:
            self.end(error if isinstance(error, TROUBLE) else Disconnected(repr(error)))
            return
        self._connection = opening.result()
        if self.has_ended:
            self._connection.disconnect()
            return
        self._socket = self._connection._sock  # pyright: ignore[reportPrivateUsage]
        assert self._socket is not None
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._readable)
        early, self._early = self._early, []
        for data, on_reply in early:
            self.ask(data, on_reply)

    def _send(self, to: socket.socket, data: bytes) -> int:
        """How many bytes the system took."""
        try:
            return to.send(data)
        except _NOT_NOW:
            return 0
        except OSError as error:
            # not at once: who asks is not done with asking
            self._loop.call_soon(self.end, error)
            return len(data)

    def _send_rest(self) -> None:
        if self.has_ended or self._socket is None:
            return
        self._unsent = self._unsent[self._send(self._socket, self._unsent) :]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        replies: list[tuple[ReplyCallback, Any]] = []
        error: Exception | None = None
        try:
            self._receive(replies)
        except _NOT_NOW:
            pass
        except (OSError, RedisError) as trouble:
            error = trouble
        for on_reply, answer in replies:
            on_reply(answer)
        if error is not None:
            self.end(error)
        elif not self.is_open:
            self.leave()

    def _receive(self, replies: list[tuple[ReplyCallback, Any]]) -> None:
        """Add answers that have come in to `replies`. Raises what is wrong with the connection."""
        assert self._socket is not None
        while True:
            part = self._socket.recv(_PART_BYTES)
            if not part:
                raise Disconnected("the server closed the connection")
            self._reader.feed(part)
            while (answer := self._reader.gets()) is not _INCOMPLETE:
                if not self._waiting:
                    raise InvalidResponse("an answer to nothing")
                replies.append((self._waiting.popleft(), answer))
            if not self._waiting:
                return


def pack(arguments: Arguments) -> bytes:
    """A command as it is sent."""
    return pack_command(arguments)  # pyright: ignore[reportArgumentType, reportUnknownVariableType]


def _connected(pool: Pool) -> Connection:
    """A connection that no pool knows: it is closed by the event loop that reads it."""
    connection = pool.connection_class(**pool.connection_kwargs)
    connection.connect()
    return connection

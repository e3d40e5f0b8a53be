"""Conversations with Redis on an event loop: nobody waits, and several are had at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ResponseError

from fiscus.ratelimits.port import CountersUnavailable
from fiscus.stores.counters.redis_commands import (
    TROUBLE,
    Command,
    Conversation,
    Sent,
    conversation,
)
from fiscus.stores.counters.redis_connection import LoopConnection, ReplyCallback, pack
from fiscus.stores.counters.redis_urls import Pool, Servers

_ASKING: Final = pack(("ASKING",))

AnswersCallback = Callable[[list[Any] | Exception], None]


class LoopConnections:
    """The connections of one event loop: one to each server that was asked."""

    def __init__(self, servers: Servers, loop: asyncio.AbstractEventLoop) -> None:
        self.servers = servers
        self.loop = loop
        self._connections: dict[Pool, LoopConnection] = {}

    def ask_all(self, commands: Sequence[Command], on_done: AnswersCallback) -> PendingConversation:
        """As `redis_commands.ask_all`; `on_done` is given the answers or `CountersUnavailable`.

        Never before this returns.
        """
        return PendingConversation(self, conversation(self.servers, commands), on_done)

    def to(self, pool: Pool) -> LoopConnection:
        connection = self._connections.get(pool)
        if connection is None or not connection.is_open:
            # those that ended may be of servers that are no more
            self._connections = {
                at: one for at, one in self._connections.items() if not one.has_ended
            }
            connection = self._connections[pool] = LoopConnection(pool, self.loop)
        return connection

    def close(self) -> None:
        """End all connections, on the event loop or when that is closed."""
        for connection in self._connections.values():
            connection.end(Disconnected("closed"))


class PendingConversation:
    """One conversation, until its end or until it is given up."""

    __slots__ = ("_answers", "_asked", "_connections", "_missing", "_on_done", "_over", "_talk")

    def __init__(
        self, connections: LoopConnections, talk: Conversation, on_done: AnswersCallback
    ) -> None:
        self._connections = connections
        self._talk = talk
        self._on_done = on_done
        self._over = False
        self._answers: list[Any] = []
        self._missing = 0
        self._asked: list[tuple[LoopConnection, ReplyCallback]] = []
        self._say(next(talk))

    def give_up(self) -> None:
        """Ask no more; nobody is called back. What was not sent never will be."""
        self._over = True
        self._talk.close()
        for connection, on_reply in self._asked:
            connection.give_up(on_reply)

    def _say(self, sent: list[Sent]) -> None:
        connections = self._connections
        if connections.servers.known:
            self._send(sent)
        else:
            looking = connections.loop.run_in_executor(None, connections.servers.look)
            looking.add_done_callback(partial(self._looked, sent))

    def _looked(self, sent: list[Sent], looking: asyncio.Future[None]) -> None:
        error = looking.exception()
        if isinstance(error, Exception):
            self._failed(error)
        elif not self._over:
            self._send(sent)

    def _send(self, sent: list[Sent]) -> None:
        connections = self._connections
        try:
            asked = [
                (pack(one.arguments), connections.to(one.pool(connections.servers))) for one in sent
            ]
        except TROUBLE as error:
            connections.loop.call_soon(self._failed, error)
            return
        self._missing = len(sent)
        self._answers = [None] * len(sent)
        self._asked = []
        if not sent:
            connections.loop.call_soon(self._go_on, self._talk.send, self._answers)
        for place, (data, connection) in enumerate(asked):
            if sent[place].pointed_to:
                connection.ask(_ASKING, _nothing)
            on_reply = partial(self._heard, place)
            self._asked.append((connection, on_reply))
            connection.ask(data, on_reply)

    def _heard(self, place: int, answer: Any) -> None:
        if self._over:
            return
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            self._failed(answer)
            return
        self._answers[place] = answer
        self._missing -= 1
        if not self._missing:
            self._go_on(self._talk.send, self._answers)

    def _failed(self, error: Exception) -> None:
        if not self._over:
            self._go_on(self._talk.throw, error)

    def _go_on(self, go_on: Callable[[Any], list[Sent]], what: Any) -> None:
        try:
            sent = go_on(what)
        except StopIteration as end:
            self._end(end.value)
        except CountersUnavailable as error:
            # the server may no longer be the one to ask
            for connection, _ in self._asked:
                connection.leave()
            self._end(error)
        else:
            self._say(sent)

    def _end(self, answers: list[Any] | Exception) -> None:
        self._over = True
        self._asked = []  # which refers back to this
        self._on_done(answers)


def _nothing(answer: Any) -> None:
    """What is answered to `ASKING`: the answer to the command after it says all."""

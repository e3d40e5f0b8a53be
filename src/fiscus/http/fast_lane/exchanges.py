"""What `DecisionProtocol` has in hand for a request: to uvicorn, its `RequestResponseCycle`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from fiscus.http.fast_lane.decisions import EndpointMatch
from fiscus.http.fast_lane.lane import DecisionLane, Reply
from fiscus.http.header_fields import HeaderFields
from fiscus.runtime.turns import Turn

_NOBODY_WAITS: Final = asyncio.Event()

Target = tuple[EndpointMatch, str, bytes]
"""What is asked, the path, and the query."""


class AnsweringConnection(Protocol):
    """What an answer needs of its connection."""

    @property
    def lane(self) -> DecisionLane: ...

    @property
    def turn(self) -> Turn: ...

    def write_reply(self, reply: Reply, *, keep_alive: bool) -> None:
        """Write an answer whole."""
        ...

    def write_last(self, reply: Reply) -> None:
        """Write an answer after which nothing is heard."""
        ...


class Exchange:
    """A decision on its way; to uvicorn the connection's `RequestResponseCycle`.

    The lane's coroutine is stepped by hand, together with those of the same turn. It awaits nothing
    but futures and `NEXT_STEP`, so a task would do no more, and each step in a turn of its own.
    """

    __slots__ = (
        "_connection",
        "_headers",
        "_steps",
        "_target",
        "body",
        "disconnected",
        "keep_alive",
        "response_complete",
    )
    message_event = _NOBODY_WAITS

    def __init__(
        self,
        connection: AnsweringConnection,
        target: Target,
        headers: HeaderFields,
    ) -> None:
        self._connection = connection
        self._target = target
        self._headers = headers
        self.body = b""
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    def begin(self) -> None:
        """The request is read: have it answered."""
        self._steps: Coroutine[Any, Any, Reply] = self._connection.lane.answer(
            *self._target, self._headers, self.body
        )
        self._connection.turn.together(self._step)

    def _step(self) -> None:
        try:
            awaited = self._steps.send(None)
        except StopIteration as end:
            self.response_complete = True
            if not self.disconnected:
                self._connection.write_reply(end.value, keep_alive=self.keep_alive)
        else:
            if awaited is None:  # NEXT_STEP
                self._connection.turn.together(self._step)
                return
            awaited._asyncio_future_blocking = False  # as a task does with what it awaits
            awaited.add_done_callback(self._go_on)

    def _go_on(self, _awaited: object) -> None:
        self._connection.turn.together(self._step)


class Ignored:
    """The reading of a request that asks for another protocol: it is read anew, without that."""

    body = b""

    def begin(self) -> None:
        """Nothing: the parser has said what it makes of it, and is asked once more."""


IGNORED: Final = Ignored()


class Refusal:
    """The answer to what is no request, in its turn; to uvicorn a `RequestResponseCycle`."""

    message_event = _NOBODY_WAITS

    def __init__(self, connection: AnsweringConnection, reply: Reply) -> None:
        self._connection = connection
        self._reply = reply
        self.disconnected = False
        self.keep_alive = False
        self.response_complete = False

    async def run_asgi(self, _app: object) -> None:
        self.answer()

    def answer(self) -> None:
        self.response_complete = True
        if not self.disconnected:
            self._connection.write_last(self._reply)


__all__ = ["IGNORED", "AnsweringConnection", "Exchange", "Ignored", "Refusal", "Target"]

"""HTTP/1.1 connections on which a decision goes straight from the parser to the lane.

They are uvicorn's, and all else on them is served by uvicorn as ever. For a decision they leave out
the ASGI scope, the messages and the task: those cost as much as the decision (docs/decisions/0028).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fiscus.http.decisions import Decision
from fiscus.http.joined_writes import joining
from fiscus.http.lane import DecisionLane, Reply

_NEEDS_ASGI: Final = frozenset({b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"})
"""What asks for more than a body of a known length."""
_NOBODY_WAITS: Final = asyncio.Event()


def connections_of(lane: DecisionLane) -> Any:
    """For `uvicorn.Config(lane, http=…)`."""
    return partial(DecisionProtocol, lane)


class DecisionProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, lane: DecisionLane, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lane: Final = lane
        self._largest = min(lane.max_body_bytes, HIGH_WATER_LIMIT)
        self._exchange: _Exchange | None = None
        """The decision whose request is being read."""
        self._reading = False
        self._answered_at = 0.0
        """When the last decision was answered, by the loop's clock."""
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(joining(transport, self.loop))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._exchange is None:
            super().shutdown()
        else:
            # its request may never be whole, and nothing of it was begun
            self.transport.close()

    # -- httptools: a request as it is read

    def on_message_begin(self) -> None:
        # uvicorn's answer of a moment ago has armed it when the next request was there already
        self._unset_keepalive_if_required()
        self._reading = True
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._exchange = exchange = self._decision()
        if exchange is not None:
            self.cycle = cast("Any", exchange)
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
        else:
            exchange.body += body

    def on_message_complete(self) -> None:
        self._reading = False
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
        else:
            self._exchange = None
            exchange.begin()

    def _decision(self) -> _Exchange | None:
        """The exchange that begins, when it is a plain one about a decision and comes in turn."""
        parser: Any = self.parser
        if parser.get_method() != b"POST" or self.flow.write_paused:
            return None
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            return None
        path, _, query = self.url.partition(b"?")
        decoded = path.decode("latin-1")
        asked = self.lane.find(decoded)
        if asked is None or not parser.should_keep_alive() or parser.get_http_version() != "1.1":
            return None
        if "%" in decoded:  # ASGI servers decode paths
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or int(length) > self._largest:
            return None
        if not _NEEDS_ASGI.isdisjoint(headers):
            return None
        return _Exchange(self, asked, decoded, query, headers)

    # -- an answer

    def write_reply(self, reply: Reply, *, keep_alive: bool) -> None:
        """Write an answer whole."""
        parts = [STATUS_LINE[reply.status]]
        for name, value in self.server_state.default_headers:
            parts += name, b": ", value, b"\r\n"
        parts += (
            "".join([f"{name}: {text}\r\n" for name, text in reply.headers]).encode("latin-1"),
            b"\r\n" if keep_alive else b"Connection: close\r\n\r\n",
            reply.payload,
        )
        self.transport.write(b"".join(parts))
        if not keep_alive:
            self.transport.close()
        if self.pipeline or not keep_alive:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self._answered_at = self.loop.time()
        if self._idle_timer is None:
            self._close_when_idle(self.timeout_keep_alive)

    # -- hanging up on who asks nothing more

    def _close_when_idle(self, after_seconds: float) -> None:
        """One timer for many decisions: uvicorn's is made and cancelled with each request."""
        self._idle_timer = self.loop.call_later(after_seconds, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        self._idle_timer = None
        if self.transport.is_closing() or self._reading or not self.cycle.response_complete:
            return  # the next answer sees to it
        if self.timeout_keep_alive_task is not None:
            return  # uvicorn does, whose answer was the last
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._close_when_idle(left)
        else:
            self.transport.close()


class _Exchange:
    """A decision on its way; to uvicorn the connection's `RequestResponseCycle`.

    The lane's coroutine is stepped by hand. It awaits futures alone, so a task would do no more,
    but begin it a turn later and, where nothing had to be waited for, have cost more than it.
    """

    __slots__ = (
        "_asked",
        "_connection",
        "_headers",
        "_path",
        "_query",
        "_steps",
        "body",
        "disconnected",
        "keep_alive",
        "response_complete",
    )
    message_event = _NOBODY_WAITS

    def __init__(
        self,
        connection: DecisionProtocol,
        asked: tuple[Decision, str],
        path: str,
        query: bytes,
        headers: dict[bytes, bytes],
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._path = path
        self._query = query
        self._headers = headers
        self.body = b""
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    def begin(self) -> None:
        """The request is read: have it answered."""
        self._steps: Coroutine[Any, Any, Reply] = self._connection.lane.answer(
            self._asked, self._path, self._query, self._headers, self._read
        )
        self._step()

    async def _read(self) -> bytes:
        return self.body

    def _step(self, _awaited: object = None) -> None:
        try:
            awaited = self._steps.send(None)
        except StopIteration as end:
            self.response_complete = True
            if not self.disconnected:
                self._connection.write_reply(end.value, keep_alive=self.keep_alive)
        else:
            awaited._asyncio_future_blocking = False  # as a task does with what it awaits
            awaited.add_done_callback(self._step)


__all__ = ["DecisionProtocol", "connections_of"]

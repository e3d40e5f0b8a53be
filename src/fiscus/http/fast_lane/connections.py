"""HTTP/1.1 connections on which a decision goes straight from the parser to the lane.

They are uvicorn's, and all else on them is served by uvicorn as ever. For a decision they leave out
the ASGI scope, the messages and the task: those cost as much as the decision (docs/decisions/0028).
What is no request, and heads that are too large, they answer themselves.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial
from typing import Any, Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fiscus.errors import FiscusError
from fiscus.http.body import length_of
from fiscus.http.fast_lane.batched_sends import send_batch_of
from fiscus.http.fast_lane.decisions import match_endpoint
from fiscus.http.fast_lane.exchanges import IGNORED, Exchange, Ignored, Refusal, Target
from fiscus.http.fast_lane.heads import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    check_size,
    cut_short,
    gone_silent,
    head_too_large,
    tunnel,
    why_unfit,
    with_path,
    without_upgrade,
)
from fiscus.http.fast_lane.joined_writes import joining
from fiscus.http.fast_lane.known_heads import KnownHead, KnownHeads
from fiscus.http.fast_lane.lane import DecisionLane, Reply
from fiscus.http.fast_lane.silence import SilenceWatch
from fiscus.http.header_fields import HeaderFields
from fiscus.runtime.turns import turn_of

_NEEDS_ASGI: Final = frozenset(
    {b"content-encoding", b"expect", b"if-match", b"transfer-encoding"},
)
"""What asks for more than a body of a known length; so do fields that were sent twice."""
LINGER_SECONDS: Final = 5
"""How long a client may go on sending after it was refused: an end that comes while it sends would
take the answer from it."""
_LONGEST_TARGET: Final = 256
"""Bytes. Those of decisions are shorter, and what is kept of others is bounded."""


@lru_cache(maxsize=1024)
def _target(url: bytes) -> Target | None:
    """What is asked for at `url`; None when it is no decision, or has to be looked at closer."""
    path, _, query = url.partition(b"?")
    # ASGI servers decode paths and drop fragments
    if b"%" in path or b"#" in url:
        return None
    decoded = path.decode("latin-1")
    matched = match_endpoint(decoded)
    return None if matched is None else (matched, decoded, query)


def connections_of(lane: DecisionLane) -> Any:
    """For `uvicorn.Config(lane, http=…)`."""
    return partial(DecisionProtocol, lane)


class DecisionProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, lane: DecisionLane, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lane: Final = lane
        self.turn: Final = turn_of(self.loop)
        self._largest = min(lane.max_body_bytes, HIGH_WATER_LIMIT)
        self._exchange: Exchange | Ignored | None = None
        """The decision whose request is being read."""
        self._reading = False
        self._in_head = False
        """Whether the head of what is being read is not whole yet."""
        self._packet = b""
        """What came last, while it is being read."""
        self._unread_bytes = 0
        """How much was sent since the last piece of a request was read."""
        self._slack_bytes = 0
        """How much more a head may have: what its first packet brought of an earlier request."""
        self._refused = False
        self._ended = False
        """Whether the client sends no more."""
        self._answered_at = 0.0
        """When the last decision was answered, by the loop's clock."""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_lines = b""
        """The header fields of all answers, as `_default_headers` has them."""
        self._known_heads = KnownHeads()
        self.url = b""
        self.headers = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._joined = joining(transport, self.turn, send_batch_of(self.loop))
        super().connection_made(self._joined)
        resume_reading = self.flow.resume_reading
        # uvicorn's goes on reading after each answer, however many requests wait for theirs
        self.flow.resume_reading = lambda: None if self.pipeline else resume_reading()
        self._silence = SilenceWatch(self, self.transport, self.loop)
        self._silence.start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._silence.stop()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not (self._reading or self._refused) and self._begin_known(data):
            return
        if self._reading:  # and answered already: its client may send the rest
            self._unset_keepalive_if_required()
        if self._refused:
            return
        self._packet = data
        self._unread_bytes += len(data)
        rest: memoryview | None = None
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            rest = memoryview(data)[upgrade.args[0] :]
        except HttpParserError as error:
            self._refuse(*why_unfit(error))
        if rest is not None:  # here, so that errors in it have nothing else for their context
            self._go_on_without_upgrade(rest)
        if self._unread_bytes > MAX_HEAD_BYTES and not self._refused:
            # a head, the trailers or the extension of a chunk, without end
            self._refuse(head_too_large(), 431)
        self._packet = b""
        if self._reading:
            self._silence.heard_at = self.loop.time()

    def _begin_known(self, data: bytes) -> bool:
        """Begin the decision that `data` asks for, if it comes in turn and its head is known."""
        found = self._known_heads.find(data)
        cycle: Any = self.cycle
        if found is None or not cycle.response_complete or self.flow.write_paused:
            return False
        head, body = found
        self._unset_keepalive_if_required()
        exchange = Exchange(self, head.target, head.fields)
        exchange.body = body
        self.cycle = cast("Any", exchange)
        exchange.begin()
        return True

    def eof_received(  # pyright: ignore[reportIncompatibleMethodOverride] - asyncio's may answer
        self,
    ) -> bool:
        """A client that asks no more may wait for its answer all the same."""
        self._ended = True
        if self._reading and not self._refused:
            self._refuse(cut_short())
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self._joined.flush()
            return False
        cycle.keep_alive = False
        return True

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
        self._reading = self._in_head = True
        self._slack_bytes = len(self._packet) - self._unread_bytes
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if (
            self._unread_bytes + self._slack_bytes > MAX_HEAD_BYTES
            or len(self.headers) > MAX_HEADERS
        ):
            check_size(self.url, self.headers)
        if self.parser.should_upgrade():
            self._unread_bytes = 0
            self._exchange = IGNORED
            return
        self._exchange = exchange = self._decision()
        self._unread_bytes = 0
        if exchange is not None:
            self._in_head = False
            self.cycle = cast("Any", exchange)
            return
        url, headers = with_path(self.url), self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        self._in_head = False  # only now is `cycle` this request's
        # what stands behind a body in chunks is none of the scope's headers
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
        else:
            exchange.body += body

    def on_message_complete(self) -> None:
        self._reading = False
        self._unread_bytes = 0
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            if self.cycle.response_complete and self.timeout_keep_alive_task is None:
                # it was answered before, and what came since has unset the timer
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        else:
            self._exchange = None
            exchange.begin()

    def _go_on_without_upgrade(self, rest: memoryview) -> None:
        """Read a request that asks for another protocol as one that does not (RFC 9110, 7.8).

        The parser takes what follows such a head for that protocol, and so for no body.
        """
        while True:
            parser: Any = self.parser
            method: bytes = parser.get_method()
            if method == b"CONNECT":
                self._refuse(tunnel())
                return
            head = without_upgrade(method, self.url, parser.get_http_version(), self.headers)
            self.parser = parser = HttpRequestParser(self)
            parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            try:
                parser.feed_data(head)
                parser.feed_data(rest)
                return
            except HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except HttpParserError as error:
                self._refuse(*why_unfit(error))
                return

    def _decision(self) -> Exchange | None:
        """The exchange that begins, when it is a plain one about a decision and comes in turn."""
        parser: Any = self.parser
        if parser.get_method() != b"POST" or self.flow.write_paused:
            return None
        target = _target(self.url) if len(self.url) <= _LONGEST_TARGET else None
        if target is None:
            return None
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            return None
        if not parser.should_keep_alive() or parser.get_http_version() != "1.1":
            return None
        fields = HeaderFields(self.headers)
        length = fields.get(b"content-length", b"")
        if not length.isdigit() or length_of(length) > self._largest:
            return None
        if not _NEEDS_ASGI.isdisjoint(fields) or len(fields) != len(self.headers):
            return None
        if not self._slack_bytes and self._unread_bytes == len(self._packet):
            # it is whole, and what came last begins with it
            self._known_heads.keep(self._packet, KnownHead(target, fields, length_of(length)))
        return Exchange(self, target, fields)

    # -- an answer

    def write_reply(self, reply: Reply, *, keep_alive: bool) -> None:
        """Write an answer whole."""
        self._write(reply, keep_alive=keep_alive)
        if not keep_alive:
            self.transport.close()
        if self.pipeline or not keep_alive:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self._answered_at = self.loop.time()
        if self._idle_timer is None:
            self._close_when_idle(self.timeout_keep_alive)

    def _write(self, reply: Reply, *, keep_alive: bool) -> None:
        default_headers = self.server_state.default_headers
        if default_headers is not self._default_headers:  # a new list each second
            self._default_headers = default_headers
            self._default_lines = b"".join(
                [b"%b: %b\r\n" % (name, text) for name, text in default_headers]
            )
        end = "" if keep_alive else "Connection: close\r\n"
        head = f"{reply.head}{end}\r\n".encode("latin-1")
        self._joined.write_whole(
            b"%b%b%b%b" % (STATUS_LINE[reply.status], self._default_lines, head, reply.payload)
        )

    # -- what is no request

    def _refuse(self, error: FiscusError, status: int | None = None) -> None:
        """Answer what cannot be a request, after all that was asked before, and hear no more."""
        self._refused = True
        reply = self.lane.refuse(error, self.url, status)
        cycle: Any = self.cycle
        if self._reading and not self._in_head:
            # of a request whose head was good: nothing is to come of that one
            cycle.disconnected = True
            if self._exchange is None and self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()
            elif self._exchange is None and cycle.response_started:
                self.transport.close()
                return
            else:
                cycle.message_event.set()
                cycle = None
        self._exchange = None
        refusal = Refusal(self, reply)
        self.cycle = cast("Any", refusal)
        if cycle is None or cycle.response_complete:
            refusal.answer()
        else:
            self.pipeline.appendleft(cast("Any", (refusal, None)))

    def write_last(self, reply: Reply) -> None:
        """Write an answer after which nothing is heard, so that it arrives."""
        self._write(reply, keep_alive=False)
        if self._ended or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    # -- hanging up on who does not finish what was begun

    def may_pause(self) -> bool:
        """Whether nothing need come of the client for now."""
        if self._refused:
            return True
        cycle: Any = self.cycle
        begun = self._reading or cycle is None
        if not begun or self.flow.read_paused:
            return True
        if cycle is None or self._in_head or self._exchange is not None:
            return False
        # a stream is answered while it comes
        return cycle.response_started and not cycle.response_complete

    def give_up(self, silent_seconds: int) -> None:
        """Hang up on a client of whom nothing came for so long."""
        if self._reading:
            self._refuse(gone_silent(silent_seconds), 408)
        else:
            self.transport.close()

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


__all__ = ["DecisionProtocol", "connections_of"]

"""A transport under uvicorn's HTTP protocol that writes the answers of a turn at its end.

uvicorn hands an answer's head and its body to the system one after the other, and each answer as
soon as it is made. Here both are one write, and the writes of a turn of the event loop are one call
to the system (`batched_sends`). A large answer, as that of a batch, goes out at once: others of its
turn take long to make as well, and its client need not wait for those (docs/decisions/0035).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fiscus.http.fast_lane.batched_sends import SendBatch, descriptor_of
from fiscus.runtime.turns import Turn

LARGE: Final = 16_384
"""Bytes of a body from which on it does not wait for others."""
_HEAD: Final = b"HTTP/1.1 "


class _JoiningTransport:
    """A transport that keeps an answer's head and what comes next until the end of the turn.

    More of a body than that goes out at once, so that memory stays bounded.
    """

    def __init__(self, transport: asyncio.Transport, turn: Turn, batch: SendBatch | None) -> None:
        self._transport = transport
        self._turn = turn
        descriptor = None if batch is None else descriptor_of(transport)
        self._batch = None if descriptor is None else batch
        self._descriptor = -1 if descriptor is None else descriptor
        self._last_batch = -1
        """The number of the batch that something of this connection was put in last."""
        self.written_bytes = 0
        """How much was handed on to the transport."""
        self._head: bytes | None = None
        self._body: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is not None:
            if self._body is None:
                self._body = data
                if len(data) >= LARGE:
                    self.flush()
                return
            self.flush()
        if data.startswith(_HEAD) and len(data) < LARGE:
            self._head = data
            self._turn.at_end(self._end_turn)
        else:
            self._write(data)

    def write_whole(self, data: bytes) -> None:
        """Write an answer of which nothing more comes."""
        if self._batch is None or self._head is not None or len(data) >= LARGE:
            self.write(data)
        else:
            self._add(self._batch, data)

    def is_closing(self) -> bool:  # asked after each answer
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._send_batched()
        self._transport.close()

    def write_eof(self) -> None:
        self.flush()
        self._send_batched()
        self._transport.write_eof()

    def flush(self) -> None:
        """Write what is kept."""
        if (data := self._take()) is not None:
            self._write(data)

    def _end_turn(self) -> None:
        if (data := self._take()) is None:
            return
        if self._batch is None:
            self._write(data)
        else:
            self._add(self._batch, data)

    def _add(self, batch: SendBatch, data: bytes) -> None:
        """Have `data` sent with what others have to send, of which each may have one thing."""
        if self._last_batch == batch.number:
            batch.send()
        self._last_batch = batch.number
        self.written_bytes += len(data)
        if batch.add(self._transport, self._descriptor, data):
            self._turn.at_end(batch.send)

    def _take(self) -> bytes | None:
        """What is kept, unless nobody is to have it any more."""
        head, body = self._head, self._body
        self._head = self._body = None
        if head is None or self._transport.is_closing():
            return None
        return head if body is None else head + body

    def _send_batched(self) -> None:
        """What was before goes first."""
        if self._batch is not None and self._last_batch == self._batch.number:
            self._batch.send()

    def _write(self, data: bytes) -> None:
        self._send_batched()
        self.written_bytes += len(data)
        self._transport.write(data)

    # -- as it is

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def abort(self) -> None:
        self._transport.abort()


def joining(transport: asyncio.Transport, turn: Turn, batch: SendBatch | None) -> Any:
    """`transport` with its writes joined; a transport itself, though of no such class."""
    return _JoiningTransport(transport, turn, batch)

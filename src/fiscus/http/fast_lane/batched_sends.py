"""What is answered in a turn of an event loop, sent over all connections in one call.

A client on the same machine is woken by the first answer sent, and is then to run. If each answer
is a call of its own, it takes the server's place at the end of that call, with what the processor
had at hand, for each answer anew. After one call for all it finds them all (docs/decisions/0057).

The call is Linux's `io_submit`, of which a write to a socket that would have to wait is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

MAX_SENDS: Final = 256
"""In one call."""


_Send = tuple[asyncio.Transport, int, bytes]
"""Over which connection, its descriptor, and what."""


class SendBatch:
    """What is to be sent over connections of one event loop, on whose thread all is called."""

    def __init__(self) -> None:
        """Raises `ImportError`, `OSError` or `SystemError` where there is no such call."""
        from caio.linux_aio import Context, Operation

        self._context: Final[Any] = Context(max_requests=MAX_SENDS)
        self._write_to: Final = Operation.write
        self._waiting: list[_Send] = []
        self.number = 0
        """Of what waits: one more with each `send`."""

    def add(self, transport: asyncio.Transport, descriptor: int, data: bytes) -> bool:
        """Have `data` sent by the next `send`; whether it is the first. Once for a transport."""
        self._waiting.append((transport, descriptor, data))
        return len(self._waiting) == 1

    def send(self) -> None:
        """Send what waits. What the system does not take now is the transport's to send."""
        waiting, self._waiting = self._waiting, []
        self.number += 1
        at_once: list[_Send] = []
        for one in waiting:
            transport, _, data = one
            if transport.is_closing():
                continue
            if transport.get_write_buffer_size():  # that comes first
                transport.write(data)
            else:
                at_once.append(one)
        for start in range(0, len(at_once), MAX_SENDS):
            self._send(at_once[start : start + MAX_SENDS])

    def _send(self, sends: Sequence[_Send]) -> None:
        if len(sends) == 1:
            ((transport, _, data),) = sends
            transport.write(data)
            return
        write_to = self._write_to
        operations = [write_to(data, descriptor, 0) for _, descriptor, data in sends]
        submitted = self._submitted(operations)
        for place, (transport, _, data) in enumerate(sends):
            sent = _sent(operations[place]) if place < submitted else 0
            if sent < len(data):
                transport.write(data[sent:])

    def _submitted(self, operations: Sequence[Any]) -> int:
        """How many of `operations` the system has done, well or not."""
        try:
            submitted = self._context.submit(*operations)
        except (OSError, SystemError):  # it has no room for them
            return 0
        self._context.process_events(MAX_SENDS, submitted, -1)
        return submitted


def _sent(operation: Any) -> int:
    """How many bytes the system took."""
    try:
        return operation.get_value()
    except SystemError:  # as caio tells an error; its transport meets it again
        return 0


_BATCHES: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, SendBatch | None]] = (
    WeakKeyDictionary()
)


def send_batch_of(loop: asyncio.AbstractEventLoop) -> SendBatch | None:
    """The one of `loop`; None where there is none to be had."""
    if loop not in _BATCHES:
        try:
            _BATCHES[loop] = SendBatch()
        except (ImportError, OSError, SystemError):  # another system, forbidden, or too many in use
            _BATCHES[loop] = None
    return _BATCHES[loop]


def descriptor_of(transport: asyncio.Transport) -> int | None:
    """The socket below `transport`; None for one that is not to be written to, as that of TLS."""
    connection = transport.get_extra_info("socket")
    if connection is None or transport.get_extra_info("sslcontext") is not None:
        return None
    return connection.fileno()


__all__ = ["MAX_SENDS", "SendBatch", "descriptor_of", "send_batch_of"]

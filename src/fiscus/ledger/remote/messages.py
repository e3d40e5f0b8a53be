"""Messages between the two processes: JSON with exact digits, in frames of a known length.

The requests are here, the results in `results`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from fiscus.ledger.commands import Command
from fiscus.wire.encoding import encode_into
from fiscus.wire.hooks import decoder_for

LENGTH: Final = struct.Struct(">I")
PART_BYTES: Final = 100_000
"""As much as a line has at once. For more than 128 KiB the C library asks the system, each time."""


class Group(Struct, frozen=True, array_like=True):
    """Commands to be done together, in order."""

    number: int
    """Comes back with the outcomes."""
    commands: list[Command]


read_group: Final = decoder_for(Group).decode


def group_message(number: int, commands: Sequence[Command]) -> bytearray:
    """A `Group` as a frame."""
    frame = bytearray(LENGTH.size)
    encode_into((number, commands), frame, LENGTH.size)
    return measured(frame)


def measured(frame: bytearray) -> bytearray:
    """A frame that is complete but for its length."""
    LENGTH.pack_into(frame, 0, len(frame) - LENGTH.size)
    return frame


class Frames:
    """Splits a stream of bytes into the messages in it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete with `data`, without their lengths."""
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start, size = 0, LENGTH.size
        with memoryview(buffer) as view:
            while len(view) - start >= size:
                end = start + size + LENGTH.unpack_from(view, start)[0]
                if len(view) < end:
                    break
                messages.append(bytes(view[start + size : end]))
                start = end
        del buffer[:start]
        return messages

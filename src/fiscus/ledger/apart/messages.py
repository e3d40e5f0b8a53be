"""What the two processes say to each other: JSON with exact digits, in frames of a known length.

Answers stand before the rest of their message, each of a known length too, so that the other side
need not read what it only hands on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from fiscus.budgets.model import Budget
from fiscus.errors import KINDS, FiscusError, InternalError, made_again
from fiscus.ledger.commands import Command, Outcome
from fiscus.wire import decoder_for, encode_into

_LENGTH: Final = struct.Struct(">I")
_ID_FIELD: Final = b'"correlation_id":'
_NO_ID: Final = _ID_FIELD + b"null}"


class Group(Struct, frozen=True, array_like=True):
    """Commands to be done together, in order."""

    number: int
    """Comes back with the outcomes."""
    commands: list[Command]


class Answered(Struct, frozen=True):
    """A command's answer."""

    answer: bytes
    """As JSON."""
    allowed: bool
    """False for a denial."""

    def with_correlation_id(self, correlation_id: str) -> bytes:
        """The answer as JSON with this id, which is safe in JSON, as its last field."""
        answer = self.answer
        assert answer.endswith(_NO_ID)
        return b'%b"%b"}' % (answer[: -len(_NO_ID) + len(_ID_FIELD)], correlation_id.encode())


class _Answer(Struct, frozen=True, array_like=True, tag=1):
    """An answer among those of a message, which stand one after the other."""

    size: int
    allowed: bool


class Failed(Struct, frozen=True, array_like=True, tag=2):
    """The error that a command ended in."""

    code: str
    message: str
    details: dict[str, Any]
    suggested_action: str | None
    retry_after_seconds: int | None


class Fallback(Struct, frozen=True, array_like=True):
    """A tenant's budgets, if some of them allow operations without the store; else none."""

    tenant_id: str
    budgets: list[Budget]


class _Done(Struct, frozen=True, array_like=True):
    """A `Done`, without its answers."""

    number: int
    outcomes: list[_Answer | Failed]
    unavailable: str | None
    seconds: float
    fallbacks: list[Fallback]


class Done(Struct, frozen=True):
    """What became of a group."""

    number: int
    outcomes: list[Answered | Failed]
    """In the order of its commands; empty when nothing of it was done."""
    unavailable: str | None
    """Why nothing of it was done."""
    seconds: float
    """How long the groups took that it was done with."""
    fallbacks: list[Fallback]
    """Of tenants whose definitions changed since the group before."""


read_group: Final = decoder_for(Group).decode
_read_rest: Final = decoder_for(_Done).decode


def group_message(number: int, commands: Sequence[Command]) -> bytearray:
    """A `Group` as a frame."""
    return _framed((number, commands))


def done_message(
    number: int, outcomes: Sequence[Outcome], fallbacks: Sequence[Fallback], seconds: float
) -> bytearray:
    """A `Done` as a frame."""
    frame = bytearray(_LENGTH.size)
    told: list[tuple[object, ...]] = []
    for outcome in outcomes:
        if isinstance(outcome, FiscusError):
            told.append(_failed(outcome))
            continue
        start = len(frame)
        encode_into(outcome, frame, start)
        told.append((1, len(frame) - start, getattr(outcome, "allowed", True)))
    return _done(frame, (number, told, None, seconds, fallbacks))


def read_done(message: bytes) -> Done:
    """The reverse of `done_message` and `unavailable_message`."""
    (end,) = _LENGTH.unpack_from(message, len(message) - _LENGTH.size)
    rest: _Done = _read_rest(memoryview(message)[end : -_LENGTH.size])
    outcomes: list[Answered | Failed] = []
    start = 0
    for one in rest.outcomes:
        if isinstance(one, Failed):
            outcomes.append(one)
        else:
            outcomes.append(Answered(message[start : start + one.size], one.allowed))
            start += one.size
    return Done(rest.number, outcomes, rest.unavailable, rest.seconds, rest.fallbacks)


def unavailable_message(number: int, reason: str) -> bytearray:
    """A `Done` of which nothing was done."""
    return _done(bytearray(_LENGTH.size), (number, (), reason, 0.0, ()))


def error_of(failed: Failed) -> FiscusError:
    """The error as it was in the other process."""
    return made_again(
        KINDS.get(failed.code, InternalError),
        failed.message,
        failed.details,
        failed.suggested_action,
        failed.retry_after_seconds,
    )


def _failed(error: FiscusError) -> tuple[object, ...]:
    return (
        2,
        error.code,
        error.message,
        error.details,
        error.suggested_action,
        error.retry_after_seconds,
    )


def _framed(value: object) -> bytearray:
    frame = bytearray(_LENGTH.size)
    encode_into(value, frame, _LENGTH.size)
    return _measured(frame)


def _done(frame: bytearray, rest: tuple[object, ...]) -> bytearray:
    """The answers that are in `frame`, the rest of their message, and where that begins."""
    end = len(frame)
    encode_into(rest, frame, end)
    frame += _LENGTH.pack(end - _LENGTH.size)
    return _measured(frame)


def _measured(frame: bytearray) -> bytearray:
    _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
    return frame


class Frames:
    """Takes a stream of bytes apart into the messages in it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete with `data`, without their lengths."""
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start, size = 0, _LENGTH.size
        with memoryview(buffer) as view:
            while len(view) - start >= size:
                end = start + size + _LENGTH.unpack_from(view, start)[0]
                if len(view) < end:
                    break
                messages.append(bytes(view[start + size : end]))
                start = end
        del buffer[:start]
        return messages

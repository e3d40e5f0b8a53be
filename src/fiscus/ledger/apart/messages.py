"""What the two processes say to each other: JSON with exact digits, in frames of a known length."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Raw, Struct

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


class Answered(Struct, frozen=True, array_like=True, tag=1):
    """A command's answer."""

    answer: Raw
    """As JSON."""
    allowed: bool
    """False for a denial."""

    def with_correlation_id(self, correlation_id: str) -> bytes:
        """The answer as JSON with this id, which is safe in JSON, as its last field."""
        answer = bytes(self.answer)
        assert answer.endswith(_NO_ID)
        return b'%b"%b"}' % (answer[: -len(_NO_ID) + len(_ID_FIELD)], correlation_id.encode())


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


class Done(Struct, frozen=True, array_like=True):
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
read_done: Final = decoder_for(Done).decode


def group_message(number: int, commands: Sequence[Command]) -> bytearray:
    """A `Group` as a frame."""
    return _framed((number, commands))


def done_message(
    number: int, outcomes: Sequence[Outcome], fallbacks: Sequence[Fallback], seconds: float
) -> bytearray:
    """A `Done` as a frame."""
    return _framed((number, [_told(one) for one in outcomes], None, seconds, fallbacks))


def unavailable_message(number: int, reason: str) -> bytearray:
    """A `Done` of which nothing was done."""
    return _framed((number, (), reason, 0.0, ()))


def error_of(failed: Failed) -> FiscusError:
    """The error as it was in the other process."""
    return made_again(
        KINDS.get(failed.code, InternalError),
        failed.message,
        failed.details,
        failed.suggested_action,
        failed.retry_after_seconds,
    )


def _told(outcome: Outcome) -> tuple[object, ...]:
    if isinstance(outcome, FiscusError):
        return (
            2,
            outcome.code,
            outcome.message,
            outcome.details,
            outcome.suggested_action,
            outcome.retry_after_seconds,
        )
    return 1, outcome, getattr(outcome, "allowed", True)


def _framed(value: object) -> bytearray:
    body = bytearray(_LENGTH.size)
    encode_into(value, body, _LENGTH.size)
    _LENGTH.pack_into(body, 0, len(body) - _LENGTH.size)
    return body


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
        while len(buffer) - start >= size:
            end = start + size + _LENGTH.unpack_from(buffer, start)[0]
            if len(buffer) < end:
                break
            messages.append(bytes(buffer[start + size : end]))
            start = end
        del buffer[:start]
        return messages

"""What msgspec does not know by itself: our types read and written, and types worked out by one
thread at a time."""

from __future__ import annotations

import os
import sys
import threading
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Final, TypeVar

import msgspec

from fiscus.errors import ValidationError
from fiscus.money import Amount, parse_amount
from fiscus.wire.given import in_utc
from fiscus.wire.nesting import FreeForm, free_form

T = TypeVar("T")


class NotAnAmount(ValueError):
    """What is wrong with an amount."""


def read_custom(kind: type, value: object) -> object:
    if kind is Amount:
        try:
            return Amount(parse_amount(value, "it"))
        except ValidationError as error:
            raise NotAnAmount(error.message.removeprefix("it ")) from None
    if kind is FreeForm:
        return free_form(value)
    raise NotImplementedError(kind)  # how a hook of msgspec says that it does not know a type


def write_custom(value: object) -> object:
    if isinstance(value, Decimal):
        return Decimal(value)
    # of a clock that a test froze
    if isinstance(value, datetime) and (moment := in_utc(value)) is not value:
        return moment
    raise NotImplementedError(type(value))  # as above


# msgspec works a type out at its first use, and threads that do so at once crash the process.
_working_out: Final = threading.Lock()
if sys.platform != "win32":
    # a process that was forked meanwhile would wait for it for good
    os.register_at_fork(
        before=_working_out.acquire,
        after_in_parent=_working_out.release,
        after_in_child=_working_out.release,
    )


@cache
def decoder_for(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The exact decoder of `kind`; made once. Safe to ask for from any thread."""
    with _working_out:
        return msgspec.json.Decoder(kind, dec_hook=read_custom, float_hook=Decimal)


@cache
def naming_decoder_for(kind: type[T]) -> msgspec.json.Decoder[T]:
    """As `decoder_for`, but slower: it says where a number is that no `Decimal` can hold."""
    with _working_out:
        return msgspec.json.Decoder(kind, dec_hook=read_custom, float_hook=_read_number)


def _read_number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("the number is out of range") from None


def worked_out(kind: type[T]) -> type[T]:
    """`kind` itself, safe for `msgspec.convert` in any thread."""
    decoder_for(kind)
    return kind


any_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)
naming_any_decoder: Final = msgspec.json.Decoder(float_hook=_read_number)

__all__ = [
    "NotAnAmount",
    "any_decoder",
    "decoder_for",
    "naming_any_decoder",
    "naming_decoder_for",
    "read_custom",
    "worked_out",
    "write_custom",
]

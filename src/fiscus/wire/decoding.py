"""JSON as checked requests: numbers are read as decimals from their digits, and what is wrong is a
`ValidationError` that names the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import InvalidOperation
from typing import Any, Final, TypeVar, cast

import msgspec

from fiscus.errors import ValidationError
from fiscus.money import NOT_A_NUMBER
from fiscus.wire.explaining import explain, not_json, nothing_sent, wrong
from fiscus.wire.hooks import any_decoder, decoder_for, naming_any_decoder, naming_decoder_for
from fiscus.wire.nesting import MAX_LEVELS, cut_below
from fiscus.wire.texts import strict

T = TypeVar("T")

_BACKSLASH: Final = ord("\\")


def decode(body: bytes | str, kind: type[T]) -> T:
    """`body` as a checked `kind`; raises `ValidationError` that names the field."""
    try:
        read: T = decoder_for(kind).decode(body)
        if may_have_nul(body):
            decoder_for(strict(kind)).decode(body)
        return read
    except RecursionError:
        # What is cut off lies deeper than any field may, so it is refused by the field's name, and
        # in a batch the other items are read.
        return decode(cut_below(_bytes(body), 2 * MAX_LEVELS), kind)
    except msgspec.ValidationError as error:
        raise explain(error, kind, lambda: any_decoder.decode(body)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not body.strip():
            raise nothing_sent(kind) from None
        raise (_wrong_number(body) or not_json(error)) from None
    except InvalidOperation:
        raise _out_of_range(body, naming_decoder_for(kind)) from None


def decode_any(body: bytes | str) -> Any:
    """`body` as plain JSON values with exact decimals."""
    try:
        return any_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from None
    except InvalidOperation:
        raise _out_of_range(body, naming_any_decoder) from None


def decode_stored(text: str) -> Any:
    """A free object out of a store; one of before there was a limit is cut at that."""
    return decode_any(cut_below(text.encode()))


def may_have_nul(body: bytes | str) -> bool:
    """Whether there may be NUL in JSON, which has no other way to write it."""
    # a backslash is found in a tenth of the time, and most bodies have none
    has_escapes = "\\" in body if isinstance(body, str) else _BACKSLASH in body
    return has_escapes and b"\\u0000" in _bytes(body)


def _bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body


def _out_of_range(body: bytes | str, naming: msgspec.json.Decoder[Any]) -> ValidationError:
    """The error that names the field whose number has an exponent of too many digits."""
    try:
        naming.decode(body)
    except msgspec.ValidationError as error:
        return explain(error, object, lambda: None)
    raise AssertionError("a number is out of range for one decoder alone")


def _wrong_number(body: bytes | str) -> ValidationError | None:
    """The error that names the first bare NaN or Infinity by its path, if there is one.

    They are no JSON, but Python's and JavaScript's encoders write them. So what is sent is wrong as
    a whole, also where each item of a batch would stand alone.
    """
    try:
        values = json.loads(body, parse_float=str, parse_int=str, parse_constant=_Constant)
        found = next(_constants(values, ""), None)
        if found is not None:
            found[0].encode()  # JSON can write the half of a character, an answer cannot
    except (ValueError, RecursionError):
        return None
    return None if found is None else wrong(*found)


class _Constant(str):
    """NaN, Infinity or -Infinity."""

    __slots__ = ()


def _constants(value: object, path: str) -> Iterator[tuple[str, str]]:
    """The path of each constant within `value`, and what is wrong with it."""
    if isinstance(value, _Constant):
        yield path or "body", f"{value} {NOT_A_NUMBER}"
    elif isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            yield from _constants(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[object]", value)):
            yield from _constants(inner, f"{path}[{index}]")


__all__ = ["decode", "decode_any", "decode_stored", "may_have_nul"]

"""Query strings as checked structs: unknown, repeated and wrong parameters are named in a 400."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from fiscus.errors import ValidationError
from fiscus.wire.decoding import decode
from fiscus.wire.explaining import explain
from fiscus.wire.hooks import worked_out

T = TypeVar("T", bound=Struct)

MAX_PARAMETERS: Final = 100


class NoQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint without query parameters."""


def read_query(raw: bytes, kind: type[T]) -> T:
    """The query string as a checked `kind`; raises `ValidationError` that names the parameter."""
    if not raw:
        return _empty(kind)
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise ValidationError(
            f"The query string cannot be read, or has more than {MAX_PARAMETERS} parameters",
            field="query",
            suggested_action="Send name=value pairs, percent-encoded UTF-8, joined by &.",
        ) from None
    known, readers = shapes_of(kind), _readers_of(kind)
    values: dict[str, Any] = {}
    for name, value in pairs:
        match known.get(name):
            case None:
                raise ValidationError(
                    f"{name[:64]} is not a query parameter of this endpoint",
                    field=name[:64],
                    suggested_action="Known here: " + (", ".join(sorted(known)) or "none") + ".",
                )
            case Shape.LIST:
                values.setdefault(name, []).extend(value.split(","))
            case Shape.PAIRS:
                pairs_sent: dict[str, str] = values.setdefault(name, {})
                for key, text in _pairs(name, value):
                    if pairs_sent.setdefault(key, text) != text:
                        raise _sent_differently(name, key)
            case Shape.ONE:
                if name in values:
                    raise ValidationError(
                        f"{name} was sent twice", field=name, suggested_action=f"Send {name} once."
                    )
                values[name] = readers[name](value)
    try:
        return msgspec.convert(values, worked_out(kind))
    except msgspec.ValidationError as error:
        raise explain(error, kind, lambda: values) from None


class Shape(Enum):
    """How a parameter is sent: once; a list with commas or repeated; a mapping as `_pairs` says."""

    ONE = auto()
    LIST = auto()
    PAIRS = auto()


@cache
def shapes_of(kind: type[Struct]) -> dict[str, Shape]:
    """Each parameter's name, and how it is sent."""
    shapes: dict[str, Shape] = {}
    for name, known in _types_of(kind):
        match known:
            case msgspec.inspect.ListType():
                shapes[name] = Shape.LIST
            case msgspec.inspect.DictType():
                shapes[name] = Shape.PAIRS
            case _:
                shapes[name] = Shape.ONE
    return shapes


_DIGITS: Final = re.compile(r"-?[0-9]{1,18}")
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}


def _whole_number(text: str) -> int | str:
    return int(text) if _DIGITS.fullmatch(text) else text


def _flag(text: str) -> bool | str:
    return _FLAGS.get(text.lower(), text)


@cache
def _readers_of(kind: type[Struct]) -> dict[str, Callable[[str], object]]:
    """What makes values of the texts of numbers and flags, and leaves others as they are."""
    readers: dict[str, Callable[[str], object]] = {}
    for name, known in _types_of(kind):
        parts = known.types if isinstance(known, msgspec.inspect.UnionType) else (known,)
        readers[name] = str
        for part in parts:
            if isinstance(part, msgspec.inspect.IntType):
                readers[name] = _whole_number
            elif isinstance(part, msgspec.inspect.BoolType):
                readers[name] = _flag
    return readers


def _types_of(kind: type[Struct]) -> Iterator[tuple[str, msgspec.inspect.Type]]:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        known = field.type
        yield field.name, known.type if isinstance(known, msgspec.inspect.Metadata) else known


@cache
def _empty(kind: type[T]) -> T:
    return kind()


def _pairs(name: str, value: str) -> list[tuple[str, str]]:
    """A mapping's keys and values: one as `key:value`, or any as a JSON object.

    The key of a pair ends at its first colon, and values may hold more; so a key that holds one, or
    begins with a brace, needs JSON.
    """
    if value.startswith("{"):
        return _pairs_in_json(name, value)
    key, colon, text = value.partition(":")
    if not colon or not key:
        raise ValidationError(
            f"{name} is not of the form key:value",
            field=name,
            suggested_action=f"Send, for instance, {name}=team:search, once per tag.",
        )
    return [(key, text)]


def _pairs_in_json(name: str, value: str) -> list[tuple[str, str]]:
    try:
        decode(value, dict[str, str])
    except ValidationError:
        raise ValidationError(
            f"{name} begins as JSON and is not an object of texts",
            field=name,
            suggested_action=f'Send, for instance, {name}={{"aws:createdBy":"ann"}}, URL-encoded.',
        ) from None
    # Read again, now that it is known to be sound: of a key that comes twice, both values.
    pairs: list[tuple[str, str]] = json.loads(value, object_pairs_hook=list)
    return pairs


def _sent_differently(name: str, key: str) -> ValidationError:
    return ValidationError(
        f"{name} has the key {key[:128]} twice, with different values",
        field=name,
        suggested_action="Send each key once: nothing has two values of it.",
    )

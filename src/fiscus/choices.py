"""What may stand at a place of a request, where only some words may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from msgspec import inspect

_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[[^\]]*\]")


def choices_at(kind: Any, path: str) -> tuple[str, ...]:
    """The words of the enum at `path` within `kind`, as they are defined; empty for all else.

    `path` is as msgspec tells it: `records[1].period_type`, and `[...]` for any key of a mapping.
    """
    here = list(_parts(_known(kind)))
    for step in _STEP.finditer(path):
        here = [part for one in here for inner in _within(one, step[1]) for part in _parts(inner)]
    return tuple(word for one in here for word in _words(one))


# A millisecond for each of a batch's wrong items would keep everybody waiting.
_known: Final = cache(inspect.type_info)


def _parts(known: inspect.Type) -> Iterator[inspect.Type]:
    """The types of a union; any other as it is."""
    if isinstance(known, inspect.Metadata):
        yield from _parts(known.type)
    elif isinstance(known, inspect.UnionType):
        for one in known.types:
            yield from _parts(one)
    else:
        yield known


def _within(known: inspect.Type, name: str | None) -> Iterator[inspect.Type]:
    """The type of a struct's field, or of what a list or a mapping holds."""
    match known:
        case inspect.StructType():
            yield from (one.type for one in known.fields if one.encode_name == name)
        case inspect.ListType() | inspect.VarTupleType():
            yield known.item_type
        case inspect.DictType():
            yield known.value_type
        case _:
            pass


def _words(known: inspect.Type) -> Iterator[str]:
    match known:
        case inspect.EnumType():
            yield from (str(one.value) for one in known.cls)
        case inspect.LiteralType():
            yield from (str(one) for one in known.values)
        case _:
            pass


__all__ = ["choices_at"]

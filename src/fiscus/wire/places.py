"""What is at a path within the type of a request, as a message of msgspec tells it:
`records[1].tags[...]`, where `[...]` is any key of a mapping."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

import msgspec

ANY_KEY: Final = "[...]"
_STEP: Final = re.compile(r"\.?(?P<name>[^.\[\]]+)|\[(?P<index>\d+|\.\.\.)\]")
_LONGEST: Final = 128


def choices_at(kind: Any, path: str) -> tuple[str, ...]:
    """The words of the enum or `Literal` at `path` within `kind`, as they are defined; empty for
    all else."""
    return tuple(word for one in _kinds_at(kind, path) for word in _words(one))


def with_key(path: str, kind: Any, values: object, refuses: Callable[[object, Any], bool]) -> str:
    """`path` with the key in the place of its first `[...]`: `tags.team`.

    `values` are those of the whole `kind`, and `refuses` says whether a value of the mapping, of
    the type there, is what is wrong. A key that no line can show stays `[...]`.
    """
    before, _, after = path.partition(ANY_KEY)
    here = values
    for step in _STEP.finditer(before):
        here = _at(here, step)
    if not isinstance(here, Mapping):
        return path
    of_values = _kinds_at(kind, before + ANY_KEY)
    for key, value in cast("Mapping[object, object]", here).items():
        if any(refuses(value, one) for one in of_values):
            can_be_shown = isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST
            return f"{before}.{key}{after}" if can_be_shown else path
    return path


def _at(here: object, step: re.Match[str]) -> object:
    if step["name"] is not None and isinstance(here, Mapping):
        return cast("Mapping[str, object]", here).get(step["name"])
    if step["index"] is not None and isinstance(here, list | tuple):
        return cast("list[object]", here)[int(step["index"])]
    return None


def _kinds_at(kind: Any, path: str) -> list[Any]:
    """The types that may be at `path` within `kind`: none or one, or more within a union."""
    kinds = [kind]
    for step in _STEP.finditer(path):
        kinds = [inner for one in kinds for inner in _within(one, step["name"])]
    return kinds


def _within(kind: Any, name: str | None) -> Iterator[Any]:
    """The type of the field `name` of a `kind`; without one, of what a list or a mapping holds."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _within(kind.__origin__, name)
    elif origin in {Union, UnionType}:
        for one in get_args(kind):
            yield from _within(one, name)
    elif origin is dict and name is None:
        yield get_args(kind)[1]
    elif origin in {list, tuple} and name is None:
        yield get_args(kind)[0]
    elif name is not None and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from (inner for field, inner in _fields(kind) if field == name)


# Half a millisecond for each of a batch's wrong items would keep everybody waiting.
@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    """The fields of a struct, as JSON names them, with their types."""
    return tuple((one.encode_name, one.type) for one in msgspec.structs.fields(kind))


def _words(kind: Any) -> Iterator[str]:
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _words(kind.__origin__)
    elif origin in {Union, UnionType}:
        for one in get_args(kind):
            yield from _words(one)
    elif origin is Literal:
        yield from (str(one) for one in get_args(kind))
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield from (str(one.value) for one in kind)


__all__ = ["ANY_KEY", "choices_at", "with_key"]

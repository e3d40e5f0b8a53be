"""Which key of a mapping a message of msgspec is about: it tells `tags[...]` for any of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

import msgspec

ANY_KEY: Final = "[...]"
_STEP: Final = re.compile(r"\.?(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]")
_LONGEST: Final = 128


def with_key(path: str, kind: Any, values: object, refuses: Callable[[object, Any], bool]) -> str:
    """`path` with the key in the place of its first `[...]`: `tags.team`.

    `values` are those of the whole `kind`, and `refuses` says whether a value of the mapping, of
    the type there, is what is wrong. A key that no line can show stays `[...]`.
    """
    before, _, after = path.partition(ANY_KEY)
    here, kinds = values, [kind]
    for step in _STEP.finditer(before):
        kinds = [inner for one in kinds for inner in _within(one, step["name"])]
        here = _at(here, step)
    if not isinstance(here, Mapping):
        return path
    of_values = [inner for one in kinds for inner in _within(one, None)]
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


def _within(kind: Any, name: str | None) -> Iterator[Any]:
    """The types of the field `name` of a `kind`; without one, of what a list or a mapping holds."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _within(kind.__origin__, name)
    elif origin in {Union, UnionType}:
        for one in get_args(kind):
            yield from _within(one, name)
    elif origin in {list, dict} and name is None:
        yield get_args(kind)[-1]
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from (one.type for one in msgspec.structs.fields(kind) if one.encode_name == name)


__all__ = ["ANY_KEY", "with_key"]

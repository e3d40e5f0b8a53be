"""Free JSON objects, and how deep they may be nested.

Decoders and encoders go down as far as what they are given, and fail where the stack ends. Where
that is depends on how deep they are called themselves, so what one could read another cannot. What
is taken in is therefore held to far fewer levels than any of them can do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import msgspec

MAX_LEVELS: Final = 32
"""The most levels of objects and lists of a free object, itself included."""

_Nested = dict[object, object] | list[object] | tuple[object, ...]
_NESTED: Final = (dict, list, tuple)
_OBJECTS: Final = (dict, Mapping)
# Strings as a whole, as they may hold brackets; possessive, so that no text takes long.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]+|[\]}]+', re.DOTALL)


class FreeForm(dict[str, Any]):
    """The wire type of a free JSON object, at most `MAX_LEVELS` deep."""

    __slots__ = ()


def free_form(value: object) -> FreeForm:
    """`value` as a free object; raises `ValueError` that says what is wrong."""
    if not isinstance(value, _OBJECTS):
        raise ValueError("must be an object")
    found = cast("Mapping[object, object]", value)
    nested: list[_Nested] = []
    for name, inner in found.items():
        if not isinstance(name, str):
            raise ValueError("must have names that are text")
        if isinstance(inner, _NESTED):
            nested.append(cast("_Nested", inner))
    if nested and _goes_deeper(nested, MAX_LEVELS - 1):
        raise ValueError(f"is nested deeper than {MAX_LEVELS} levels")
    return FreeForm(cast("Mapping[str, Any]", found))


def cut_below(body: bytes, levels: int = MAX_LEVELS) -> bytes:
    """JSON as it is, but for what lies deeper than `levels`: that is a string of its own JSON.

    So nothing is lost, and it can be read at any depth of the stack. Takes what is no JSON as well,
    and does not make it any.
    """
    if body.count(b"[") + body.count(b"{") <= levels:
        return body
    pieces: list[bytes] = []
    depth = begin = kept = 0
    for token in _TOKEN.finditer(body):
        start, end = token.span()
        brackets = end - start
        match body[start : start + 1]:
            case b"[" | b"{":
                if depth <= levels < depth + brackets:
                    begin = start + levels - depth
                depth += brackets
            case b"]" | b"}":
                if depth - brackets <= levels < depth:
                    end = start + depth - levels
                    pieces += (body[kept:begin], _as_string(body[begin:end]))
                    kept = end
                depth -= brackets
            case _:
                pass
    if depth > levels:  # the end is missing
        pieces += (body[kept:begin], _as_string(body[begin:]))
        kept = len(body)
    return b"".join((*pieces, body[kept:]))


def _goes_deeper(layer: list[_Nested], levels: int) -> bool:
    """Whether what is in `layer` has more than so many levels; goes down level by level."""
    for _ in range(levels):
        within: list[Any] = [
            inner for one in layer for inner in _inside(one) if isinstance(inner, _NESTED)
        ]
        if not within:
            return False
        layer = within
    return True


def _inside(value: _Nested) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value


def _as_string(piece: bytes) -> bytes:
    return msgspec.json.encode(piece.decode(errors="replace"))


__all__ = ["MAX_LEVELS", "FreeForm", "cut_below", "free_form"]

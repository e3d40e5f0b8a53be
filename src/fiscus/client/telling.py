"""What is wrong with a call, as Python says it: the API's own messages, by the caller's names."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, cast

from fiscus.client.arguments import SHORT_NAMES
from fiscus.errors import ValidationError
from fiscus.money import A_NUMBER

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

_AN_AMOUNT: Final = 'Give a Decimal, an int or text such as "0.02".'
_KINDS: Final = re.compile(r"(?<=: Expected )`(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`$")
_OF_JSON: Final = re.compile(r"\b(?:array|object|null)\b")
_OF_PYTHON: Final = {"array": "list", "object": "dict", "null": "None"}
_AS: Final = {"list": "a list", "dict": "a dict", "str": "text", "int": "an int", "bool": "a bool"}
_ITEM: Final = re.compile(r"(?P<name>\w+)\[(?P<index>\d+)\]\.")


def speaks_python(kind: C) -> C:
    """A class whose public calls, inherited ones too, tell what is wrong as `in_python` does."""
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            setattr(kind, name, in_python(member))
    return kind


def in_python(call: Callable[P, R]) -> Callable[P, R]:
    """`call`, whose `ValidationError`s speak of its arguments as a Python caller does."""
    if inspect.iscoroutinefunction(call):

        @functools.wraps(call)
        async def awaited(*args: P.args, **given: P.kwargs) -> Any:
            try:
                return await call(*args, **given)
            except ValidationError as error:
                _tell(error, _by_name(call, args, given))
                raise

        return cast("Callable[P, R]", awaited)

    @functools.wraps(call)
    def called(*args: P.args, **given: P.kwargs) -> R:
        try:
            return call(*args, **given)
        except ValidationError as error:
            _tell(error, _by_name(call, args, given))
            raise

    return called


@contextmanager
def telling(given: Mapping[str, object]) -> Generator[None]:
    """A `ValidationError` about what was `given` says so by its names, and what to give."""
    try:
        yield
    except ValidationError as error:
        _tell(error, given)
        raise


def _tell(error: ValidationError, given: Mapping[str, object]) -> None:
    message, todo = error.message, error.suggested_action or ""
    if kinds := _KINDS.search(message):
        wanted, got = (_OF_JSON.sub(_python, kinds[name]) for name in ("wanted", "got"))
        message = f"{message[: kinds.start()]}`{wanted}`, got `{got}`"
        kind = wanted.removesuffix(" | None")
        todo = f"Give {error.field} as {_AS[kind]}." if kind in _AS else todo
    todo = todo.replace(A_NUMBER, _AN_AMOUNT).replace(" and send it again", "")
    todo = re.sub(r"\bSend\b", "Give", todo)
    fields = _fields_of(error.field, given)
    for short, full in SHORT_NAMES.items():
        if short in fields and full not in fields:
            name = re.compile(rf"\b{full}\b")
            message, todo, error.field = (
                name.sub(short, text) for text in (message, todo, error.field)
            )
    error.message, error.suggested_action = message, todo or None
    error.args = (message,)
    error.details["field"] = error.field


def _by_name(
    call: Callable[..., object], args: tuple[object, ...], given: Mapping[str, object]
) -> dict[str, object]:
    return {**dict(zip(inspect.signature(call).parameters, args, strict=False)), **given}


def _python(found: re.Match[str]) -> str:
    return _OF_PYTHON[found[0]]


def _fields_of(field: str, given: Mapping[str, object]) -> Mapping[str, object]:
    """What was given beside `field`: the item of a batch that it is in, or all of the call."""
    match _ITEM.match(field):
        case re.Match() as item if isinstance(items := given.get(item["name"]), list | tuple):
            index = int(item["index"])
            for one in cast("list[object]", items)[index : index + 1]:
                if isinstance(one, Mapping):
                    return cast("Mapping[str, object]", one)
            return {}
        case _:
            return given


__all__ = ["in_python", "speaks_python", "telling"]

"""msgspec's messages about a request as ours: which field, what is wrong with it, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import InvalidOperation
from typing import Any, Final

import msgspec

from fiscus.errors import ValidationError
from fiscus.money import A_NUMBER
from fiscus.scopes import EVERY
from fiscus.wire.hooks import NotAnAmount, read_custom, worked_out
from fiscus.wire.nesting import MAX_LEVELS
from fiscus.wire.places import ANY_KEY, choices_at, with_key
from fiscus.wire.texts import (
    CURRENCY_PATTERN,
    ID_OR_EVERY_PATTERN,
    ID_PATTERN,
    NO_NUL,
    RESOURCES_PATTERN,
    strict,
)

_NOT_AN_ID: Final = "must be 1 to 128 letters, digits and the characters . _ : -"
_HAS_NUL: Final = "must not contain the character NUL"
TOO_DEEP: Final = f"is nested deeper than {MAX_LEVELS} levels"
HAS_SURROGATES: Final = "must not contain a lone surrogate, which UTF-8 cannot say"
_A_TIME: Final = "Send a time with its offset, such as 2026-01-31T09:00:00Z."
_IN_WORDS: Final = (
    (repr(ID_PATTERN), _NOT_AN_ID, None),
    (repr(ID_OR_EVERY_PATTERN), f"{_NOT_AN_ID}, or {EVERY} for every one", None),
    (repr(NO_NUL), _HAS_NUL, None),
    (repr(RESOURCES_PATTERN), f"must be 1 to 256 characters, with {EVERY} only at its end", None),
    (repr(CURRENCY_PATTERN), "must be three capital letters", "Send a code such as USD."),
    ("RFC3339 encoded datetime", "is not an RFC 3339 time", _A_TIME),
    ("with a timezone component", "has no offset from UTC", _A_TIME),
    ("RFC3339 encoded date", "is not an RFC 3339 date", "Send a day such as 2026-01-31."),
)
"""A part of what msgspec says, what it means, and what to do."""
_BOUND: Final = re.compile(
    r"^Expected `(?P<kind>\w+)` (?P<of_length>of length )?(?P<sign>[<>]=?) (?P<bound>\S+)$"
)
_SIGNS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_LENGTHS: Final = {"str": "characters", "array": "items", "object": "entries"}
_PATH = re.compile(r"^(?P<what>.*?) - at (?P<of_key>`key` in )?`\$(?P<path>[^`]*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")


def explain(
    error: msgspec.ValidationError, kind: type[Any], values: Callable[[], object]
) -> ValidationError:
    """msgspec's message about a `kind` as ours, with the field's name apart.

    `values` gives what it was read from, where that has to be looked at.
    """
    text = str(error)
    match = _PATH.match(text)
    what, path = (match["what"], match["path"].lstrip(".")) if match else (text, "")
    if inner := _UNKNOWN.search(what):
        field = f"{path}.{inner['name']}".lstrip(".")
        return ValidationError(
            f"{field} is not a field of this request",
            field=field,
            suggested_action="Remove it, or look its name up in the API reference.",
        )
    if inner := _MISSING.search(what):
        field = f"{path}.{inner['name']}".lstrip(".")
        return ValidationError(
            f"{field} is missing", field=field, suggested_action=f"Send {field}."
        )
    field = path or "body"
    if ANY_KEY in path:
        field = _with_key(path, kind, what, values)
    if what.startswith("Invalid enum value") and (choices := choices_at(kind, path)):
        return wrong(field, what, f"Use one of {', '.join(choices)}.")
    which = "a key " if match and match["of_key"] else ""
    if bound := _BOUND.match(what):
        return wrong(field, which + _bound_in_words(bound))
    if isinstance(error.__cause__, NotAnAmount):
        return wrong(field, what, A_NUMBER)
    for told, meant, todo in _IN_WORDS:
        if told in what:
            return wrong(field, which + meant, todo)
    return wrong(field, what)


def _with_key(path: str, kind: type[Any], what: str, values: Callable[[], object]) -> str:
    """`path` with the key of the value that msgspec says this of, where it can be told."""

    def refuses(value: object, of_kind: Any) -> bool:
        try:
            msgspec.convert(value, worked_out(of_kind), dec_hook=read_custom)
        except msgspec.ValidationError as error:
            found = _PATH.match(str(error))
            return (found["what"] if found else str(error)) == what
        return False

    try:
        return with_key(path, strict(kind), values(), refuses)
    except (InvalidOperation, msgspec.DecodeError):  # a number that nothing can hold
        return path


def _bound_in_words(told: re.Match[str]) -> str:
    if told["of_length"] is None:
        return f"must be {_SIGNS[told['sign']]} {told['bound']}"
    if told["sign"] == ">=" and told["bound"] == "1":
        return "must not be empty"
    return f"must have {_SIGNS[told['sign']]} {told['bound']} {_LENGTHS[told['kind']]}"


def wrong(field: str, what: str, todo: str | None = None) -> ValidationError:
    return ValidationError(
        f"{field}: {what}",
        field=field,
        suggested_action=todo or f"Correct {field} and send it again.",
    )


def not_an_id(field: str) -> ValidationError:
    return wrong(field, _NOT_AN_ID)


def not_a_label(field: str) -> ValidationError:
    return wrong(field, _HAS_NUL)


def nothing_sent(kind: Any) -> ValidationError:
    todo = "Send one JSON object, encoded in UTF-8."
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        needed = [one.encode_name for one in msgspec.structs.fields(kind) if one.required]
        if needed:
            todo = f"Send a JSON object with {' and '.join(needed)}."
    return ValidationError("The body is empty", field="body", suggested_action=todo)


def not_json(error: Exception) -> ValidationError:
    return ValidationError(
        f"The body is not valid JSON: {error}",
        field="body",
        suggested_action="Send one JSON object, encoded in UTF-8.",
    )


__all__ = [
    "HAS_SURROGATES",
    "TOO_DEEP",
    "explain",
    "not_a_label",
    "not_an_id",
    "not_json",
    "nothing_sent",
    "wrong",
]

"""What a Python caller gives, by the rules of the wire: as checked requests, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from fiscus.errors import ValidationError
from fiscus.wire.decoding import may_have_nul
from fiscus.wire.encoding import encode
from fiscus.wire.explaining import HAS_SURROGATES, TOO_DEEP, explain, wrong
from fiscus.wire.given import WIRE_TYPES, wire_value
from fiscus.wire.hooks import any_decoder, read_custom, worked_out
from fiscus.wire.nesting import FreeForm
from fiscus.wire.texts import strict

T = TypeVar("T")


def convert(values: Mapping[str, Any], kind: type[T]) -> T:
    """Keyword values of a Python caller as a checked `kind`, by the rules of the wire.

    `None` means "not given". Free objects are taken as their JSON says, and what has none is a
    `ValidationError` as all that is wrong: it names the field.
    """
    given = _given(values)
    try:
        converted = msgspec.convert(given, worked_out(kind), dec_hook=_read_given)
        body = encode(converted)
        if may_have_nul(body):
            msgspec.convert(given, worked_out(strict(kind)), dec_hook=_read_given)
    except msgspec.ValidationError as error:
        raise explain(error, kind, lambda: given) from None
    except UnicodeEncodeError:
        raise has_surrogates(surrogates_in(given) or "body") from None
    except NotImplementedError as error:  # of `write_custom`, in a struct that was given
        raise wrong("body", _no_json(error)) from None
    return converted


def as_json(given: Mapping[str, object], place: str) -> bytes:
    """What a Python caller gave at `place`, unchecked; raises `ValidationError` that names what
    has no JSON."""
    given = _given(given, f"{place}.")
    try:
        body = encode(given)
        any_decoder.decode(body)
    except (ValueError, ArithmeticError, RuntimeError, msgspec.DecodeError):
        for name, value in given.items():
            try:
                _through_json({name: value})
            except ValueError as error:
                raise wrong(f"{place}.{name}", str(error)) from None
        raise
    return body


def surrogates_in(value: object, path: str = "") -> str | None:
    """The path of the first text within `value` that has no UTF-8, if there is one."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return path or "body"
    elif isinstance(value, Mapping):
        for name, inner in cast("Mapping[str, object]", value).items():
            within = f"{path}.{name}" if path else name
            if surrogates_in(name) is not None:
                return path or "body"
            if (found := surrogates_in(inner, within)) is not None:
                return found
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(cast("Sequence[object]", value)):
            if (found := surrogates_in(inner, f"{path}[{index}]")) is not None:
                return found
    return None


def has_surrogates(field: str) -> ValidationError:
    return wrong(field, HAS_SURROGATES)


def _read_given(kind: type, value: object) -> object:
    """As `read_custom`, of what a Python caller gave, who can give more than JSON can say."""
    read = read_custom(kind, value)
    return FreeForm(_through_json(read)) if kind is FreeForm else read


def _given(values: Mapping[str, object], place: str = "") -> dict[str, Any]:
    """The values of a Python caller as the wire knows them; `None` means "not given"."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        if type(value) in WIRE_TYPES:  # as most are, in calls that are made all the time
            given[name] = value
        elif value is not None:
            try:
                given[name] = wire_value(value)
            except RecursionError:
                raise wrong(f"{place}{name}", TOO_DEEP) from None
            except ValueError as error:
                raise wrong(f"{place}{name}", str(error)) from None
    return given


def _through_json(value: object) -> Any:
    """`value` of a Python caller as it comes out of its JSON.

    Raises `ValueError` that says why there is none.
    """
    try:
        return any_decoder.decode(encode(value))
    except UnicodeEncodeError:
        raise ValueError(HAS_SURROGATES) from None
    except (msgspec.DecodeError, ArithmeticError):
        raise ValueError("must not contain NaN, Infinity or a number out of range") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except NotImplementedError as error:  # of `write_custom`
        raise ValueError(_no_json(error)) from None


def _no_json(error: NotImplementedError) -> str:
    return f"must not contain a {error.args[0].__name__}, which JSON has no form for"


__all__ = ["as_json", "convert", "has_surrogates", "surrogates_in"]

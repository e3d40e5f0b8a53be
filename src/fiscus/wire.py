"""JSON in and out: the one place that turns bytes and mappings into checked requests.

Requests and answers are `msgspec` structs, the same over HTTP, in process and in the client.
Amounts are exact both ways: numbers are read as decimals from their digits, and written as JSON
numbers with exactly the stored digits.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from typing import Annotated, Any, Final, TypeVar, cast, get_args, get_origin

import msgspec

from fiscus.choices import choices_at
from fiscus.errors import FiscusError, ValidationError
from fiscus.given import PLAIN, in_utc, plain
from fiscus.keys_at import ANY_KEY, with_key
from fiscus.money import A_NUMBER, CURRENCY, NOT_A_NUMBER, Amount, parse_amount
from fiscus.nesting import MAX_LEVELS, FreeForm, cut_below, free_form
from fiscus.scopes import EVERY, ID

T = TypeVar("T")

ID_PATTERN: Final = rf"^{ID}\Z"

Id = Annotated[
    str,
    msgspec.Meta(
        pattern=ID_PATTERN, description="An opaque id: 1-128 letters, digits and `. _ : -`."
    ),
]
ID_OR_EVERY_PATTERN: Final = rf"^(?:{re.escape(EVERY)}|{ID})\Z"
IdOrEvery = Annotated[str, msgspec.Meta(pattern=ID_OR_EVERY_PATTERN)]
RESOURCES_PATTERN: Final = r"^(?:[^*\x00]{1,256}|[^*\x00]{0,255}\*)\Z"
"""A resource type, or the beginning of one with `*` after it."""
# PostgreSQL cannot store it, and one in a tag would break every report by tags.
NO_NUL: Final = r"^[^\x00]*\Z"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=NO_NUL)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=NO_NUL)]
# For what is decided often: a pattern costs msgspec as much as all the rest of a small request, so
# of these it sees the length alone. Who takes them asks `is_id` and `is_label` for the rest.
LooseId = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=128,
        description="An opaque id: 1-128 letters, digits and `. _ : -`.",
        extra_json_schema={"pattern": ID_PATTERN},
    ),
]
LooseLabel = Annotated[
    str, msgspec.Meta(min_length=1, max_length=256, extra_json_schema={"pattern": NO_NUL})
]
KEY_PATTERN: Final = r"^[!-~]([ -~]*[!-~])?\Z"
LooseKey = Annotated[
    str, msgspec.Meta(min_length=1, max_length=256, extra_json_schema={"pattern": KEY_PATTERN})
]
"""An idempotency key: `idempotency.require_key` sees the rest."""
CURRENCY_PATTERN: Final = rf"^{CURRENCY}\Z"
Currency = Annotated[
    str, msgspec.Meta(pattern=CURRENCY_PATTERN, description="An ISO 4217 currency code.")
]
TagKey = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=NO_NUL)]
TagValue = Annotated[str, msgspec.Meta(max_length=256, pattern=NO_NUL)]
MAX_TAGS: Final = 50
_TAGS: Final = msgspec.Meta(max_length=MAX_TAGS, description=f"Free labels, at most {MAX_TAGS}.")
Tags = Annotated[dict[TagKey, TagValue], _TAGS]
_LooseTagKey = Annotated[
    str, msgspec.Meta(min_length=1, max_length=128, extra_json_schema={"pattern": NO_NUL})
]
_LooseTagValue = Annotated[str, msgspec.Meta(max_length=256, extra_json_schema={"pattern": NO_NUL})]
LooseTags = Annotated[dict[_LooseTagKey, _LooseTagValue], _TAGS]
"""Nobody asks for the rest of these: `decode` and `convert` read what may have NUL once more."""


_NOT_AN_ID: Final = "must be 1 to 128 letters, digits and the characters . _ : -"
_HAS_NUL: Final = "must not contain the character NUL"
_TOO_DEEP: Final = f"is nested deeper than {MAX_LEVELS} levels"
_HAS_SURROGATES: Final = "must not contain a lone surrogate, which UTF-8 cannot say"
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
_an_id: Final = re.compile(ID_PATTERN)


@lru_cache(maxsize=10_000)
def is_id(text: str | None) -> bool:
    """Whether a `LooseId` is an `Id`, or there is none."""
    return text is None or _an_id.search(text) is not None


def is_label(text: str | None) -> bool:
    """Whether a `LooseLabel` is a `Label`, or there is none."""
    return text is None or "\0" not in text


def not_an_id(field: str) -> ValidationError:
    return _wrong(field, _NOT_AN_ID)


def not_a_label(field: str) -> ValidationError:
    return _wrong(field, _HAS_NUL)


class ItemError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one item of a batch failed while others did not."""

    error_code: str
    message: str
    details: dict[str, Any]
    retriable: bool
    suggested_action: str | None


def item_error(error: FiscusError) -> ItemError:
    return ItemError(
        error_code=error.code,
        message=error.message,
        details=error.details,
        retriable=error.retriable,
        suggested_action=error.suggested_action,
    )


class _Named(msgspec.Struct, frozen=True):
    tenant_id: Id | None = None


def tenant_of_items(items: Sequence[msgspec.Raw], own: str) -> str:
    """The tenant of a batch whose items stand alone: the one that all of them name, or else `own`.

    What cannot be read as an item names none, and is none's.
    """
    tenant_id = None
    for item in items:
        try:
            named = decode(bytes(item), _Named).tenant_id
        except ValidationError:
            continue
        if named is None or named == own or (tenant_id is not None and named != tenant_id):
            return own
        tenant_id = named
    return own if tenant_id is None else tenant_id


_PATH = re.compile(r"^(?P<what>.*?) - at (?P<of_key>`key` in )?`\$(?P<path>[^`]*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")


def _given(values: Mapping[str, object], place: str = "") -> dict[str, Any]:
    """The values of a Python caller as the wire knows them; `None` means "not given"."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        if type(value) in PLAIN:  # as most are, in calls that are made all the time
            given[name] = value
        elif value is not None:
            try:
                given[name] = plain(value)
            except RecursionError:
                raise _wrong(f"{place}{name}", _TOO_DEEP) from None
            except ValueError as error:
                raise _wrong(f"{place}{name}", str(error)) from None
    return given


def _through_json(value: object) -> Any:
    """`value` of a Python caller as it comes out of its JSON.

    Raises `ValueError` that says why there is none.
    """
    try:
        return _any_decoder.decode(encode(value))
    except UnicodeEncodeError:
        raise ValueError(_HAS_SURROGATES) from None
    except (msgspec.DecodeError, ArithmeticError):
        raise ValueError("must not contain NaN, Infinity or a number out of range") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except NotImplementedError as error:  # of `_write_custom`
        raise ValueError(_no_json(error)) from None


def _no_json(error: NotImplementedError) -> str:
    return f"must not contain a {error.args[0].__name__}, which JSON has no form for"


def as_json(given: Mapping[str, object], place: str) -> bytes:
    """What a Python caller gave at `place`, unchecked; raises `ValidationError` that names what
    has no JSON."""
    given = _given(given, f"{place}.")
    try:
        body = encode(given)
        _any_decoder.decode(body)
    except (ValueError, ArithmeticError, RuntimeError, msgspec.DecodeError):
        for name, value in given.items():
            try:
                _through_json({name: value})
            except ValueError as error:
                raise _wrong(f"{place}.{name}", str(error)) from None
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
    return _wrong(field, _HAS_SURROGATES)


class _NoAmount(ValueError):
    """What is wrong with an amount."""


def _read_given(kind: type, value: object) -> object:
    """As `_read_custom`, of what a Python caller gave, who can give more than JSON can say."""
    read = _read_custom(kind, value)
    return FreeForm(_through_json(read)) if kind is FreeForm else read


def _read_custom(kind: type, value: object) -> object:
    if kind is Amount:
        try:
            return Amount(parse_amount(value, "it"))
        except ValidationError as error:
            raise _NoAmount(error.message.removeprefix("it ")) from None
    if kind is FreeForm:
        return free_form(value)
    raise NotImplementedError(kind)  # how a hook of msgspec says that it does not know a type


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
        return msgspec.json.Decoder(kind, dec_hook=_read_custom, float_hook=Decimal)


@cache
def _naming_decoder_for(kind: type[T]) -> msgspec.json.Decoder[T]:
    """As `decoder_for`, but slower: it says where a number is that no `Decimal` can hold."""
    with _working_out:
        return msgspec.json.Decoder(kind, dec_hook=_read_custom, float_hook=_read_number)


_BACKSLASH: Final = ord("\\")


def _has_nul(body: bytes | str) -> bool:
    """Whether there may be NUL in JSON, which has no other way to write it."""
    return b"\\u0000" in _bytes(body)


@cache
def _strict(kind: Any) -> Any:
    """A `kind` to refuse with: `Tags` for the `LooseTags` in it, in its lists and their structs."""
    strict: Any = kind
    if get_origin(kind) is Annotated:
        strict = Annotated[_strict(kind.__origin__), *kind.__metadata__]
    elif get_origin(kind) is list:
        strict = list[_strict(*get_args(kind))]
    elif kind == dict[_LooseTagKey, _LooseTagValue]:
        strict = dict[TagKey, TagValue]
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        inner = {one.name: (one.type, _strict(one.type)) for one in msgspec.structs.fields(kind)}
        changed = [(name, new, None) for name, (old, new) in inner.items() if new != old]
        if changed:
            strict = msgspec.defstruct(kind.__name__, changed, bases=(kind,), kw_only=True)
    return strict


def _read_number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("the number is out of range") from None


def worked_out(kind: type[T]) -> type[T]:
    """`kind` itself, safe for `msgspec.convert` in any thread."""
    decoder_for(kind)
    return kind


def _write_custom(value: object) -> object:
    if isinstance(value, Decimal):
        return Decimal(value)
    # of a clock that a test froze
    if isinstance(value, datetime) and (moment := in_utc(value)) is not value:
        return moment
    raise NotImplementedError(type(value))  # as above


_encoder: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=_write_custom)
encode: Final = _encoder.encode
"""An answer as JSON bytes, amounts as numbers with their exact digits."""
encode_into: Final = _encoder.encode_into
"""As `encode`, into a buffer."""


def to_json(answer: msgspec.Struct) -> bytes:
    """An answer of Fiscus's as the JSON that a server sends, amounts as exact numbers: for a
    web framework, a queue or a log, which do not know its types."""
    return encode(answer)


_BLANK: Final = "\0"  # JSON writes it in another way


def pieces_around(value: msgspec.Struct, *fields: str) -> tuple[str, ...]:
    """`value` as JSON, in pieces between which the values of `fields` belong.

    They are in the order of the struct, and themselves JSON.
    """
    blank = msgspec.Raw(_BLANK.encode())
    blanked = msgspec.structs.replace(value, **dict.fromkeys(fields, blank))
    return tuple(encode(blanked).decode().split(_BLANK))


_canonical: Final = msgspec.json.Encoder(
    decimal_format="number", order="deterministic", enc_hook=_write_custom
)
encode_canonical: Final = _canonical.encode
"""As `encode`, with keys in order, so that equal values give equal bytes."""

_any_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)
_naming_any_decoder: Final = msgspec.json.Decoder(float_hook=_read_number)


def decode(body: bytes | str, kind: type[T]) -> T:
    """`body` as a checked `kind`; raises `ValidationError` that names the field."""
    try:
        read: T = decoder_for(kind).decode(body)
        # a backslash is found in a tenth of the time, and most bodies have none
        if ("\\" in body if isinstance(body, str) else _BACKSLASH in body) and _has_nul(body):
            decoder_for(_strict(kind)).decode(body)
        return read
    except RecursionError:
        # What is cut off lies deeper than any field may, so it is refused by the field's name, and
        # in a batch the other items are read.
        return decode(cut_below(_bytes(body), 2 * MAX_LEVELS), kind)
    except msgspec.ValidationError as error:
        raise explain(error, kind, lambda: _any_decoder.decode(body)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not body.strip():
            raise _nothing_sent(kind) from None
        raise (_wrong_number(body) or not_json(error)) from None
    except InvalidOperation:
        raise _out_of_range(body, _naming_decoder_for(kind)) from None


def _out_of_range(body: bytes | str, naming: msgspec.json.Decoder[Any]) -> ValidationError:
    """The error that names the field whose number has an exponent of too many digits."""
    try:
        naming.decode(body)
    except msgspec.ValidationError as error:
        return explain(error, object, lambda: None)
    raise AssertionError("a number is out of range for one decoder alone")


def decode_stored(text: str) -> Any:
    """A free object out of a store; one of before there was a limit is cut at that."""
    return decode_any(cut_below(text.encode()))


def _bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body


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
    return None if found is None else _wrong(*found)


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


def decode_any(body: bytes | str) -> Any:
    """`body` as plain JSON values with exact decimals."""
    try:
        return _any_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from None
    except InvalidOperation:
        raise _out_of_range(body, _naming_any_decoder) from None


def convert(values: Mapping[str, Any], kind: type[T]) -> T:
    """Keyword values of a Python caller as a checked `kind`, by the rules of the wire.

    `None` means "not given". Free objects are taken as their JSON says, and what has none is a
    `ValidationError` as all that is wrong: it names the field.
    """
    given = _given(values)
    try:
        converted = msgspec.convert(given, worked_out(kind), dec_hook=_read_given)
        body = encode(converted)
        if _BACKSLASH in body and _has_nul(body):
            msgspec.convert(given, worked_out(_strict(kind)), dec_hook=_read_given)
    except msgspec.ValidationError as error:
        raise explain(error, kind, lambda: given) from None
    except UnicodeEncodeError:
        raise has_surrogates(surrogates_in(given) or "body") from None
    except NotImplementedError as error:  # of `_write_custom`, in a struct that was given
        raise _wrong("body", _no_json(error)) from None
    return converted


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
        return _wrong(field, what, f"Use one of {', '.join(choices)}.")
    which = "a key " if match and match["of_key"] else ""
    if bound := _BOUND.match(what):
        return _wrong(field, which + _bound_in_words(bound))
    if isinstance(error.__cause__, _NoAmount):
        return _wrong(field, what, A_NUMBER)
    for told, meant, todo in _IN_WORDS:
        if told in what:
            return _wrong(field, which + meant, todo)
    return _wrong(field, what)


def _with_key(path: str, kind: type[Any], what: str, values: Callable[[], object]) -> str:
    """`path` with the key of the value that msgspec says this of, where it can be told."""

    def refuses(value: object, of_kind: Any) -> bool:
        try:
            msgspec.convert(value, worked_out(of_kind), dec_hook=_read_given)
        except msgspec.ValidationError as error:
            found = _PATH.match(str(error))
            return (found["what"] if found else str(error)) == what
        return False

    try:
        return with_key(path, _strict(kind), values(), refuses)
    except InvalidOperation:  # a number that no `Decimal` can hold
        return path


def _bound_in_words(told: re.Match[str]) -> str:
    if told["of_length"] is None:
        return f"must be {_SIGNS[told['sign']]} {told['bound']}"
    if told["sign"] == ">=" and told["bound"] == "1":
        return "must not be empty"
    return f"must have {_SIGNS[told['sign']]} {told['bound']} {_LENGTHS[told['kind']]}"


def _wrong(field: str, what: str, todo: str | None = None) -> ValidationError:
    return ValidationError(
        f"{field}: {what}",
        field=field,
        suggested_action=todo or f"Correct {field} and send it again.",
    )


def _nothing_sent(kind: Any) -> ValidationError:
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
    "KEY_PATTERN",
    "MAX_TAGS",
    "NO_NUL",
    "RESOURCES_PATTERN",
    "Currency",
    "Id",
    "IdOrEvery",
    "ItemError",
    "Label",
    "LooseId",
    "LooseKey",
    "LooseLabel",
    "LooseTags",
    "Name",
    "TagKey",
    "TagValue",
    "Tags",
    "as_json",
    "convert",
    "decode",
    "decode_any",
    "decode_stored",
    "decoder_for",
    "encode",
    "encode_canonical",
    "encode_into",
    "explain",
    "has_surrogates",
    "is_id",
    "is_label",
    "item_error",
    "not_a_label",
    "not_an_id",
    "pieces_around",
    "surrogates_in",
    "tenant_of_items",
    "to_json",
    "worked_out",
]

"""The arguments of the Python calls, checked, and as requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from fiscus.errors import ValidationError
from fiscus.idempotency import require_key
from fiscus.ids import require_uuid
from fiscus.scopes import parse_id
from fiscus.wire.converting import convert, has_surrogates, surrogates_in

T = TypeVar("T")

SHORT_NAMES: Final = {
    "tenant": "tenant_id",
    "project": "project_id",
    "user": "user_id",
    "feature": "feature_id",
    "estimate": "estimated_cost",
}


def request(kind: type[T], given: Mapping[str, object], tenant: str | None = None) -> T:
    """Keyword arguments as a checked `kind`; raises `ValidationError` that names the field."""
    return convert(full_names(given, tenant), kind)


def full_names(given: Mapping[str, object], tenant: str | None = None) -> dict[str, object]:
    """`given` by the names of the requests, without what is None; `tenant` when it names none.

    Raises `ValidationError` when a field is given by both of its names.
    """
    named: dict[str, object] = {}
    for name, value in given.items():
        if value is None:
            continue
        full = SHORT_NAMES.get(name, name)
        if full in named:
            short = next(one for one, long in SHORT_NAMES.items() if long == full)
            raise ValidationError(
                f"{short} and {full} are one field, and both are given",
                field=full,
                suggested_action=f"Give {short} or {full}.",
            )
        named[full] = value
    if tenant is not None:
        named.setdefault("tenant_id", tenant)
    return named


def tenant_named(tenant: object, default: str | None) -> str | None:
    """The tenant of a call that names one in an argument of its own, or the default."""
    return default if tenant is None else parse_id(given_text(tenant, "tenant"), "tenant")


def given_text(value: object, field: str) -> str:
    """An id or another text in an argument of its own; raises `ValidationError` naming it."""
    if not isinstance(value, str):
        raise _wrong_kind(field, "text", value, f"Give the {field} as a str.")
    if surrogates_in(value) is not None:
        raise has_surrogates(field)
    return str.__str__(value)  # the text of a subclass, such as a member of an enum


def given_id(value: object, what: str) -> str:
    """The id of a `what` that is looked up by it.

    Raises `ValidationError` naming it, or `NotFound` when there can be no such thing.
    """
    name = f"{what}_id"
    return require_uuid(_given_segment(value, name), name, what)


def given_tenant_id(value: object) -> str:
    """The id of a tenant that is looked up by it; raises `ValidationError` naming it."""
    return parse_id(_given_segment(value, "tenant_id"), "tenant_id")


def given_key(value: object) -> str:
    """An idempotency key; raises `ValidationError`."""
    key = given_text(value, "idempotency_key")
    require_key(key)
    return key


def given_seconds(value: object, field: str) -> float:
    """A number of seconds; raises `ValidationError` naming it."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong_kind(field, "a number", value, f"Give {field} as a number of seconds.")
    return value


def given_patience(value: object) -> float | None:
    """How long a call may take in all, or None; raises `ValidationError`."""
    if value is None:
        return None
    seconds = given_seconds(value, "patience_seconds")
    if not seconds > 0:
        raise ValidationError(
            "patience_seconds must be more than 0",
            field="patience_seconds",
            suggested_action="Give another patience_seconds, or leave it out.",
        )
    return seconds


def given_count(value: object, field: str) -> int:
    """A whole number; raises `ValidationError` naming it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_kind(field, "a whole number", value, f"Give {field} as an int.")
    return value


def given_items(value: object, field: str) -> list[Mapping[str, Any]]:
    """The items of a batch, each with the fields of one; raises `ValidationError` naming which."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _wrong_kind(field, "a list", value, "Give a list of dicts, also for a single one.")
    items = list(cast("Iterable[Any]", value))
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            todo = "Give a dict of the fields that the call for a single one takes."
            raise _wrong_kind(f"{field}[{index}]", "a dict", item, todo)
    return items


def _given_segment(value: object, field: str) -> str:
    """As `given_text`. An empty id, or one of dots alone, is none: in the path of a URL it would
    name another resource."""
    text = given_text(value, field)
    if text in {"", ".", ".."}:
        raise ValidationError(
            f"{text!r} is not an id", field=field, suggested_action=f"Give the {field}."
        )
    return text


def _wrong_kind(field: str, wanted: str, given: Any, todo: str) -> ValidationError:
    found = "None" if given is None else f"of type {type(given).__name__}"
    return ValidationError(
        f"{field} is not {wanted} but {found}", field=field, suggested_action=todo
    )

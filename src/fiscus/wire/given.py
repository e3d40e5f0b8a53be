"""What a Python caller gives, of whatever class, as JSON and the structs of requests know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, cast


def wire_value(value: object) -> Any:
    """What a Python caller gave, as the wire knows it: a subclass of text, of a number or of a day,
    such as a member of an enum, as what it is a subclass of, and moments in UTC.

    Raises `ValueError` that says what must not be given.
    """
    if isinstance(value, Mapping):
        named = cast("Mapping[object, object]", value)
        return {_one(name): wire_value(inner) for name, inner in named.items()}
    if isinstance(value, list | tuple):
        return [wire_value(inner) for inner in cast("Sequence[object]", value)]
    return _one(value)


def _one(value: object) -> object:
    """As `wire_value`, of what has nothing within it; what else may be a key stays what it is."""
    if type(value) in WIRE_TYPES:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # what a member of an enum is, not how it shows itself
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, datetime):
        return in_utc(value)
    if isinstance(value, date):
        return date(value.year, value.month, value.day)
    kind = type(value)
    if hasattr(kind, "__getitem__") and not issubclass(kind, bytes | tuple):
        # msgspec would ask it for the fields of an object, and take it for one without any
        raise ValueError(f"must not be a {kind.__name__}: give a dict or a list")
    return value


WIRE_TYPES: Final = frozenset({str, int, float, bool, Decimal})
"""What is taken as it is."""


def in_utc(moment: datetime) -> datetime:
    """The same moment, as far as it is one: an offset in JSON has no seconds, one here may."""
    try:
        if moment.utcoffset() is not None:
            moment = moment.astimezone(UTC)
        return datetime.combine(moment.date(), moment.timetz())
    except (OverflowError, ValueError):  # at an end of time, or no time at all, as that of pandas
        return moment


__all__ = ["WIRE_TYPES", "in_utc", "wire_value"]

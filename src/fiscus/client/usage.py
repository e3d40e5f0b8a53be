"""What is known of a cost besides its amount, and how that of several parts becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from fiscus.money import add, parse_not_negative

_Usage = Mapping[str, Any]


def merge_details(parts: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The details of nested parts and of the reservation itself, as those of one cost record.

    Usage adds up by name, tags are joined, and of anything else the reservation's own value wins.
    A quantity in another unit than the reservation's own becomes usage under its unit's name.
    """
    merged = {**parts, **{name: value for name, value in own.items() if value is not None}}
    usage = merge_usage(parts.get("usage") or {}, own.get("usage") or {})
    tags: dict[str, str] = {**(parts.get("tags") or {}), **(own.get("tags") or {})}
    first, second = parts.get("usage_quantity"), own.get("usage_quantity")
    if first is not None and second is not None:
        quantity = parse_not_negative(first, "usage_quantity")
        if parts.get("usage_unit") == own.get("usage_unit"):
            more = parse_not_negative(second, "usage_quantity")
            merged["usage_quantity"] = add(quantity, more)
        else:
            unit = parts.get("usage_unit") or "unspecified"
            usage = merge_usage({unit: quantity}, usage)
    if usage:
        merged["usage"] = usage
    if tags:
        merged["tags"] = tags
    return merged


def merge_usage(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of one name added, mappings merged the same way; of anything else the later."""
    merged = dict(first)
    for name, value in second.items():
        merged[name] = _joined(merged[name], value) if name in merged else value
    return merged


def _joined(one: object, other: object) -> object:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return merge_usage(cast("_Usage", one), cast("_Usage", other))
    if isinstance(one, bool) or isinstance(other, bool):
        return other
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    if isinstance(one, int | float | Decimal) and isinstance(other, int | float | Decimal):
        # by its shortest digits: 0.1 and 0.2 seconds are 0.3, not 0.30000000000000004
        return add(Decimal(str(one)), Decimal(str(other)))
    return other

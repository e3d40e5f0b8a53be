"""What is known of a cost besides its amount, and how that of several parts becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, Overflow
from typing import Any, cast

from fiscus.costs.model import first_tags
from fiscus.money import LIMIT, add


def merge_details(parts: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The details of nested parts and of the reservation itself, as those of one cost record.

    All of them are checked. Usage adds up by name, tags are joined, the reservation's own first,
    and of anything else its own value wins. A unit goes with its quantity; a quantity in another
    unit than the reservation's own, or too much to be one, becomes usage under its unit's name.
    """
    merged = {**parts, **{name: value for name, value in own.items() if value is not None}}
    usage = merge_usage(parts.get("usage") or {}, own.get("usage") or {})
    own_tags: dict[str, str] = own.get("tags") or {}
    tags = first_tags({**own_tags, **(parts.get("tags") or {}), **own_tags})
    first, second = parts.get("usage_quantity"), own.get("usage_quantity")
    unit, own_unit = parts.get("usage_unit"), own.get("usage_unit")
    if first is not None or second is not None:
        # the quantity that stays may have none
        merged.pop("usage_unit", None)
        of_quantity = unit if second is None else own_unit
        if of_quantity is not None:
            merged["usage_unit"] = of_quantity
    if first is not None and second is not None:
        quantity = add(first, second)
        if unit == own_unit and quantity < LIMIT:
            merged["usage_quantity"] = quantity
        else:
            usage = merge_usage({unit or "unspecified": Decimal(first)}, usage)
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
        return merge_usage(cast("Mapping[str, Any]", one), cast("Mapping[str, Any]", other))
    if isinstance(one, bool) or isinstance(other, bool):
        return other
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    if isinstance(one, int | float | Decimal) and isinstance(other, int | float | Decimal):
        try:
            # by its shortest digits: 0.1 and 0.2 seconds are 0.3, not 0.30000000000000004
            return add(Decimal(str(one)), Decimal(str(other)))
        except Overflow:
            return other  # no number is so large
    return other

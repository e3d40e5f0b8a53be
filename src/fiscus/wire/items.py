"""Items of a batch that stand alone: why one failed, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fiscus.errors import FiscusError, ValidationError
from fiscus.wire.decoding import decode
from fiscus.wire.texts import Id


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


__all__ = ["ItemError", "item_error", "tenant_of_items"]

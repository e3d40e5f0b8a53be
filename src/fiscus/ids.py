"""UUIDv7 identifiers (RFC 9562, section 5.7): sortable by the time they were made."""

from __future__ import annotations

import re
from typing import Final

from uuid_utils import uuid7 as _new_uuid7

from fiscus.errors import NotFound

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def uuid7() -> str:
    """A new UUIDv7 as its canonical 36 characters.

    What follows the milliseconds counts up (RFC 9562, section 6.2, method 1), so ids of one process
    sort in the order in which they were made; the last 32 bits are random.
    """
    return str(_new_uuid7())


def is_uuid(text: str) -> bool:
    """Whether `text` is a canonical lower-case UUID, so that it may be looked up as an id."""
    return _UUID.fullmatch(text) is not None


def require_uuid(given: str, name: str, what: str) -> str:
    """`given`, which is sent as `name`, the id of a `what`.

    Raises `NotFound` when it is no UUID: there can be no such thing.
    """
    if _UUID.fullmatch(given) is None:
        shown = given[:64]
        raise NotFound(
            f"No {what} {shown!r} exists",
            details={name: shown},
            suggested_action=f"Use the {name} as it was answered.",
        )
    return given

"""UUIDv7 identifiers (RFC 9562, section 5.7): sortable by the time they were made."""

from __future__ import annotations

import os
import re
import sys
from random import Random
from time import time_ns
from typing import Final

from fiscus.errors import NotFound

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NS_PER_MS: Final = 1_000_000

_random: Final = Random()  # noqa: S311 - an id has to be unique, not secret
_bits: Final = _random.getrandbits
if sys.platform != "win32":
    # a forked process must not go on with its parent's numbers
    os.register_at_fork(after_in_child=_random.seed)


def uuid7() -> str:
    """A new UUIDv7 as its canonical 36 characters.

    The 12 bits after the milliseconds are the fraction of the millisecond (RFC 9562, section 6.2,
    method 3), so ids of one process sort by a quarter microsecond; the last 62 bits are random.
    """
    ms, rest = divmod(time_ns(), _NS_PER_MS)
    fraction = (rest << 12) // _NS_PER_MS
    number = (ms << 80) | (0x7000 | fraction) << 64 | 0x8000_0000_0000_0000 | _bits(62)
    text = number.to_bytes(16, "big").hex()  # sooner done than formatting it
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


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

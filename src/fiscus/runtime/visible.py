"""Text that somebody sent or stored, made fit for a terminal: nothing in it steers that."""

from __future__ import annotations

import unicodedata
from typing import Final

_STEERING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of what moves a cursor, turns the direction or is not seen."""
_HARMLESS: Final = "\n\u200c\u200d"
"""Line ends, and what joins letters and emoji."""


def visible(text: str) -> str:
    r"""Control, format and separating characters as their escapes, such as `\x1b`."""
    return "".join(
        one.encode("unicode_escape").decode()
        if unicodedata.category(one) in _STEERING and one not in _HARMLESS
        else one
        for one in text
    )


__all__ = ["visible"]

"""Work that is done in portions, so that it can be left before all of it is done."""

from __future__ import annotations

from collections.abc import Callable

GoesOn = Callable[[], bool]
"""Asked before each portion: whether to begin on it."""


def to_the_end() -> bool:
    """Goes on until nothing is left."""
    return True

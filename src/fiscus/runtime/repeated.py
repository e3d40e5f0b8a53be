"""Values that are mostly the ones before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def repeated(make: Callable[[T], R]) -> Callable[[T], R]:
    """`make` that keeps what it made last, for values that several in a row may have in common.

    By comparing, which for most is sooner done than to work out a hash as `cache` does. Any thread
    may call it.
    """
    last: tuple[T, R] | None = None

    def of(value: T) -> R:
        nonlocal last
        known = last
        if known is None or (value is not known[0] and value != known[0]):
            known = last = value, make(value)
        return known[1]

    return of


__all__ = ["repeated"]

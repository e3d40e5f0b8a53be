"""Counters as Redis holds them (see `lua/`), read back as the values of `ratelimits`."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Final

from fiscus.ratelimits.deciding import State
from fiscus.ratelimits.draining import Level
from fiscus.ratelimits.fixed_window import Window
from fiscus.ratelimits.rules import Rate
from fiscus.ratelimits.sliding_window_log import Log

_SIZE_BYTES: Final = 8
_LEVEL_NUMBERS: Final = 5


def read_string(held: bytes) -> State:
    """A bucket or a window."""
    numbers = _numbers(held)
    if len(numbers) == _LEVEL_NUMBERS:
        at_us, level, *rate = numbers
        return Level(at_us, level, Rate(*rate))
    return Window(*numbers)


def read_list(held: Sequence[bytes]) -> State:
    """A log."""
    at_us, window_us, used = _numbers(held[0])
    hits: array[int] = array("q")
    for hit in held[1:]:
        hits.extend(_numbers(hit))
    return Log(at_us, window_us, hits, 0, len(hits), used)


def _numbers(held: bytes) -> list[int]:
    """Whole numbers, each held exactly by a double."""
    return [int(number) for number in struct.unpack(f"<{len(held) // _SIZE_BYTES}d", held)]

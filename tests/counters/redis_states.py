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
from fiscus.stores.counters.redis import RedisCounters
from fiscus.stores.counters.redis_commands import Command, ask_all
from fiscus.stores.counters.redis_takes import name_of

_SIZE_BYTES: Final = 8
_LEVEL_NUMBERS: Final = 5


def state_of(store: RedisCounters, tenant_id: str, key: str) -> State | None:
    """What a counter holds; None when it is unused."""
    name = name_of(tenant_id, key)
    (kind,) = ask_all(store._servers, [Command(name, ("TYPE", name))])
    if kind == b"list":
        (runs,) = ask_all(store._servers, [Command(name, ("LRANGE", name, 0, -1))])
        return _read_list(runs) if runs else None
    (text,) = ask_all(store._servers, [Command(name, ("GET", name))])
    return None if text is None else _read_string(text)


def _read_string(held: bytes) -> State:
    """A bucket or a window."""
    numbers = _numbers(held)
    if len(numbers) == _LEVEL_NUMBERS:
        at_us, level, *rate = numbers
        return Level(at_us, level, Rate(*rate))
    return Window(*numbers)


def _read_list(held: Sequence[bytes]) -> State:
    """A log."""
    at_us, window_us, used, total = _numbers(held[0])
    hits: array[int] = array("q")
    for hit in held[1:]:
        hits.extend(_numbers(hit))
    return Log(at_us, window_us, hits, 0, len(hits), used, total)


def _numbers(held: bytes) -> list[int]:
    """Whole numbers, each held exactly by a double."""
    return [int(number) for number in struct.unpack(f"<{len(held) // _SIZE_BYTES}d", held)]

"""States of counters in this process, forgotten a while after they are unused again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet

S = TypeVar("S")

CLOCK_SLACK_US: Final = 60_000_000
"""How long a counter is kept after it is unused again, so that a clock that goes back by less
finds it where it was."""

STEP_TAKES: Final = 64
"""Counters taken from between two steps of a round."""
_STEP_KEYS: Final = 192
"""Counters looked at in a step: more than those can have made."""
_ROUND_US: Final = 1_000_000
"""The shortest time between two rounds over all counters in search of unused ones."""


class SweptStates(Generic[S]):
    """What counters hold, by key. `unused_from_us` says from when on a state is as if there were
    none. Who takes from counters holds the lock, adds to `_takes`, and calls `_sweep_step` when
    there are `STEP_TAKES`."""

    def __init__(self, unused_from_us: Callable[[S], int]) -> None:
        self._unused_from_us = unused_from_us
        self._states: dict[str, S] = {}
        self._lock = threading.Lock()
        self._takes = 0
        self._round: list[str] = []
        self._round_began_us = 0
        _here.add(self)

    def forked(self) -> None:
        """Go on in a forked process: whoever held the lock goes on in the other one."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many counters are held."""
        return len(self._states)

    def state(self, key: str) -> S | None:
        """What a counter holds; None when it is unused."""
        return self._states.get(key)

    def sweep(self, now_us: int) -> int:
        """Forget all counters that are unused; how many. Others wait for a part of it at a time."""
        with self._lock:
            keys = list(self._states)
        gone = 0
        for start in range(0, len(keys), 1000):
            with self._lock:
                gone += self._forget_unused(keys[start : start + 1000], now_us)
        return gone

    def close(self) -> None:
        self._states.clear()

    def _sweep_step(self, now_us: int) -> None:
        """A part of a round over all counters, so that no take pays for a whole one."""
        self._takes = 0
        if not self._round:
            if 0 <= now_us - self._round_began_us < _ROUND_US:
                return
            self._round_began_us = now_us
            self._round = list(self._states)
        part, self._round[-_STEP_KEYS:] = self._round[-_STEP_KEYS:], []
        self._forget_unused(part, now_us)

    def _forget_unused(self, keys: Sequence[str], now_us: int) -> int:
        before_us = now_us - CLOCK_SLACK_US
        states = self._states
        gone = 0
        for key in keys:
            state = states.get(key)
            if state is not None and self._unused_from_us(state) <= before_us:
                del states[key]
                gone += 1
        return gone


_here: Final[WeakSet[SweptStates[Any]]] = WeakSet()


def _forked() -> None:
    for one in _here:
        one.forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)


__all__ = ["CLOCK_SLACK_US", "STEP_TAKES", "SweptStates"]

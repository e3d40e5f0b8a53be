"""Counters in this process: exact across its threads, and no larger than what is in use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from fiscus.ratelimits.deciding import DECIDE, State, adjusted, decide_together, unused_from_us
from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Verdict

CLOCK_SLACK_US: Final = 60_000_000
"""How long a counter is kept after it is unused again, so that a clock that goes back by less
finds it where it was."""

_ROUND_US: Final = 1_000_000
"""The shortest time between two rounds over all counters in search of unused ones."""
_STEP_TAKES: Final = 64
_STEP_KEYS: Final = 192
"""Counters looked at per `_STEP_TAKES` takes: more than those can have made."""


class MemoryCounters:
    """A `ratelimits.port.CounterStore`. `now_us` must be given: the caller's clock is the clock."""

    immediate = True

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._lock = threading.Lock()
        self._takes = 0
        self._round: list[str] = []
        self._round_began_us = 0

    def __len__(self) -> int:
        """How many counters are held."""
        return len(self._states)

    def decide_all(self, takes: Sequence[Take], now_us: int | None) -> list[Taken | None]:
        assert now_us is not None
        results: list[Taken | None] = []
        admitted = True
        for take in takes:
            if take.gated and not admitted:
                results.append(None)
                continue
            taken = self.decide(take, now_us)
            admitted = taken.admitted
            results.append(taken)
        return results

    def decide(self, take: Take, now_us: int) -> Taken:
        """Decide one take."""
        keys, rules, count, priority = take.keys, take.rules, take.count, take.priority
        states = self._states
        with self._lock:
            self._takes += 1
            if self._takes >= _STEP_TAKES:
                self._sweep_step(now_us)
            if len(keys) == 1:  # most requests; the loop below would say the same
                key, rule = keys[0], rules[0]
                state = states.get(key)
                verdict = DECIDE[rule[0]](rule, state, count, rule[3][priority], now_us)
                if verdict.state is not state:
                    states[key] = verdict.state
                return Taken(verdict.allowed or rule[6], [verdict])
            before = [states.get(key) for key in keys]
            admitted, verdicts = decide_together(rules, before, count, priority, now_us)
            for key, state, verdict in zip(keys, before, verdicts, strict=True):
                if verdict.state is not state:
                    states[key] = verdict.state
        return Taken(admitted, verdicts)

    def adjust(self, take: Take, now_us: int | None) -> list[Verdict]:
        assert now_us is not None
        with self._lock:
            for key, rule in zip(take.keys, take.rules, strict=True):
                state = adjusted(rule, self._states.get(key), take.count, now_us)
                if state is not None:
                    self._states[key] = state
        look = replace(take, count=0)
        return self.decide(look, now_us).verdicts

    def forget(self, tenant_id: str, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._states.pop(key, None)

    def state(self, key: str) -> State | None:
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
            if state is not None and unused_from_us(state) <= before_us:
                del states[key]
                gone += 1
        return gone

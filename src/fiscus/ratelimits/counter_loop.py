"""Counters elsewhere, asked by one thread for all who wait."""

from __future__ import annotations

from fiscus.breaker import CircuitBreaker
from fiscus.clock import Clock
from fiscus.groups import GroupLoop
from fiscus.ratelimits.port import CounterStore, CountersUnavailable, Take, Taken

Takes = tuple[Take, ...]
Outcome = list[Taken | None] | None
"""What became of takes; None when the counters cannot be reached."""


class CounterLoop(GroupLoop[Takes, Outcome]):
    """Takes of many callers, decided by a remote store in one round trip per group."""

    def __init__(self, counters: CounterStore, clock: Clock, timeout_seconds: float) -> None:
        self._counters = counters
        super().__init__(
            "counters",
            self._decide,
            clock,
            CircuitBreaker(failure_ratio=0.3, window_seconds=60),
            expected_failure=CountersUnavailable,
            max_group=512,
            max_queue=20_000,
            deadline_seconds=timeout_seconds,
        )

    def without_store(self, command: Takes) -> Outcome:
        return None

    def late(self, command: Takes) -> Outcome:
        return None

    def weight(self, command: Takes) -> int:
        return len(command)

    def _decide(self, group: list[Takes]) -> list[Outcome]:
        decided = self._counters.decide_all([take for takes in group for take in takes], None)
        outcomes: list[Outcome] = []
        start = 0
        for takes in group:
            outcomes.append(decided[start : start + len(takes)])
            start += len(takes)
        return outcomes

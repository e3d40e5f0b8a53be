"""Counters elsewhere, asked for all who wait: by one thread for callers in threads, and by each
event loop for its coroutines."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from fiscus.breaker import CircuitBreaker
from fiscus.clock import Clock
from fiscus.groups import GroupLoop
from fiscus.ratelimits.loop_takes import MAX_GROUP, MAX_QUEUE, LoopTakes, Outcome, Takes
from fiscus.ratelimits.port import CounterStore, CountersUnavailable


class CounterLoop(GroupLoop[Takes, Outcome]):
    """Takes of many callers, decided by a remote store in one round trip per group.

    `execute` is for callers in threads, `here().execute` for coroutines. They share the breaker.
    """

    def __init__(self, counters: CounterStore, clock: Clock, timeout_seconds: float) -> None:
        self.breaker: Final = CircuitBreaker(failure_ratio=0.3, window_seconds=60)
        self.clock: Final = clock
        self._counters = counters
        self._loops: dict[asyncio.AbstractEventLoop, LoopTakes] = {}
        self._lock = threading.Lock()
        super().__init__(
            "counters",
            self._decide,
            clock,
            self.breaker,
            expected_failure=CountersUnavailable,
            max_group=MAX_GROUP,
            max_queue=MAX_QUEUE,
            deadline_seconds=timeout_seconds,
        )

    def here(self) -> LoopTakes:
        """For coroutines of the running event loop."""
        running = asyncio.get_running_loop()
        found = self._loops.get(running)
        if found is None:
            counters = self._counters.on_loop(running)
            assert counters is not None  # immediate ones are not asked for others
            found = LoopTakes(counters, self, running)
            with self._lock:
                gone = [one for loop, one in self._loops.items() if loop.is_closed()]
                for one in gone:
                    del self._loops[one.loop]
                self._loops[running] = found
            for one in gone:
                one.close()
        return found

    @property
    def queue_depth(self) -> int:
        return super().queue_depth + sum(one.queue_depth for one in list(self._loops.values()))

    def close(self) -> None:
        """Do what waits, then stop: event loops that run do so a moment later."""
        super().close()
        with self._lock:
            loops = list(self._loops.values())
            self._loops.clear()
        for one in loops:
            try:
                one.loop.call_soon_threadsafe(one.close)
            except RuntimeError:  # it is closed
                one.close()

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


__all__ = ["CounterLoop", "Outcome", "Takes"]

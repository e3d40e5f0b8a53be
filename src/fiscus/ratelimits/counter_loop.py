"""Takes from remote counters in batches: by one thread for callers in threads, and by each event
loop for its coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from itertools import chain
from typing import Final

from fiscus.batching.async_batcher import AsyncBatcher, GroupCallback, InFlight
from fiscus.batching.thread_batcher import GroupLimits, ThreadBatcher
from fiscus.clock import Clock
from fiscus.ratelimits.port import (
    CounterStore,
    CountersUnavailable,
    LoopCounters,
    Take,
    Taken,
)
from fiscus.runtime.breaker import CircuitBreaker

Takes = tuple[Take, ...]
Outcome = list[Taken | None] | None
"""What became of takes; None when the counters cannot be reached."""
LoopTakes = AsyncBatcher[Takes, Outcome]
"""Takes of the coroutines of one event loop."""

PORTION: Final = 128
"""Counters of a batch that are asked for at once: one or two milliseconds of a server, whichever
their algorithms and whatever they say, of the ten that it has."""
MAX_GROUP: Final = 512
"""Takes of a group at most."""
MAX_QUEUE: Final = 20_000
"""Callers that may wait for a group to begin, before new ones are refused."""


class CounterLoop(ThreadBatcher[Takes, Outcome]):
    """Takes of many callers, decided by a remote store in one round trip per group.

    `execute` is for callers in threads, `for_running_loop().execute` for coroutines. They share the
    breaker.
    """

    def __init__(self, counters: CounterStore, clock: Clock, timeout_seconds: float) -> None:
        self._counters = counters
        self._loops: dict[asyncio.AbstractEventLoop, LoopTakes] = {}
        self._lock = threading.Lock()
        super().__init__(
            "counters",
            self._decide,
            clock,
            CircuitBreaker(failure_ratio=0.3, window_seconds=60),
            GroupLimits(MAX_GROUP, MAX_QUEUE, timeout_seconds),
            expected_failure=CountersUnavailable,
        )

    def for_running_loop(self) -> LoopTakes:
        """For coroutines of the running event loop."""
        running = asyncio.get_running_loop()
        found = self._loops.get(running)
        if found is None:
            counters = self._counters.on_loop(running)
            assert counters is not None  # immediate ones are not asked for others
            found = LoopTakes(_CountersTransport(counters), self, running)
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
        return _per_caller(group, self._counters.decide_all(list(chain.from_iterable(group)), None))


class _CountersTransport:
    """A `GroupTransport` to remote counters, for one event loop."""

    def __init__(self, counters: LoopCounters) -> None:
        self._counters = counters
        self.close: Final = counters.close

    def ask_all(self, commands: list[Takes], on_done: GroupCallback[Outcome]) -> InFlight:
        def answered(taken: list[Taken | None] | Exception) -> None:
            on_done(taken if isinstance(taken, Exception) else _per_caller(commands, taken))

        return self._counters.ask_all(list(chain.from_iterable(commands)), answered)


def portions(takes: Takes) -> Iterator[Takes]:
    """Takes that are each for itself, in order, in parts that are asked for one after the other:
    each in time on a server that is well, and with other callers in between."""
    begin = counters = 0
    for place, take in enumerate(takes):
        counters += len(take.keys)
        if counters > PORTION and place > begin:
            yield takes[begin:place]
            begin, counters = place, len(take.keys)
    yield takes[begin:]


def _per_caller(group: list[Takes], taken: list[Taken | None]) -> list[Outcome]:
    """What became of each caller's takes."""
    outcomes: list[Outcome] = []
    start = 0
    for takes in group:
        end = start + len(takes)
        outcomes.append(taken[start:end])
        start = end
    return outcomes


__all__ = ["CounterLoop", "LoopTakes", "Outcome", "Takes", "portions"]

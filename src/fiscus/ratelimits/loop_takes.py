"""Takes of one event loop's coroutines, asked of counters elsewhere without another thread."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from itertools import chain
from time import perf_counter
from typing import Final, Protocol

import structlog

from fiscus.breaker import BreakerState, CircuitBreaker
from fiscus.clock import Clock
from fiscus.errors import ServiceUnavailable
from fiscus.groups import GroupObserver
from fiscus.ratelimits.port import Asked, CountersUnavailable, LoopCounters, Take, Taken

log = structlog.get_logger(__name__)

Takes = tuple[Take, ...]
Outcome = list[Taken | None] | None
"""What became of takes; None when the counters cannot be reached."""

MAX_GROUP: Final = 512
"""Takes of a group at most."""
MAX_QUEUE: Final = 20_000
"""Callers that may wait for a group to begin, before new ones are refused."""
_EARLY_GROUP: Final = 32
"""So many callers are a group before the others of their turn of the event loop are there: the
server decides these while those are worked out."""
_MAX_IN_FLIGHT: Final = 4
_SWEEP_SECONDS: Final = 0.05
"""How often deadlines are looked at, at most; of short ones, twice in each."""


_Waiting = tuple[Takes, asyncio.Future[Outcome], float]
"""Takes, their outcome to come, and the time of the loop at which it is no longer waited for."""


class Asker(Protocol):
    """What all who ask the same counters have in common."""

    deadline_seconds: float
    observer: GroupObserver | None
    breaker: CircuitBreaker
    clock: Clock

    @property
    def is_closing(self) -> bool: ...


class _Flight:
    """A group that was sent and is not answered."""

    __slots__ = ("asked", "began", "group", "is_late", "until")

    def __init__(self, group: list[_Waiting], until: float) -> None:
        self.group = group
        self.began = perf_counter()
        self.until = until
        """The time of the loop at which the server is late."""
        self.is_late = False
        self.asked: Asked | None = None


class LoopTakes:
    """Takes of coroutines of one event loop, in groups, several of which are on their way at once.

    A group is what a turn of the loop brings, or what arrived while as many as may be were on their
    way. Takes whose outcome is not known by their deadline become None; those that were not sent by
    then never are.
    """

    def __init__(
        self, counters: LoopCounters, asker: Asker, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loop: Final = loop
        self._counters = counters
        self._asker = asker
        self._queue: deque[_Waiting] = deque()
        """Those whose group has not begun, in order of arrival and so of their deadlines."""
        self._flights: dict[_Flight, None] = {}
        self._in_turn = False
        """This turn's end is waited for."""
        self._deadline = 0.0
        """Of those who arrive in this turn."""
        self._sweep_seconds = min(_SWEEP_SECONDS, asker.deadline_seconds / 2)
        self._sweeping = False

    @property
    def queue_depth(self) -> int:
        return len(self._queue)

    def execute(self, takes: Takes) -> asyncio.Future[Outcome]:
        """The outcome to come. Raises `ServiceUnavailable` when the queue is full, or when the
        counters are being closed."""
        queue = self._queue
        if len(queue) >= MAX_QUEUE:
            raise ServiceUnavailable(
                "Too many operations are waiting to be decided",
                suggested_action="Try again after the time in Retry-After.",
                retry_after_seconds=1,
            )
        if not self._in_turn:
            self._begin_turn()
        future: asyncio.Future[Outcome] = self.loop.create_future()
        queue.append((takes, future, self._deadline))
        if len(queue) == _EARLY_GROUP:
            self._begin()
        return future

    def close(self) -> None:
        """Disconnect when what waits is done; on the event loop, or when that is closed."""
        if self.loop.is_closed():
            for _ in self._flights:  # one of them may be what the breaker waits for
                self._asker.breaker.failed(self._asker.clock.now())
            self._flights.clear()
            self._queue.clear()
        if not (self._queue or self._flights):
            self._counters.close()

    def _begin_turn(self) -> None:
        if self._asker.is_closing:
            raise ServiceUnavailable("Fiscus is shutting down", retry_after_seconds=1)
        loop = self.loop
        self._in_turn = True
        self._deadline = loop.time() + self._asker.deadline_seconds
        loop.call_soon(self._end_turn)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self._sweep_seconds, self._sweep)

    def _end_turn(self) -> None:
        self._in_turn = False
        self._begin()

    def _begin(self) -> None:
        """Send groups of those who wait, as far as there may be more."""
        while self._queue and len(self._flights) < _MAX_IN_FLIGHT:
            breaker = self._asker.breaker
            if breaker.state is BreakerState.HALF_OPEN and self._flights:
                return  # one tries for all
            group = self._next_group()
            if not group:
                return
            if breaker.allows(self._asker.clock.now()):
                self._send(group)
            else:
                for _, future, _ in group:
                    future.set_result(None)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        queue = self._queue
        while queue and size < MAX_GROUP:
            one = queue.popleft()
            if not one[1].done():
                group.append(one)
                size += len(one[0])
        return group

    def _send(self, group: list[_Waiting]) -> None:
        flight = _Flight(group, self.loop.time() + self._asker.deadline_seconds)
        self._flights[flight] = None
        takes = list(chain.from_iterable([takes for takes, _, _ in group]))
        try:
            flight.asked = self._counters.ask_all(takes, partial(self._told, flight))
        except Exception as error:
            # whatever it was: others are to be asked for after these
            log.exception("group_failed", commands=len(group))
            self.loop.call_soon(self._told, flight, error)

    def _told(self, flight: _Flight, outcome: list[Taken | None] | Exception) -> None:
        if self._flights.pop(flight, self) is self:
            return
        flight.asked = None
        asker, group = self._asker, flight.group
        if isinstance(outcome, Exception):
            self._failed(group, outcome)
        else:
            asker.breaker.succeeded(asker.clock.now())
            if asker.observer is not None:
                asker.observer.group_committed(len(group), perf_counter() - flight.began)
            start = 0
            for takes, future, _ in group:
                end = start + len(takes)
                if not future.done():
                    future.set_result(outcome[start:end])
                start = end
        self._begin()
        if asker.is_closing:
            self.close()

    def _failed(self, group: list[_Waiting], error: Exception) -> None:
        asker = self._asker
        if isinstance(error, CountersUnavailable):
            log.warning("counters_unavailable", commands=len(group), reason=str(error))
        asker.breaker.failed(asker.clock.now())
        if asker.observer is not None:
            asker.observer.group_failed(len(group))
        for _, future, _ in group:
            if not future.done():
                future.set_result(None)

    def _sweep(self) -> None:
        """Answer those whose deadline passed."""
        now = self.loop.time()
        queue = self._queue
        # before groups that end make room for others
        while queue and queue[0][2] <= now:
            _, future, _ = queue.popleft()
            if not future.done():
                future.set_result(None)
        for flight in list(self._flights):
            for _, future, deadline in flight.group:
                if deadline > now:
                    break
                if not future.done():
                    future.set_result(None)
            if flight.is_late:
                if flight.asked is not None:
                    flight.asked.give_up()
                self._told(flight, CountersUnavailable("the answer is late"))
            # a loop that was held up may look at its timers before it reads what has come
            flight.is_late = flight.until <= now
        if queue or self._flights:
            self.loop.call_later(self._sweep_seconds, self._sweep)
        else:
            self._sweeping = False


__all__ = ["Asker", "LoopTakes", "Outcome", "Takes"]

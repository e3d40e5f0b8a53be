"""Batching for coroutines: commands of one event loop are sent in groups, without a thread.

As `ThreadBatcher` for callers in threads, but the event loop itself sends the groups and reads
their outcomes, and several are on their way at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import takewhile
from time import perf_counter
from typing import Final, Generic, Protocol, TypeVar

from fiscus.batching.thread_batcher import (
    Failure,
    GroupLimits,
    GroupObserver,
    GroupOutcomeUnknown,
    queue_full,
    shutting_down,
)
from fiscus.clock import Clock
from fiscus.runtime.breaker import BreakerState, CircuitBreaker
from fiscus.runtime.logs import get_logger
from fiscus.runtime.turns import turn_of

log = get_logger(__name__)

C = TypeVar("C")
"""A command: one caller's work."""
R = TypeVar("R")
"""What becomes of a command."""
_C_contra = TypeVar("_C_contra", contravariant=True)
_R_co = TypeVar("_R_co", covariant=True)
_R_contra = TypeVar("_R_contra", contravariant=True)

_EARLY_GROUP: Final = 32
"""So many callers are a group before the others of their turn of the event loop are there: these
are done while those are worked out."""
_FULL_GROUPS: Final = 4
"""The weight of so many full groups may be on its way at once, in however many groups. Who is asked
joins what has come in meanwhile; what were kept back here would miss that and wait for the next."""
_PATIENCE: Final = 0.05
"""Of the deadline. When a group has been on its way for longer, no other follows it before it is
answered: who was not sent can still be answered without the store."""
_SWEEP_SECONDS: Final = 0.05
"""How often deadlines are looked at, at most; of short ones, twice in each."""


class GroupCallback(Protocol[_R_contra]):
    """Called with the outcome of a group."""

    def __call__(
        self, outcomes: Sequence[_R_contra] | Exception, seconds: float | None = None, /
    ) -> None:
        """The outcomes, or the error for which nothing is promised: `GroupOutcomeUnknown` when all
        the same it may have been done. `seconds` is how long it took, else it is the time until
        now."""
        ...


class InFlight(Protocol):
    """A group on its way."""

    def give_up(self) -> None:
        """Nobody waits for the outcomes any longer, nor is called back.

        What was not sent never will be.
        """
        ...


class GroupTransport(Protocol[C, _R_co]):
    """Takes groups of one event loop to where they are done; all is called on its thread."""

    def ask_all(self, commands: list[C], on_done: GroupCallback[_R_co], /) -> InFlight:
        """Send a group; `on_done` is never called before this returned.

        What is asked before another is answered may be on its way together with it.
        """
        ...

    def close(self) -> None:
        """Disconnect; on the event loop, or when that is closed."""
        ...


class GroupOwner(Protocol[_C_contra, _R_co]):
    """What all batchers of one service share: limits, breaker, fallback answers.

    See `thread_batcher.ThreadBatcher`, which is one.
    """

    @property
    def name(self) -> str: ...
    @property
    def limits(self) -> GroupLimits: ...
    @property
    def observer(self) -> GroupObserver | None: ...
    @property
    def breaker(self) -> CircuitBreaker: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def is_closing(self) -> bool: ...

    def all_without_store(self, commands: Sequence[_C_contra]) -> Sequence[_R_co]: ...
    def late(self, command: _C_contra) -> _R_co: ...
    def weight(self, command: _C_contra) -> int: ...


class _Flight(Generic[C, R]):
    """A group that was sent and is not answered."""

    __slots__ = ("asked", "began", "group", "is_late", "until", "weight")

    def __init__(
        self, group: list[tuple[C, asyncio.Future[R], float]], weight: int, until: float
    ) -> None:
        self.group = group
        self.weight = weight
        self.began = perf_counter()
        self.until = until
        """The time of the loop at which the answer is late."""
        self.is_late = False
        self.asked: InFlight | None = None


class AsyncBatcher(Generic[C, R]):
    """Commands of coroutines of one event loop, in groups of which several are on their way.

    A group is what a turn of the loop brings, or what arrived while as much as may be was on its
    way. A command whose deadline passes is answered `without_store` when it was not sent, which
    then never happens; else as `late`, since it may still be done.
    """

    def __init__(
        self,
        transport: GroupTransport[C, R],
        owner: GroupOwner[C, R],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop: Final = loop
        self._transport = transport
        self._owner = owner
        self._max_in_flight = _FULL_GROUPS * owner.limits.max_group
        self._until_impatient = (1 - _PATIENCE) * owner.limits.deadline_seconds
        self._queue: deque[tuple[C, asyncio.Future[R], float]] = deque()
        """Those whose group has not begun, each with the time of the loop at which it is no longer
        waited for, in order of arrival and so of that time."""
        self._flights: dict[_Flight[C, R], None] = {}
        self._in_flight = 0
        """The weight of what is on its way."""
        self._is_stuck = False
        """A group was given up, and none has been done since: one caller at a time tries for all,
        so that the others are not sent and can be answered without the store."""
        self.failure: Failure | None = None
        """Of the last group; None when it was done."""
        self._turn = turn_of(loop)
        self._in_turn = False
        """This turn's end is waited for."""
        self._deadline = 0.0
        """Of those who arrive in this turn."""
        self._sweep_seconds = min(_SWEEP_SECONDS, owner.limits.deadline_seconds / 2)
        self._sweeping = False

    @property
    def queue_depth(self) -> int:
        return len(self._queue)

    def execute(self, command: C) -> asyncio.Future[R]:
        """The outcome to come. Raises `ServiceUnavailable` when the queue is full, or when the
        owner is being closed."""
        queue = self._queue
        if len(queue) >= self._owner.limits.max_queue:
            raise queue_full()
        if not self._in_turn:
            self._begin_turn()
        future: asyncio.Future[R] = self.loop.create_future()
        queue.append((command, future, self._deadline))
        if len(queue) == _EARLY_GROUP:
            self._begin()
        return future

    def close(self) -> None:
        """Disconnect when what waits is done; on the event loop, or when that is closed."""
        if self.loop.is_closed():
            for _ in self._flights:  # one of them may be what the breaker waits for
                self._owner.breaker.failed(self._owner.clock.now())
            self._flights.clear()
            self._in_flight = 0
            self._queue.clear()
        if not (self._queue or self._flights):
            self._transport.close()

    def _begin_turn(self) -> None:
        if self._owner.is_closing:
            raise shutting_down()
        loop = self.loop
        self._in_turn = True
        self._deadline = loop.time() + self._owner.limits.deadline_seconds
        self._turn.at_end(self._end_turn)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self._sweep_seconds, self._sweep)

    def _end_turn(self) -> None:
        self._in_turn = False
        self._begin()

    def _begin(self) -> None:
        """Send groups of those who wait, as far as there may be more."""
        owner = self._owner
        while self._queue and self._in_flight < self._max_in_flight:
            breaker = owner.breaker
            if self._flights and (
                self._is_stuck
                or breaker.state is BreakerState.HALF_OPEN  # one tries for all
                or next(iter(self._flights)).until - self.loop.time() < self._until_impatient
            ):
                return
            group, size = self._next_group()
            if not group:
                return
            if breaker.allows(owner.clock.now()):
                self._send(group, size)
            else:
                self._answer_without_store(group)

    def _next_group(self) -> tuple[list[tuple[C, asyncio.Future[R], float]], int]:
        """Those who still wait, and their weight."""
        group: list[tuple[C, asyncio.Future[R], float]] = []
        size = 0
        queue, weight = self._queue, self._owner.weight
        max_group = 1 if self._is_stuck else self._owner.limits.max_group
        while queue and size < max_group:
            one = queue.popleft()
            if not one[1].done():
                group.append(one)
                size += weight(one[0])
        return group, size

    def _send(self, group: list[tuple[C, asyncio.Future[R], float]], size: int) -> None:
        flight = _Flight[C, R](group, size, self.loop.time() + self._owner.limits.deadline_seconds)
        self._flights[flight] = None
        self._in_flight += size
        try:
            flight.asked = self._transport.ask_all(
                [command for command, _, _ in group], partial(self._on_done, flight)
            )
        except Exception as error:
            # whatever it was: others are to be asked for after these
            log.exception("group_failed", commands=len(group))
            self.loop.call_soon(self._on_done, flight, error)

    def _on_done(
        self,
        flight: _Flight[C, R],
        outcomes: Sequence[R] | Exception,
        seconds: float | None = None,
    ) -> None:
        if self._flights.pop(flight, self) is self:
            return
        self._in_flight -= flight.weight
        flight.asked = None
        owner, group = self._owner, flight.group
        if isinstance(outcomes, Exception):
            self._failed(group, outcomes)
        else:
            self._is_stuck = False
            self.failure = None
            owner.breaker.succeeded(owner.clock.now())
            if owner.observer is not None:
                took = perf_counter() - flight.began if seconds is None else seconds
                owner.observer.group_committed(len(group), took)
            for (_, future, _), outcome in zip(group, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)  # who waits goes on after this
        self._begin()
        if owner.is_closing:
            self.close()

    def _failed(self, group: list[tuple[C, asyncio.Future[R], float]], error: Exception) -> None:
        owner = self._owner
        log.warning("group_not_done", loop=owner.name, commands=len(group), reason=str(error))
        self.failure = Failure(owner.clock.now(), type(error))
        owner.breaker.failed(self.failure.at)
        if owner.observer is not None:
            owner.observer.group_failed(len(group))
        if isinstance(error, GroupOutcomeUnknown):
            self._answer_late(group)
        else:
            self._answer_without_store(group)

    def _answer_without_store(self, group: list[tuple[C, asyncio.Future[R], float]]) -> None:
        waiting = [one for one in group if not one[1].done()]
        outcomes = self._owner.all_without_store([command for command, _, _ in waiting])
        for (_, future, _), outcome in zip(waiting, outcomes, strict=True):
            future.set_result(outcome)

    def _answer_late(self, group: Iterable[tuple[C, asyncio.Future[R], float]]) -> None:
        for command, future, _ in group:
            if not future.done():
                future.set_result(self._owner.late(command))

    def _sweep(self) -> None:
        """Answer those whose deadline passed."""
        now = self.loop.time()
        queue = self._queue
        # before groups that end make room for others
        due: list[tuple[C, asyncio.Future[R], float]] = []
        while queue and queue[0][2] <= now:
            due.append(queue.popleft())
        self._answer_without_store(due)
        for flight in list(self._flights):
            self._answer_late(takewhile(lambda one: one[2] <= now, flight.group))
            if flight.is_late:
                if flight.asked is not None:
                    flight.asked.give_up()
                self._is_stuck = True
                self._on_done(flight, GroupOutcomeUnknown("the answer is late"))
            # a loop that was held up may look at its timers before it reads what has come
            flight.is_late = flight.until <= now
        if queue or self._flights:
            self.loop.call_later(self._sweep_seconds, self._sweep)
        else:
            self._sweeping = False


__all__ = ["AsyncBatcher", "GroupCallback", "GroupOwner", "GroupTransport", "InFlight"]

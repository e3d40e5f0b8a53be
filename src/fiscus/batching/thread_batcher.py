"""Batching on a thread: it takes whatever arrived and has it done as one group.

A group is what arrived while the last one was done, up to a size, so an idle loop adds no wait and
a busy one shares each commit, or each round trip, among many. The ledger is such a loop over a
database, and checks of rate limits whose counters are in Redis are another.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from time import perf_counter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from fiscus.clock import Clock
from fiscus.errors import ServiceUnavailable
from fiscus.runtime.breaker import BreakerState, CircuitBreaker
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

C = TypeVar("C")
"""A command: one caller's work."""
R = TypeVar("R")
"""What becomes of a command."""

_YIELD_SECONDS: Final = 0.02
"""The longest the loop stands back for an event loop that it gave outcomes to."""


class GroupOutcomeUnknown(Exception):
    """It is not known whether a group was done: no answer came from where it was sent."""


class Failure(NamedTuple):
    """A group that was not done, or perhaps."""

    at: datetime
    kind: type[Exception]


class GroupLimits(NamedTuple):
    """How much is taken on at once, and for how long."""

    max_group: int = 512
    """The weight of commands that share a group."""
    max_queue: int = 20_000
    """Commands that may wait before new ones are refused."""
    deadline_seconds: float = 2.0
    """How long a caller waits."""


class Sink(Protocol):
    """Where outcomes go. `deliver` is called once per group, on the loop's thread."""

    def deliver(self, outcomes: list[tuple[Any, Any]]) -> bool:
        """Hand the outcomes on; whether the sink will `wake` the loop when that is done."""
        ...

    def is_waiting(self, token: Any) -> bool:
        """Whether anybody still waits for `token`; if not, its command is not begun."""
        ...


class FutureSink:
    """Outcomes to `concurrent.futures.Future`s, for callers in threads."""

    def deliver(self, outcomes: list[tuple[Future[Any], Any]]) -> bool:
        for future, outcome in outcomes:
            future.set_result(outcome)
        return False

    def is_waiting(self, token: Future[Any]) -> bool:
        return token.set_running_or_notify_cancel()


class GroupObserver(Protocol):
    """Observes groups, for metrics; called on the loop's thread."""

    def group_committed(self, size: int, seconds: float) -> None: ...

    def group_failed(self, size: int) -> None: ...


class ThreadBatcher(ABC, Generic[C, R]):
    """Commands of many callers, done in groups on a thread of its own.

    `run` does a group, and raises when nothing of it is promised, `GroupOutcomeUnknown` when it may
    have been done all the same; `breaker` then keeps the store from being asked for a while.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[C]], Sequence[R]],
        clock: Clock,
        breaker: CircuitBreaker,
        limits: GroupLimits,
        *,
        expected_failure: type[Exception],
    ) -> None:
        self.name: Final = name
        self.clock: Final = clock
        self.breaker: Final = breaker
        self.limits: Final = limits
        self.observer: GroupObserver | None = None
        self._run = run
        self._expected_failure = expected_failure
        self._queue: deque[tuple[C, Sink, Any]] = deque()
        self.failure: Failure | None = None
        """Of the last group; None when it was done."""
        self._arrived = threading.Semaphore(0)
        self._sleeping = False
        self._closing = False
        self._futures = FutureSink()
        self._thread = threading.Thread(target=self._work, name=f"fiscus-{name}", daemon=True)
        self._thread.start()

    # -- what a kind of loop says

    @abstractmethod
    def without_store(self, command: C) -> R:
        """The outcome of a command that was never begun."""

    def all_without_store(self, commands: Sequence[C]) -> Sequence[R]:
        """As `without_store`, for those who are answered at once."""
        return [self.without_store(command) for command in commands]

    @abstractmethod
    def late(self, command: C) -> R:
        """The outcome of a command that may or may not have been done in time."""

    @abstractmethod
    def weight(self, command: C) -> int:
        """How much of a group's size a command takes."""

    # -- for callers

    @property
    def queue_depth(self) -> int:
        return len(self._queue)

    @property
    def is_closing(self) -> bool:
        return self._closing

    @property
    def breaker_state(self) -> BreakerState:
        return self.breaker.state

    def submit(self, command: C, sink: Sink, token: Any) -> None:
        """Queue a command; its outcome goes to `sink` under `token`. `wake` must follow.

        Raises `ServiceUnavailable` when the queue is full or the loop is closing.
        """
        if self._closing:
            raise shutting_down()
        if len(self._queue) >= self.limits.max_queue:
            raise queue_full()
        self._queue.append((command, sink, token))

    def wake(self) -> None:
        """Begin on what is queued, if the loop is idle.

        A caller that queues many commands at a time wakes the loop after the last of them, so
        that they share a group and the two threads do not fight over the interpreter.
        """
        if self._sleeping:
            self._sleeping = False
            self._arrived.release()

    def execute(self, command: C) -> R:
        """Submit and wait for the outcome; for callers in threads.

        Gives `late` or `without_store` when it is not known within the deadline.
        """
        future: Future[R] = Future()
        self.submit(command, self._futures, future)
        self.wake()
        try:
            return future.result(timeout=self.limits.deadline_seconds)
        except TimeoutError:
            return self.without_store(command) if future.cancel() else self.late(command)

    def close(self) -> None:
        """Do what waits, then stop. Safe to call twice."""
        self._closing = True
        self._arrived.release()
        self._thread.join()

    # -- the loop's thread

    def _work(self) -> None:
        while True:
            group = self._take()
            if group:
                outcomes = self._outcomes([command for command, _, _ in group])
                # set before the outcomes are delivered, so that the wake that follows is not lost
                self._sleeping = True
                if self._answer(group, outcomes) and not self._closing:
                    self._arrived.acquire(timeout=_YIELD_SECONDS)
                self._sleeping = False
            elif self._closing and not self._queue:
                return
            else:
                self._sleep()

    def _sleep(self) -> None:
        self._sleeping = True
        # A command that arrived before the flag was set is seen here, one after it wakes us.
        if not self._queue and not self._closing:
            self._arrived.acquire(timeout=1.0)
        self._sleeping = False

    def _take(self) -> list[tuple[C, Sink, Any]]:
        group: list[tuple[C, Sink, Any]] = []
        size = 0
        queue = self._queue
        while queue and size < self.limits.max_group:
            item = queue.popleft()
            command, sink, token = item
            if sink.is_waiting(token):
                group.append(item)
                size += self.weight(command)
        return group

    def _outcomes(self, commands: list[C]) -> Sequence[R]:
        now = self.clock.now()
        is_unknown = False
        if self.breaker.allows(now):
            started = perf_counter()
            try:
                outcomes = self._run(commands)
            except Exception as error:
                # Whatever it was: nothing of the group is promised, and the thread must go on.
                name = self.name
                if isinstance(error, self._expected_failure | GroupOutcomeUnknown):
                    log.warning(
                        "store_unavailable", loop=name, commands=len(commands), reason=str(error)
                    )
                else:
                    log.exception("group_failed", loop=name, commands=len(commands))
                is_unknown = isinstance(error, GroupOutcomeUnknown)
                self.failure = Failure(self.clock.now(), type(error))
                self.breaker.failed(self.failure.at)
                if self.observer is not None:
                    self.observer.group_failed(len(commands))
            else:
                self.failure = None
                self.breaker.succeeded(now)
                if self.observer is not None:
                    self.observer.group_committed(len(commands), perf_counter() - started)
                return outcomes
        if is_unknown:
            return [self.late(command) for command in commands]
        return self.all_without_store(commands)

    def _answer(self, group: list[tuple[C, Sink, Any]], outcomes: Sequence[R]) -> bool:
        """Deliver a group's outcomes; whether a sink will wake the loop when it is done."""
        will_wake = False
        by_sink: dict[int, tuple[Sink, list[tuple[Any, R]]]] = {}
        for (_, sink, token), outcome in zip(group, outcomes, strict=True):
            entry = by_sink.get(id(sink))
            if entry is None:
                by_sink[id(sink)] = (sink, [(token, outcome)])
            else:
                entry[1].append((token, outcome))
        for sink, pairs in by_sink.values():
            try:
                will_wake = sink.deliver(pairs) or will_wake
            except Exception:
                # Whatever one sink's fault is, the others get theirs, and the thread goes on.
                log.exception("outcomes_not_delivered", count=len(pairs))
        return will_wake


def queue_full() -> ServiceUnavailable:
    """The error of a command that there is no place for."""
    return ServiceUnavailable(
        "Too many operations are waiting to be decided",
        suggested_action="Try again after the time in Retry-After.",
        retry_after_seconds=1,
    )


def shutting_down() -> ServiceUnavailable:
    """The error of a command that comes when nothing is begun any more."""
    return ServiceUnavailable("Fiscus is shutting down", retry_after_seconds=1)


__all__ = [
    "Failure",
    "FutureSink",
    "GroupLimits",
    "GroupObserver",
    "GroupOutcomeUnknown",
    "Sink",
    "ThreadBatcher",
    "queue_full",
    "shutting_down",
]

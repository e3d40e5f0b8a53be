"""The ledger: one thread that takes whatever commands arrived and commits them as one group.

A group is what arrived while the last one committed, up to a size, so an idle ledger adds no wait
and a busy one shares each commit among many. Nobody is answered before the commit returned.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from time import perf_counter
from typing import Any, Final, Protocol

import structlog

from fiscus.breaker import BreakerState, CircuitBreaker
from fiscus.clock import Clock
from fiscus.errors import FiscusError, ServiceUnavailable
from fiscus.ledger.commands import Command, Outcome, weight
from fiscus.ledger.degraded import DegradedDecisions
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.port import StoreUnavailable

log = structlog.get_logger(__name__)

_YIELD_SECONDS: Final = 0.02
"""The longest the ledger stands back for an event loop that it gave outcomes to."""


class Sink(Protocol):
    """Where outcomes go. `deliver` is called once per group, on the ledger's thread."""

    def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> bool:
        """Hand the outcomes on; whether the sink will `wake` the ledger when that is done."""
        ...

    def is_waiting(self, token: Any) -> bool:
        """Whether anybody still waits for `token`; if not, its command is not begun."""
        ...


class FutureSink:
    """Outcomes to `concurrent.futures.Future`s, for callers in threads."""

    def deliver(self, outcomes: list[tuple[Future[Outcome], Outcome]]) -> bool:
        for future, outcome in outcomes:
            future.set_result(outcome)
        return False

    def is_waiting(self, token: Future[Outcome]) -> bool:
        return token.set_running_or_notify_cancel()


class LedgerObserver(Protocol):
    """Told about groups, for metrics; called on the ledger's thread."""

    def group_committed(self, size: int, seconds: float) -> None: ...

    def group_failed(self, size: int) -> None: ...


class Ledger:
    """The one path of everything that moves money in this process.

    `deadline_seconds` is how long a caller waits; `max_queue` how many commands may wait before
    new ones are refused; `max_group` how many share a commit.
    """

    def __init__(
        self,
        runner: GroupRunner,
        clock: Clock,
        degraded: DegradedDecisions,
        *,
        max_group: int = 256,
        max_queue: int = 20_000,
        deadline_seconds: float = 2.0,
        observer: LedgerObserver | None = None,
    ) -> None:
        self.deadline_seconds: Final = deadline_seconds
        self._runner = runner
        self._clock = clock
        self._degraded = degraded
        self._max_group = max_group
        self._max_queue = max_queue
        self.observer: LedgerObserver | None = observer
        self._queue: deque[tuple[Command, Sink, Any]] = deque()
        self._arrived = threading.Semaphore(0)
        self._sleeping = False
        self._closing = False
        self._breaker = CircuitBreaker(failure_ratio=0.4, window_seconds=30)
        self._futures = FutureSink()
        self._thread = threading.Thread(target=self._work, name="fiscus-ledger", daemon=True)
        self._thread.start()

    @property
    def queue_depth(self) -> int:
        return len(self._queue)

    @property
    def is_closing(self) -> bool:
        return self._closing

    @property
    def breaker_state(self) -> BreakerState:
        return self._breaker.state

    def submit(self, command: Command, sink: Sink, token: Any) -> None:
        """Queue a command; its outcome goes to `sink` under `token`. `wake` must follow.

        Raises `ServiceUnavailable` when the queue is full or the ledger is closing.
        """
        if self._closing:
            raise ServiceUnavailable("Fiscus is shutting down", retry_after_seconds=1)
        if len(self._queue) >= self._max_queue:
            raise ServiceUnavailable(
                "Too many operations are waiting to be committed",
                suggested_action="Try again after the time in Retry-After.",
                retry_after_seconds=1,
            )
        self._queue.append((command, sink, token))

    def wake(self) -> None:
        """Begin on what is queued, if the ledger is idle.

        A caller that queues many commands at a time wakes the ledger after the last of them, so
        that they share a group and the two threads do not fight over the interpreter.
        """
        if self._sleeping:
            self._sleeping = False
            self._arrived.release()

    def execute(self, command: Command) -> Outcome:
        """Submit and wait for the outcome; for callers in threads.

        Gives `ServiceUnavailable` when it is not known within the deadline.
        """
        future: Future[Outcome] = Future()
        self.submit(command, self._futures, future)
        self.wake()
        try:
            return future.result(timeout=self.deadline_seconds)
        except TimeoutError:
            # One that was not begun never happens, so each budget's failure policy may answer.
            return self.without_store(command) if future.cancel() else late()

    def without_store(self, command: Command) -> Outcome:
        """What each budget's failure policy says to a command that was never begun."""
        return self._degraded.decide(command)

    def close(self) -> None:
        """Commit what waits, then stop. Safe to call twice."""
        self._closing = True
        self._arrived.release()
        self._thread.join()

    # -- the ledger's thread

    def _work(self) -> None:
        while True:
            group = self._take()
            if group:
                outcomes = self._decide([command for command, _, _ in group])
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

    def _take(self) -> list[tuple[Command, Sink, Any]]:
        group: list[tuple[Command, Sink, Any]] = []
        size = 0
        queue = self._queue
        while queue and size < self._max_group:
            item = queue.popleft()
            command, sink, token = item
            if sink.is_waiting(token):
                group.append(item)
                size += weight(command)
        return group

    def _decide(self, commands: list[Command]) -> Sequence[Outcome]:
        now = self._clock.now()
        if self._breaker.allows(now):
            started = perf_counter()
            try:
                outcomes = self._runner.run(commands)
            except Exception as error:
                # Whatever it was: nothing of the group is promised, and the thread must go on.
                if isinstance(error, StoreUnavailable):
                    log.warning("store_unavailable", commands=len(commands), reason=str(error))
                else:
                    log.exception("group_failed", commands=len(commands))
                self._breaker.failed(self._clock.now())
                if self.observer is not None:
                    self.observer.group_failed(len(commands))
            else:
                self._breaker.succeeded(now)
                if self.observer is not None:
                    self.observer.group_committed(len(commands), perf_counter() - started)
                return outcomes
        return [self._degraded.decide(command) for command in commands]

    def _answer(self, group: list[tuple[Command, Sink, Any]], outcomes: Sequence[Outcome]) -> bool:
        """Deliver a group's outcomes; whether a sink will wake the ledger when it is done."""
        will_wake = False
        by_sink: dict[int, tuple[Sink, list[tuple[Any, Outcome]]]] = {}
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
                # A caller's loop may be gone; that must not stop the ledger.
                log.exception("outcomes_not_delivered", count=len(pairs))
        return will_wake


def late() -> ServiceUnavailable:
    """The outcome is not known within the deadline; it may still be committed."""
    return ServiceUnavailable(
        "The decision was not durable within the deadline",
        suggested_action="Repeat the request with the same idempotency key.",
        retry_after_seconds=1,
    )


def value(outcome: Outcome) -> Any:
    """The answer, or the error raised."""
    if isinstance(outcome, FiscusError):
        raise outcome
    return outcome


__all__ = ["FutureSink", "Ledger", "LedgerObserver", "Sink", "late", "value"]

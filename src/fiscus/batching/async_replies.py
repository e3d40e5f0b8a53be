"""Outcomes of a `ThreadBatcher` for coroutines: one wake-up of the event loop per group."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import Final, Generic, TypeVar

from fiscus.batching.thread_batcher import ThreadBatcher

C = TypeVar("C")
R = TypeVar("R")

_SWEEP_SECONDS: Final = 0.05
"""How often deadlines are looked at, at most; of short ones, twice in each."""


class _Waiting(Generic[C, R]):
    """One coroutine's command: not begun, begun, or answered."""

    __slots__ = ("begun", "command", "deadline", "future", "overdue")

    def __init__(self, command: C, future: asyncio.Future[R], deadline: float) -> None:
        self.command = command
        self.future = future
        self.deadline = deadline
        self.begun = False
        self.overdue = False
        """Its deadline passed, and it is answered by whether it was begun."""


class AsyncReplies(Generic[C, R]):
    """Submits commands for coroutines of one event loop; a `thread_batcher.Sink`.

    A command whose deadline passes is answered `without_store` when it was not begun, which then
    never happens; else as `late`, since it may still be done.
    """

    def __init__(self, batcher: ThreadBatcher[C, R], loop: asyncio.AbstractEventLoop) -> None:
        self._batcher = batcher
        self._loop = loop
        self._waiting: dict[_Waiting[C, R], None] = {}
        """Those not answered yet, in order of arrival and so of their deadlines."""
        self._sweep_seconds = min(_SWEEP_SECONDS, batcher.limits.deadline_seconds / 2)
        self._sweeping = False
        self._waking = False

    def execute(self, command: C) -> asyncio.Future[R]:
        """The outcome to come. Raises `ServiceUnavailable` when the queue is full."""
        waiting: _Waiting[C, R] = _Waiting(  # `_Waiting[C, R](` takes a microsecond
            command,
            self._loop.create_future(),
            self._loop.time() + self._batcher.limits.deadline_seconds,
        )
        self._batcher.submit(command, self, waiting)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)
        self._waiting[waiting] = None
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self._sweep_seconds, self._sweep)
        return waiting.future

    def deliver(self, outcomes: list[tuple[_Waiting[C, R], R]]) -> bool:
        """Wake the loop once for all of a group; the batcher stands back until then."""
        try:
            self._loop.call_soon_threadsafe(self._resolve, outcomes)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            return False  # the server has stopped, and nobody waits any more
        return True

    def is_waiting(self, token: _Waiting[C, R]) -> bool:
        # said before it is asked, as `_sweep` does: of two threads at least one sees the other, and
        # nothing is done that was answered as never begun
        token.begun = True
        return not (token.overdue or token.future.done())

    def _resolve(self, outcomes: list[tuple[_Waiting[C, R], R]]) -> None:
        for waiting, outcome in outcomes:
            self._answer(waiting, outcome)
        # The coroutines answer first, then the loop looks for new requests, then wakes the other.
        self._loop.call_soon(self._loop.call_soon, self._batcher.wake)

    def _wake(self) -> None:
        """Wake the batcher once the requests that had arrived are read: no wait, one group."""
        self._waking = False
        self._batcher.wake()

    def _sweep(self) -> None:
        """Answer those whose deadline passed."""
        now = self._loop.time()
        batcher = self._batcher
        never_begun: list[_Waiting[C, R]] = []
        for waiting in list(takewhile(lambda one: one.deadline <= now, self._waiting)):
            waiting.overdue = True
            if waiting.begun or waiting.future.done():  # cancelled: told to nobody
                self._answer(waiting, batcher.late(waiting.command))
            else:
                never_begun.append(waiting)
        outcomes = batcher.all_without_store([one.command for one in never_begun])
        for waiting, outcome in zip(never_begun, outcomes, strict=True):
            self._answer(waiting, outcome)
        if self._waiting:
            self._loop.call_later(self._sweep_seconds, self._sweep)
        else:
            self._sweeping = False

    def _answer(self, waiting: _Waiting[C, R], outcome: R) -> None:
        self._waiting.pop(waiting, None)
        if not waiting.future.done():
            waiting.future.set_result(outcome)

"""Outcomes of the ledger for coroutines: one wake-up of the event loop per group."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import Final

from fiscus.ledger.commands import Command, Outcome
from fiscus.ledger.loop import Ledger, late

_SWEEP_SECONDS: Final = 0.05


class _Waiting:
    """One coroutine's command: not begun, begun, or answered."""

    __slots__ = ("begun", "command", "deadline", "future")

    def __init__(self, command: Command, future: asyncio.Future[Outcome], deadline: float) -> None:
        self.command = command
        self.future = future
        self.deadline = deadline
        self.begun = False


class LoopReplies:
    """Submits commands for coroutines of one event loop; a `ledger.loop.Sink`.

    A command whose deadline passes is answered by each budget's failure policy when the ledger had
    not begun it, which then never happens; else as unavailable, since it may still be committed.
    """

    def __init__(self, ledger: Ledger, loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = ledger
        self._loop = loop
        self._waiting: dict[_Waiting, None] = {}
        """Those not answered yet, in order of arrival and so of their deadlines."""
        self._sweeping = False
        self._waking = False

    def execute(self, command: Command) -> asyncio.Future[Outcome]:
        """The outcome to come. Raises `ServiceUnavailable` when the queue is full."""
        waiting = _Waiting(
            command, self._loop.create_future(), self._loop.time() + self._ledger.deadline_seconds
        )
        self._ledger.submit(command, self, waiting)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)
        self._waiting[waiting] = None
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        return waiting.future

    def deliver(self, outcomes: list[tuple[_Waiting, Outcome]]) -> bool:
        """Wake the loop once for all of a group; the ledger stands back until it was answered."""
        self._loop.call_soon_threadsafe(self._resolve, outcomes)
        return True

    def is_waiting(self, token: _Waiting) -> bool:
        if token.future.done():
            return False
        token.begun = True
        return True

    def _resolve(self, outcomes: list[tuple[_Waiting, Outcome]]) -> None:
        for waiting, outcome in outcomes:
            self._answer(waiting, outcome)
        # The coroutines answer first, then the loop looks for new requests, then wakes the ledger.
        self._loop.call_soon(self._loop.call_soon, self._ledger.wake)

    def _wake(self) -> None:
        """Wake the ledger once the requests that had arrived are read: no wait, one group."""
        self._waking = False
        self._ledger.wake()

    def _sweep(self) -> None:
        """Answer those whose deadline passed."""
        now = self._loop.time()
        for waiting in list(takewhile(lambda one: one.deadline <= now, self._waiting)):
            outcome = late() if waiting.begun else self._ledger.without_store(waiting.command)
            self._answer(waiting, outcome)
        if self._waiting:
            self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        else:
            self._sweeping = False

    def _answer(self, waiting: _Waiting, outcome: Outcome) -> None:
        self._waiting.pop(waiting, None)
        if not waiting.future.done():
            waiting.future.set_result(outcome)

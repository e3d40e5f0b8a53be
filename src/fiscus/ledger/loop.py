"""The ledger: the one path of everything that moves money in this process.

Commands are committed in groups; nobody is answered before the commit returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

from fiscus.batching.async_replies import AsyncReplies
from fiscus.batching.thread_batcher import Failure, GroupLimits, ThreadBatcher
from fiscus.clock import Clock
from fiscus.errors import UNKNOWN_OUTCOME, FiscusError, ServiceUnavailable
from fiscus.ledger.commands import Command, Outcome, weight
from fiscus.ledger.degraded import DegradedDecisions
from fiscus.ledger.port import StoreFull, StoreUnavailable
from fiscus.runtime.breaker import BreakerState, CircuitBreaker
from fiscus.runtime.cache_stats import CacheStats

_LATELY: Final = timedelta(minutes=1)


class AsyncLedger(Protocol):
    """The ledger for the coroutines of one event loop."""

    def execute(self, command: Command) -> asyncio.Future[Any]:
        """An `Outcome` to come, or what has yet to be put through `to_answer`, or an
        `EncodedAnswer`: JSON already.

        Raises `ServiceUnavailable` when the queue is full or the ledger is closing.
        """
        ...


class Ledger(ThreadBatcher[Command, Outcome]):
    """The loop over the database.

    `run` does a group: `group.GroupRunner.run`, or what sends to a process that has one. `lookups`
    counts how often a group looked for its tenants' definitions.
    """

    def __init__(
        self,
        run: Callable[[list[Command]], Sequence[Outcome]],
        clock: Clock,
        degraded: DegradedDecisions,
        limits: GroupLimits,
        lookups: CacheStats,
    ) -> None:
        self.lookups: Final = lookups
        self._degraded = degraded
        super().__init__(
            "ledger",
            run,
            clock,
            CircuitBreaker(failure_ratio=0.4, window_seconds=30),
            limits,
            expected_failure=StoreUnavailable,
        )

    def for_running_loop(self) -> AsyncLedger:
        """For coroutines of the running event loop, each of which calls this once and keeps it."""
        return AsyncReplies(self, asyncio.get_running_loop())

    def wait_until_ready(self) -> None:
        """Return once groups can be done."""

    @property
    def trouble(self) -> str | None:
        """Why commands are not done now, for people; None when they are."""
        if self._is_full:
            return "commands fail: the database's disk is full; make room on it"
        if self.breaker_state is not BreakerState.CLOSED:
            return "commands fail; the breaker is open"
        return "the last operations were not durable in time" if self._failed_lately else None

    @property
    def _is_full(self) -> bool:
        """Whether lately there was no room for what groups write."""
        return StoreFull in self._failed_lately

    @property
    def _failed_lately(self) -> Sequence[type[Exception]]:
        now = self.clock.now()
        return [one.kind for one in self._failures if one and abs(now - one.at) < _LATELY]

    @property
    def _failures(self) -> Sequence[Failure | None]:
        """Of the last group, of each way that groups come."""
        return [self.failure]

    def without_store(self, command: Command) -> Outcome:
        """What each budget's failure policy says to a command that was never begun."""
        return self._degraded.decide(command, is_full=self._is_full)

    def all_without_store(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        return self._degraded.decide_all(commands, is_full=self._is_full)

    def late(self, command: Command) -> Outcome:
        """It may still be committed, so no policy can answer for it."""
        return ServiceUnavailable(
            "The decision was not durable within the deadline",
            details={**UNKNOWN_OUTCOME},
            suggested_action="Repeat the request with the same idempotency key.",
            retry_after_seconds=1,
        )

    def weight(self, command: Command) -> int:
        return weight(command)


def answer_or_raise(outcome: Outcome) -> Any:
    """The answer, or the error raised."""
    if isinstance(outcome, FiscusError):
        raise outcome
    return outcome


__all__ = ["AsyncLedger", "Ledger", "answer_or_raise"]

"""The ledger: the one path of everything that moves money in this process.

Commands are committed in groups; nobody is answered before the commit returned.
"""

from __future__ import annotations

from typing import Any

from fiscus.breaker import CircuitBreaker
from fiscus.clock import Clock
from fiscus.errors import FiscusError, ServiceUnavailable
from fiscus.groups import GroupLoop
from fiscus.ledger.commands import Command, Outcome, weight
from fiscus.ledger.degraded import DegradedDecisions
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.port import StoreUnavailable


class Ledger(GroupLoop[Command, Outcome]):
    """The loop over the database. See `groups.GroupLoop` for the limits."""

    def __init__(
        self,
        runner: GroupRunner,
        clock: Clock,
        degraded: DegradedDecisions,
        *,
        max_group: int = 256,
        max_queue: int = 20_000,
        deadline_seconds: float = 2.0,
    ) -> None:
        self._degraded = degraded
        super().__init__(
            "ledger",
            runner.run,
            clock,
            CircuitBreaker(failure_ratio=0.4, window_seconds=30),
            expected_failure=StoreUnavailable,
            max_group=max_group,
            max_queue=max_queue,
            deadline_seconds=deadline_seconds,
        )

    def without_store(self, command: Command) -> Outcome:
        """What each budget's failure policy says to a command that was never begun."""
        return self._degraded.decide(command)

    def late(self, command: Command) -> Outcome:
        """It may still be committed, so no policy can answer for it."""
        return ServiceUnavailable(
            "The decision was not durable within the deadline",
            suggested_action="Repeat the request with the same idempotency key.",
            retry_after_seconds=1,
        )

    def weight(self, command: Command) -> int:
        return weight(command)


def value(outcome: Outcome) -> Any:
    """The answer, or the error raised."""
    if isinstance(outcome, FiscusError):
        raise outcome
    return outcome


__all__ = ["Ledger", "value"]

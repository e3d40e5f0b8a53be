"""What the limiter needs of a store of counters. Policies have their port in `policy_port`."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from fiscus.ratelimits.rules import Rule, Verdict

if TYPE_CHECKING:  # limits in a process alone do without it
    from fiscus.batching.async_batcher import InFlight


class CountersUnavailable(Exception):
    """The store of the counters cannot answer in time.

    `nothing_done`: surely nothing was done; else nothing is known of what was.
    """

    def __init__(self, message: str, *, nothing_done: bool = False) -> None:
        super().__init__(message)
        self.nothing_done = nothing_done


class Take(Struct, frozen=True, gc=False):
    """One request for counters of one tenant, decided by all of its rules or by none."""

    tenant_id: str
    keys: tuple[str, ...]
    """The counters, one per rule: names that no other tenant uses, nor another algorithm."""
    rules: tuple[Rule, ...]
    count: int
    """Requests to take; 0 only looks."""
    priority: int
    """An index of `priorities.PRIORITIES`."""
    gated: bool = False
    """Only decided when the take before it, of the same tenant, was admitted."""
    asks: tuple[tuple[int, int], ...] = ()
    """Count and priority for each counter, where they differ; they replace the ones above."""


class Taken(Struct, frozen=True, gc=False):
    """What became of a take."""

    admitted: bool
    verdicts: list[Verdict]
    """One per rule; their `state` is only filled in by stores in this process."""


class LoopCounters(Protocol):
    """Remote counters for the coroutines of one event loop, on whose thread all happens."""

    def ask_all(
        self, takes: Sequence[Take], on_done: Callable[[list[Taken | None] | Exception], None]
    ) -> InFlight:
        """As `CounterStore.decide_all` by the store's own clock, without waiting.

        `on_done` is given the outcome or `CountersUnavailable`, after this returned. What is asked
        before another is answered may be on its way together with it.
        """
        ...

    def close(self) -> None:
        """Disconnect; on the event loop, or when that is closed."""
        ...


class CounterStore(Protocol):
    """Counters of keys. Each take is one atomic step; they are decided in order."""

    immediate: bool
    """Whether it decides in microseconds, in this process, and is never unavailable."""

    def decide_all(self, takes: Sequence[Take], now_us: int | None) -> list[Taken | None]:
        """Decide every take; None for a gated one that was not reached.

        `now_us` is microseconds since the Unix epoch; None: the store's own clock. Raises
        `CountersUnavailable`.
        """
        ...

    def on_loop(self, loop: AbstractEventLoop) -> LoopCounters | None:
        """The same counters, asked on an event loop; None when they are `immediate`."""
        ...

    def adjust(self, take: Take, now_us: int | None) -> list[Verdict]:
        """Correct a charge by the take's counts, which may be negative, in one atomic step.

        Never below zero use, and never refused. What a look at each counter says afterwards. Raises
        `CountersUnavailable`.
        """
        ...

    def forget(self, tenant_id: str, keys: Sequence[str]) -> None:
        """Make counters unused. Raises `CountersUnavailable`."""
        ...

    def sweep(self, now_us: int) -> int:
        """Forget counters that are unused, where that is not done by itself; how many."""
        ...

    def ping_ms(self) -> float:
        """Milliseconds of a trivial call. Raises `CountersUnavailable`."""
        ...

    def close(self) -> None: ...

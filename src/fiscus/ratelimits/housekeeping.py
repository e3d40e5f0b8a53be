"""What a limiter does beside its checks: policies refreshed, counters swept, usage written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from fiscus.clock import Clock, to_us
from fiscus.errors import FiscusError
from fiscus.ratelimits.policies import PolicyCache
from fiscus.ratelimits.usage_writer import UsageWriter
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

_REFRESH_SECONDS: Final = 1.0
_SWEEP_EVERY: Final = 10
"""Refreshes between two sweeps."""
_FLUSH_SECONDS: Final = 60.0
"""Between two writes of what was counted: usage is kept by the minute."""
_FLUSH_PAUSE_SECONDS: Final = 0.05


class Sweepable(Protocol):
    """Counters that can forget those that are unused."""

    def sweep(self, now_us: int) -> object: ...


class Housekeeping:
    """The background work of a limiter, in threads of its own from `start` to `stop`."""

    def __init__(
        self,
        policies: PolicyCache,
        counters: Sequence[Sweepable],
        usage: UsageWriter | None,
        clock: Clock,
    ) -> None:
        self.is_alone = True
        """False when others on the same data may count beside these counters in process."""
        self._policies = policies
        self._counters = counters
        self._usage = usage
        self._clock = clock
        self._claim: Callable[[], bool] | None = None
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        if not self._threads:
            # usage of many callers takes longer to write than a changed policy may take to bind
            for work in (self._keep_house, self._write_usage):
                thread = threading.Thread(target=work, name="fiscus-limiter", daemon=True)
                thread.start()
                self._threads.append(thread)

    def keep_alone(self, claim: Callable[[], bool]) -> None:
        """Ask again and again whether only this process counts: what it was told by may be lost
        with a connection."""
        self._claim = claim

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _keep_house(self) -> None:
        rounds = 0
        while not self._stop.wait(_REFRESH_SECONDS):
            rounds += 1
            _attempt("refresh", lambda: self._policies.refresh(self._clock.now()))
            _attempt("claim", self._claim_again)
            if rounds % _SWEEP_EVERY == 0:
                _attempt("sweep", self._sweep)

    def _sweep(self) -> None:
        now_us = to_us(self._clock.now())
        for counters in self._counters:
            counters.sweep(now_us)

    def _write_usage(self) -> None:
        usage = self._usage
        if usage is None:
            return
        while not self._stop.wait(_FLUSH_SECONDS):
            _attempt("flush", lambda: usage.flush(pause=self._pause))

    def _pause(self) -> None:
        self._stop.wait(_FLUSH_PAUSE_SECONDS)

    def _claim_again(self) -> None:
        is_alone = self._claim is None or self._claim()
        if self.is_alone and not is_alone:
            log.warning("counters_not_claimed")
        elif is_alone and not self.is_alone:
            log.info("counters_claimed")
        self.is_alone = is_alone


def _attempt(job: str, do: Callable[[], object]) -> None:
    """Do a part of the housekeeping; that one fails keeps no other from being done."""
    try:
        do()
    except FiscusError as error:
        log.warning("limiter_housekeeping_failed", job=job, reason=error.message)
    except Exception:
        log.exception("limiter_housekeeping_failed", job=job)

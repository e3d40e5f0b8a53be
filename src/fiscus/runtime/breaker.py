"""A circuit breaker: stop asking a store that keeps failing, and try again after a pause."""

from __future__ import annotations

import threading
from collections import deque
from datetime import datetime, timedelta
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens when `failure_ratio` of the calls of the last `window_seconds` failed.

    At least `minimum_calls` are needed to open it. After `pause_seconds` calls are let through:
    the first to end closes the breaker by its success or opens it for another pause by its failure.
    Who has several at once lets one try for all while it is `HALF_OPEN`. Thread-safe.

    The clock may be set back: how long ago something was is how far away it is, on either side. So
    a jump makes a pause or the window twice as long at most, however far it goes.
    """

    def __init__(
        self,
        *,
        failure_ratio: float,
        window_seconds: float,
        minimum_calls: int = 5,
        pause_seconds: float = 1.0,
    ) -> None:
        self._failure_ratio = failure_ratio
        self._window = timedelta(seconds=window_seconds)
        self._minimum_calls = minimum_calls
        self._pause = timedelta(seconds=pause_seconds)
        self._calls: deque[tuple[datetime, bool]] = deque()
        self._failures = 0
        self._opened_at: datetime | None = None
        self._trying = False
        self._lock = threading.Lock()

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._trying else BreakerState.OPEN

    def allows(self, now: datetime) -> bool:
        """Whether a call may be made; at a pause's end, to try."""
        with self._lock:
            if self._opened_at is None:
                return True
            if abs(now - self._opened_at) >= self._pause:
                self._trying = True
                return True
            return False

    def succeeded(self, now: datetime) -> None:
        with self._lock:
            if self._opened_at is not None:
                self._opened_at = None
                self._trying = False
                self._calls.clear()
                self._failures = 0
            self._note(now, failed=False)

    def failed(self, now: datetime) -> None:
        with self._lock:
            self._note(now, failed=True)
            if self._opened_at is not None or (
                len(self._calls) >= self._minimum_calls
                and self._failures >= self._failure_ratio * len(self._calls)
            ):
                self._opened_at = now
                self._trying = False

    def _note(self, now: datetime, *, failed: bool) -> None:
        calls = self._calls
        calls.append((now, failed))
        self._failures += failed
        while calls and (abs(now - calls[0][0]) > self._window or len(calls) > 10_000):
            self._failures -= calls.popleft()[1]

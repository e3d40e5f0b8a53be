"""When a call is tried again, and after how long: growing pauses with jitter, within bounds."""

from __future__ import annotations

from random import SystemRandom
from typing import Final, NamedTuple

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
MAX_DOUBLINGS: Final = 6
"""After as many the longest pause is reached."""
RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
NOTHING_DONE_STATUSES: Final = frozenset({429, 503})
"""Answers that say that the call had no effect, unless it is not `retriable`."""

_random: Final = SystemRandom()


class RetryPolicy(NamedTuple):
    """How long one try may take, how many follow the first, and how long they may take in all."""

    timeout_seconds: float
    max_retries: int
    total_seconds: float


class Attempts:
    """The tries of one call; times are seconds of a monotonic clock."""

    def __init__(self, policy: RetryPolicy, started: float) -> None:
        self._policy = policy
        self._ends = started + policy.total_seconds
        self._failed = 0

    def timeout_seconds(self, now: float) -> float:
        """How long the next try may take."""
        return max(0.001, min(self._policy.timeout_seconds, self._ends - now))

    def pause_seconds(self, now: float, retry_after_seconds: float | None) -> float | None:
        """How long to wait before trying again after a failure; None: give up.

        Never shorter than the server asked for; when that is too long, there is no other try.
        """
        self._failed += 1
        if self._failed > self._policy.max_retries:
            return None
        doubled = min(self._failed - 1, MAX_DOUBLINGS)
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**doubled)
        # jitter, so that callers that failed together do not come back together
        pause = longest * _random.uniform(0.5, 1.0)
        if retry_after_seconds is not None:
            pause += retry_after_seconds
        return pause if now + pause < self._ends else None

"""What became of a hit, worked out as far as it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

from fiscus.clock import from_us
from fiscus.errors import RateLimitViolated
from fiscus.ratelimits.headers import PolicyStatus, limit_lines, policy_told, whole_seconds
from fiscus.ratelimits.rules import Verdict, deciding
from fiscus.wire.headers import headers_of


class LimitInfo(NamedTuple):
    """A limit as those see it whom it holds for."""

    name: str
    limit: int
    window_seconds: int


class LimitResult(Struct, frozen=True, gc=False):
    """The decision on a hit, and how things stand after it. True when the hit is allowed.

    With several limits, the one that decides is the one that denies with the longest wait, else
    the one with the least left. Where no limit applies, as may be on a server, what is said of one
    is None.
    """

    allowed: bool
    verdicts: Sequence[Verdict]
    """What each limit says, in the order of `limits`."""
    limits: tuple[LimitInfo, ...]
    now_us: int
    """When it was decided, in microseconds since the epoch."""
    degraded: bool = False
    """Decided without the counters, which could not be reached."""

    def __bool__(self) -> bool:
        return self.allowed

    def __repr__(self) -> str:
        return (
            f"LimitResult(allowed={self.allowed}, remaining={self.remaining}, name={self.name!r}, "
            f"retry_after_seconds={self.retry_after_seconds}, degraded={self.degraded})"
        )

    @property
    def remaining(self) -> int | None:
        """How many hits would pass now: the least over all limits."""
        return self.verdicts[self._least()].remaining if self.verdicts else None

    @property
    def name(self) -> str | None:
        """The limit that decides, such as `100/minute`."""
        return self.limits[self._deciding()].name if self.limits else None

    @property
    def limit(self) -> int | None:
        """Hits per window of the limit that decides, without burst."""
        return self.limits[self._deciding()].limit if self.limits else None

    @property
    def retry_after_seconds(self) -> int | None:
        """Until this same hit would be allowed if nobody else came, rounded up; None: never."""
        wait_us = self._wait_us()
        return None if wait_us is None else whole_seconds(wait_us)

    @property
    def retry_after_ms(self) -> int | None:
        """As `retry_after_seconds`, finer."""
        wait_us = self._wait_us()
        return None if wait_us is None else -(-wait_us // 1000)

    @property
    def reset_time(self) -> datetime | None:
        """When the limit that decides would be unused again."""
        return from_us(self.verdicts[self._deciding()].reset_us) if self.verdicts else None

    @property
    def reset_after_seconds(self) -> int | None:
        """From the decision until `reset_time`, rounded up."""
        if not self.verdicts:
            return None
        return max(0, whole_seconds(self.verdicts[self._deciding()].reset_us - self.now_us))

    @property
    def delay_ms(self) -> int:
        """Leaky bucket: wait so long before going on, to go at its rate; else 0."""
        if not self.allowed:
            return 0
        return max((one.delay_ms for one in self.verdicts), default=0)

    @property
    def message(self) -> str:
        """The decision in words."""
        if self.allowed:
            return "Allowed"
        if not self.limits:
            return f"Denied: the limits are not known, try again in {self.retry_after_seconds} s"
        if self.retry_after_seconds is None:
            return f"Denied by {self.name}: more at once than can ever pass"
        return (
            f"Denied by {self.name}: {self.remaining} left, "
            f"try again in {self.retry_after_seconds} s"
        )

    def headers(self) -> list[tuple[str, str]]:
        """The header fields for an HTTP answer, see `ratelimits.headers`."""
        if not self.limits:
            return [] if self.allowed else [("Retry-After", str(self.retry_after_seconds))]
        first = self._deciding()
        order = [first, *(index for index in range(len(self.limits)) if index != first)]
        lines = limit_lines(
            [self._status(index) for index in order],
            self.remaining or 0,
            whole_seconds(self.verdicts[first].reset_us),
            None if self.allowed else self.retry_after_seconds,
        )
        return headers_of(lines)

    def violation(self) -> RateLimitViolated:
        """This denial as an error, whose `answer` is this."""
        never = self.retry_after_seconds is None
        error = RateLimitViolated(
            self.message,
            answer=self,
            details={
                "limit": self.name,
                "limit_value": self.limit,
                "remaining_requests": self.remaining,
                "retry_after": self.retry_after_seconds,
            },
            suggested_action="Ask for less at once." if never else "Try again later.",
            retry_after_seconds=self.retry_after_seconds,
        )
        error.retriable = not never
        return error

    def _deciding(self) -> int:
        """The index of the limit that decides; of equals, the first."""
        return self._least() if self.allowed else deciding(self.verdicts)

    def _least(self) -> int:
        """The index of the limit with the least left; of equals, the first."""
        verdicts = self.verdicts
        least = 0
        if len(verdicts) > 1:
            left = verdicts[0].remaining
            for index, verdict in enumerate(verdicts):
                if verdict.remaining < left:
                    least, left = index, verdict.remaining
        return least

    def _wait_us(self) -> int | None:
        return 0 if self.allowed else self.verdicts[self._deciding()].wait_us

    def _status(self, index: int) -> PolicyStatus:
        verdict, info = self.verdicts[index], self.limits[index]
        return policy_told(
            info.name,
            info.limit,
            info.window_seconds,
            verdict.remaining,
            verdict.wait_us and whole_seconds(verdict.wait_us),
            verdict.reset_us,
            self.now_us,
        )


__all__ = ["LimitInfo", "LimitResult"]

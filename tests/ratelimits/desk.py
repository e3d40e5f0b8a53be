"""A limiter to ask, and what it is asked."""

from __future__ import annotations

from typing import Any

from fiscus.clock import ManualClock
from fiscus.errors import ServiceUnavailable
from fiscus.priorities import Priority
from fiscus.ratelimits.calls import (
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
)
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.model import PolicyState
from fiscus.ratelimits.policy_port import UsageRow
from fiscus.wire.converting import convert
from fiscus.wiring.counters import open_counters
from tests.ratelimits.policies import NOON, TENANT, Policies


class Desk:
    """A limiter over counters in process, and a clock."""

    def __init__(self, *states: PolicyState, usage: Any = None) -> None:
        self.clock = ManualClock(NOON)
        self.policies = Policies(*states)
        self.limiter = Limiter(self.policies, open_counters(None), self.clock, usage=usage)

    def check(
        self, count: int = 1, *, highest: Priority = Priority.NORMAL, **fields: Any
    ) -> RateLimitCheckAnswer:
        return self.limiter.check(
            request(count, **fields), TENANT, self.clock.now(), priority=highest
        )

    def left(self, **fields: Any) -> int | None:
        return self.check(0, **fields).remaining_requests

    def refresh(self) -> None:
        """What the limiter does each second."""
        self.limiter._cache.refresh(self.clock.now())


def request(count: int = 1, **fields: Any) -> RateLimitCheckRequest:
    body = {"resource_type": "api", "request_count": count, **fields}
    return convert(body, RateLimitCheckRequest)


class Usage:
    """A `UsageStore` that keeps rows, or cannot be reached."""

    def __init__(self) -> None:
        self.rows: list[UsageRow] = []
        self.unreachable = False

    def add(self, rows: list[UsageRow]) -> None:
        if self.unreachable:
            raise ServiceUnavailable("The store cannot be reached")
        self.rows += rows

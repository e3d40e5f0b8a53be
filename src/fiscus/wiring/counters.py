"""Opens the store of counters that settings name; loads nothing that it does not use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fiscus.ratelimits.port import CounterStore
from fiscus.ratelimits.rules import Rule

if TYPE_CHECKING:
    from fiscus.stores.counters.joint import JointCounters


def open_counters(redis_url: str | None, *, timeout_seconds: float = 0.01) -> CounterStore:
    """Counters in Redis or Valkey at `redis_url`, or in this process when it is None.

    Raises `ValidationError` for a URL that names no such server; does not connect yet.
    """
    if redis_url is None:
        from fiscus.stores.counters.memory import MemoryCounters

        return MemoryCounters()
    from fiscus.stores.counters.redis import RedisCounters

    return RedisCounters(redis_url, timeout_seconds=timeout_seconds)


def joint_counters(rules: Sequence[Rule]) -> JointCounters:
    """Counters in this process for keys that are always decided by `rules`."""
    from fiscus.stores.counters.joint import JointCounters

    return JointCounters(rules)


__all__ = ["joint_counters", "open_counters"]

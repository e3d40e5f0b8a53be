"""Opens the store of counters that settings name; loads nothing that it does not use."""

from __future__ import annotations

from fiscus.ratelimits.port import CounterStore


def open_counters(redis_url: str | None, *, timeout_seconds: float = 0.01) -> CounterStore:
    """Counters in Redis or Valkey at `redis_url`, or in this process when it is None.

    Raises `ValidationError` for a URL that names no such server; does not connect yet.
    """
    if redis_url is None:
        from fiscus.stores.counters.memory import MemoryCounters

        return MemoryCounters()
    from fiscus.stores.counters.redis import RedisCounters

    return RedisCounters(redis_url, timeout_seconds=timeout_seconds)


__all__ = ["open_counters"]

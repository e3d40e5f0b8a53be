"""Fiscus and two packages that many use, each asked the same in its own words.

A hit answers whether it is allowed, what remains, when the limit is whole again, and, where the
package knows it, how long to wait. `limits` says so in two calls. All of it is read each time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import limits as limits_package
import limits.aio as limits_aio
import throttled as throttled_package
import throttled.asyncio as throttled_aio
from limits.aio.storage import RedisStorage
from limits.storage import MemoryStorage

from fiscus.limits import limit

Ask = Callable[[str], object]
"""One hit of a key, with all that is to be known of it."""
AskAsync = Callable[[str], Awaitable[object]]

_MANY: dict[str, Any] = {"MAX_SIZE": 1_000_000}
"""throttled-py's store in memory otherwise forgets all but 1 024 keys."""


# ---------------------------------------------------------------- in process


def fiscus(text: str) -> Ask:
    hit = limit(text).hit

    def ask(key: str) -> object:
        result = hit(key)
        return (
            result.allowed,
            result.remaining,
            result.reset_after_seconds,
            result.retry_after_seconds,
        )

    return ask


def fiscus_hit(text: str) -> Ask:
    """Nothing but whether it is allowed is read."""
    return limit(text).hit


def limits(strategy: str, texts: Sequence[str]) -> Ask:
    """Each of the limits in turn; together, when all allow, and as the one with the least left."""
    limiter, items = _limits(strategy, texts)
    if len(items) == 1:
        (item,) = items

        def ask(key: str) -> object:
            allowed = limiter.hit(item, key)
            stats = limiter.get_window_stats(item, key)
            return allowed, stats.remaining, stats.reset_time

        return ask

    def ask_all(key: str) -> object:
        allowed = True
        found: list[tuple[int, float]] = []
        for item in items:
            allowed = limiter.hit(item, key) and allowed
            stats = limiter.get_window_stats(item, key)
            found.append((stats.remaining, stats.reset_time))
        return allowed, min(found)

    return ask_all


def limits_hit(strategy: str, text: str) -> Ask:
    """Nothing but whether it is allowed is asked."""
    limiter, (item,) = _limits(strategy, [text])
    return lambda key: limiter.hit(item, key)


def throttled(algorithm: str, texts: Sequence[str]) -> Ask:
    """As `limits`."""
    store = throttled_package.MemoryStore(options=_MANY)
    all_of_them = [
        throttled_package.Throttled(using=algorithm, quota=text, store=store, key_prefix=f"n{n}")
        for n, text in enumerate(texts)
    ]
    if len(all_of_them) == 1:
        hit = all_of_them[0].limit

        def ask(key: str) -> object:
            result = hit(key)
            state = result.state
            return result.limited, state.remaining, state.reset_after, state.retry_after

        return ask

    def ask_all(key: str) -> object:
        limited = False
        found: list[tuple[int, float, float]] = []
        for one in all_of_them:
            result = one.limit(key)
            limited = limited or result.limited
            state = result.state
            found.append((state.remaining, state.reset_after, state.retry_after))
        return limited, min(found)

    return ask_all


# ---------------------------------------------------------------- on Redis


def fiscus_on_redis(text: str, url: str) -> AskAsync:
    """Raises `RuntimeError` for a hit that was not counted: that must not look fast."""
    hit = limit(text, counters=url, name="bench", timeout_seconds=2.0).hit_async

    async def ask(key: str) -> object:
        result = await hit(key)
        if result.degraded:
            raise RuntimeError("a hit was decided without its counter")
        return (
            result.allowed,
            result.remaining,
            result.reset_after_seconds,
            result.retry_after_seconds,
        )

    return ask


def limits_on_redis(strategy: str, text: str, url: str) -> AskAsync:
    limiter, item = _limits_aio(strategy, text, url)

    async def ask(key: str) -> object:
        allowed = await limiter.hit(item, key)
        stats = await limiter.get_window_stats(item, key)
        return allowed, stats.remaining, stats.reset_time

    return ask


def limits_hit_on_redis(strategy: str, text: str, url: str) -> AskAsync:
    """Nothing but whether it is allowed is asked."""
    limiter, item = _limits_aio(strategy, text, url)
    return lambda key: limiter.hit(item, key)


def throttled_on_redis(algorithm: str, text: str, url: str) -> AskAsync:
    hit = throttled_aio.Throttled(
        using=algorithm, quota=text, store=throttled_aio.RedisStore(server=url)
    ).limit

    async def ask(key: str) -> object:
        result = await hit(key)
        state = result.state
        return result.limited, state.remaining, state.reset_after, state.retry_after

    return ask


def _limits(strategy: str, texts: Sequence[str]) -> tuple[Any, list[Any]]:
    limiter = limits_package.strategies.STRATEGIES[strategy](MemoryStorage())
    return limiter, [_item(text) for text in texts]


def _limits_aio(strategy: str, text: str, url: str) -> tuple[Any, Any]:
    storage = RedisStorage(f"async+{url}", implementation="redispy")
    return limits_aio.strategies.STRATEGIES[strategy](storage), _item(text)


def _item(text: str) -> Any:
    return limits_package.parse(text.replace("/week", "/7 day"))  # it has no weeks

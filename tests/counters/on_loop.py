"""Counters in Valkey as an event loop asks them, for tests that wait for each answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from fiscus.ratelimits.port import CountersUnavailable, Take, Taken
from fiscus.stores.counters.redis import RedisCounters

OpenStore = Callable[[str, float], RedisCounters]
"""Counters at a URL, with a time-out in seconds."""


class LoopStore(RedisCounters):
    """A store whose `decide_all` goes by way of an event loop, which has a thread of its own."""

    def __init__(
        self, new_loop: Callable[[], asyncio.AbstractEventLoop], url: str, *, timeout_seconds: float
    ) -> None:
        super().__init__(url, timeout_seconds=timeout_seconds)
        self._timeout_seconds = timeout_seconds
        self._loop = new_loop()
        self._counters = self.on_loop(self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def decide_all(self, takes: Sequence[Take], now_us: int | None) -> list[Taken | None]:
        assert now_us is None
        return asyncio.run_coroutine_threadsafe(self._ask(takes), self._loop).result()

    async def _ask(self, takes: Sequence[Take]) -> list[Taken | None]:
        told: asyncio.Future[list[Taken | None] | Exception] = self._loop.create_future()
        asked = self._counters.ask_all(takes, told.set_result)
        await asyncio.wait([told], timeout=self._timeout_seconds)
        if not told.done():
            asked.give_up()
            raise CountersUnavailable("the answer is late")
        outcome = told.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._counters.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        super().close()

"""The limiter as coroutines use it: counters elsewhere are awaited, never waited for."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial

import anyio.to_thread

from fiscus.errors import ServiceUnavailable
from fiscus.ratelimits.counter_loop import LoopTakes, Outcome, Takes, portions
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.port import Take, Taken


class LoopLimiter:
    """The limiter for the coroutines of one event loop."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._takes: LoopTakes | None = None
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def decide(self, takes: Takes, now_us: int) -> Outcome:
        """What became of takes; None when the counters cannot be reached in time."""
        limiter = self._limiter
        if limiter.loop is None:
            return limiter.decide(takes, now_us)
        if self._takes is None:
            self._takes = limiter.loop.for_running_loop()
        return await self._takes.execute(takes)

    async def decide_each(self, takes: Takes, now_us: int) -> list[Taken | None]:
        """As `Limiter.decide_each`."""
        taken: list[Taken | None] = []
        for portion in portions(takes):
            try:
                outcome = await self.decide(portion, now_us)
            except ServiceUnavailable:
                if not taken:
                    raise
                outcome = None  # what came before stands
            taken += outcome or [None] * len(portion)
        return taken

    def decide_locally(self, take: Take, now_us: int) -> Taken:
        """Decide by this process's own counters, while the others cannot be reached."""
        return self._limiter.decide_locally(take, now_us)

    async def ready(self, tenant_id: str, now: datetime) -> None:
        """Make sure that the tenant's policies are known as they are by now, so that
        `Limiter.prepare` need not wait.

        Raises `ServiceUnavailable` when they are not known and cannot be read.
        """
        if self._limiter.is_ready(tenant_id):
            return
        began_before = tenant_id in self._reading
        await self._read_with_others(tenant_id, now)
        if began_before and not self._limiter.is_ready(tenant_id):
            # changed since that began, and perhaps before this was called
            await self._read_with_others(tenant_id, now)

    async def _read_with_others(self, tenant_id: str, now: datetime) -> None:
        reading = self._reading.get(tenant_id)
        if reading is None or reading.done():  # `_was_read` is called a little later
            reading = asyncio.create_task(self._read(tenant_id, now))
            self._reading[tenant_id] = reading
            reading.add_done_callback(partial(self._was_read, tenant_id))
        # shielded: a caller that hangs up must not fail the others that wait for the same policies
        await asyncio.shield(reading)

    async def _read(self, tenant_id: str, now: datetime) -> None:
        await anyio.to_thread.run_sync(partial(self._limiter.read_policies, tenant_id, now))

    def _was_read(self, tenant_id: str, reading: asyncio.Task[None]) -> None:
        if self._reading[tenant_id] is reading:
            del self._reading[tenant_id]
        if not reading.cancelled():
            reading.exception()  # seen here too, for when every caller has hung up


__all__ = ["LoopLimiter"]

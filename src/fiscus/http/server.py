"""What the managing endpoints and the probes of one application share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from fiscus.engine import Engine
from fiscus.http.api_limits import ApiLimits
from fiscus.http.auth.authenticator import Authenticator
from fiscus.http.management.backlog import MAX_WAITING_BYTES, AnswerSpace
from fiscus.http.monitoring.metrics import Metrics

R = TypeVar("R")


class Server:
    """What every call has at hand. `closing` is set when the server begins to stop."""

    def __init__(
        self,
        engine: Engine,
        authenticator: Authenticator,
        api_limits: ApiLimits,
        metrics: Metrics,
    ) -> None:
        self.engine: Final = engine
        self.authenticator: Final = authenticator
        self.api_limits: Final = api_limits
        self.metrics: Final = metrics
        self.answer_space: Final = AnswerSpace(MAX_WAITING_BYTES)
        self.closing = False
        self._threads: dict[str, anyio.CapacityLimiter] = {}

    async def in_thread(self, work: Callable[[], R], *, lane: str = "calls") -> R:
        """Run `work`, which may wait for the store, beside the event loop.

        Each lane has as many threads as the store has connections for reads, so that probes are
        answered while long reports fill the other.
        """
        limiter = self._threads.get(lane)
        if limiter is None:
            limiter = anyio.CapacityLimiter(self.engine.settings.database_pool_size)
            self._threads[lane] = limiter
        return await anyio.to_thread.run_sync(work, limiter=limiter)


__all__ = ["Server"]

"""Health as anybody may ask for it, without a credential."""

from __future__ import annotations

import asyncio

from fiscus.health import Dependency, HealthAnswer, dependencies_of, health_answer, why_not_ready
from fiscus.http.server import Server


class Health:
    """Looks at the dependencies; callers at the same time share one look.

    Anybody may ask, so that asking more often must not make more work for the store.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._look: asyncio.Task[list[Dependency]] | None = None
        self._readiness: asyncio.Task[list[str]] | None = None

    async def answer(self, correlation_id: str) -> HealthAnswer:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(
                self._server.in_thread(lambda: dependencies_of(self._server.engine), lane="probes")
            )
        return health_answer(await asyncio.shield(self._look), correlation_id)

    async def why_not_ready(self) -> list[str]:
        """Why no traffic should come here; empty when it may."""
        if self._server.closing or self._server.engine.ledger.is_closing:
            return ["Fiscus is shutting down"]
        if self._readiness is None or self._readiness.done():
            self._readiness = asyncio.create_task(
                self._server.in_thread(lambda: why_not_ready(self._server.engine), lane="probes")
            )
        return await asyncio.shield(self._readiness)

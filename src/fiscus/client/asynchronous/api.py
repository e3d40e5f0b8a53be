"""The calls of `AsyncClient`: those of `BlockingApi`, awaited."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from fiscus.client.asynchronous.budgets import AsyncBudgetCalls
from fiscus.client.asynchronous.costs import AsyncCostCalls
from fiscus.client.asynchronous.quotas import AsyncQuotaCalls
from fiscus.client.asynchronous.rate_limits import AsyncRateLimitCalls
from fiscus.client.asynchronous.tenants import AsyncTenantCalls
from fiscus.client.telling import speaks_python


@speaks_python
class AsyncApi(
    AsyncBudgetCalls, AsyncCostCalls, AsyncRateLimitCalls, AsyncQuotaCalls, AsyncTenantCalls
):
    """Every call of `BlockingApi`, with the same arguments, answers and errors, as coroutines.

    For the tasks of one event loop. `tenant` stands in where a call names none.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back what this has open: connections, or the engine."""
        await self._backend.close()

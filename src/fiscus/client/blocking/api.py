"""The calls of `Fiscus` and `Client`, which block until they are answered."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from fiscus.client.backend import run_blocking
from fiscus.client.blocking.budgets import BudgetCalls
from fiscus.client.blocking.costs import CostCalls
from fiscus.client.blocking.quotas import QuotaCalls
from fiscus.client.blocking.rate_limits import RateLimitCalls
from fiscus.client.blocking.tenants import TenantCalls
from fiscus.client.telling import speaks_python


@speaks_python
class BlockingApi(BudgetCalls, CostCalls, RateLimitCalls, QuotaCalls, TenantCalls):
    """Every call. Errors are those of `fiscus.errors`; amounts are `Decimal`, `int` or text.

    Safe to share among threads. `tenant` stands in where a call names none.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what this has open: connections, or the engine."""
        run_blocking(self._backend.close())

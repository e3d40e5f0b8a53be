"""Fiscus without an edge: the ledger, the stores behind their ports, the clock and the rates.

`wiring.open_engine` makes one; the HTTP server, the command line, the worker and `Fiscus.open` use
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fiscus.access.port import ApiKeyStore
from fiscus.budgets.port import BudgetStore, ReservationStore
from fiscus.clock import Clock
from fiscus.costs.fx import Rates
from fiscus.costs.port import CostStore
from fiscus.ledger.loop import Ledger
from fiscus.settings import Settings
from fiscus.tenants import TenantStore


class StoreProbe(Protocol):
    """What health checks and `doctor` ask of the store."""

    kind: str
    """`sqlite` or `postgresql`."""

    def ping_ms(self) -> float:
        """Milliseconds of a trivial query on a pooled connection; raises `ServiceUnavailable`."""
        ...

    def pending_migrations(self) -> list[str]:
        """Revisions that are not applied yet."""
        ...


class Maintenance(Protocol):
    """What the worker asks of the store."""

    def prepare_partitions(self) -> list[str]:
        """Make the partitions of the months ahead; what was made. Nothing on SQLite."""
        ...

    def drop_expired_answers(self) -> int:
        """Forget idempotency keys whose window ended; how many."""
        ...

    def try_lead(self) -> bool:
        """Whether this process is (or became) the one that does the background work."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything an edge needs, opened."""

    settings: Settings
    clock: Clock
    rates: Rates
    ledger: Ledger
    budgets: BudgetStore
    reservations: ReservationStore
    tenants: TenantStore
    api_keys: ApiKeyStore
    costs: CostStore
    store: StoreProbe
    maintenance: Maintenance
    close_stores: Callable[[], None]

    def close(self) -> None:
        """Commit what waits in the ledger, then close the stores."""
        self.ledger.close()
        self.close_stores()

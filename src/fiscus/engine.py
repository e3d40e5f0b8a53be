"""Fiscus without an edge: ledger, limiter, the stores behind their ports, the clock and the rates.

`wiring.open_engine` makes one; the HTTP server, the command line, the worker and `Fiscus.open` use
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from fiscus.access.keys import CredentialCache
from fiscus.access.port import ApiKeyStore
from fiscus.budgets.port import BudgetStore, ReservationStore
from fiscus.clock import Clock
from fiscus.costs.fx import Rates
from fiscus.costs.port import CostStore
from fiscus.errors import Conflict
from fiscus.ledger.loop import Ledger
from fiscus.quotas.port import QuotaStore
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.policy_port import PolicyStore, UsageStore
from fiscus.ratelimits.port import CounterStore
from fiscus.runtime.portions import ShouldContinue, to_the_end
from fiscus.settings import Settings
from fiscus.tenants import TenantStore

_CLAIM_SECONDS: Final = 5.0
_CLAIM_TRY_SECONDS: Final = 0.25


class PoolUse(NamedTuple):
    """How many connections there are for reads and changes."""

    in_use: int
    idle: int


class StoreProbe(Protocol):
    """What health checks, metrics and `doctor` ask of the store."""

    kind: str
    """`sqlite` or `postgresql`."""
    folder: Path | None
    """Where SQLite's file is."""

    def ping_ms(self) -> float:
        """Milliseconds of a trivial query on a pooled connection; raises `ServiceUnavailable`."""
        ...

    def pending_migrations(self) -> list[str]:
        """Revisions that are not applied yet."""
        ...

    def pool_use(self) -> PoolUse:
        """The connections that this process has open, but those of the ledger; asks nobody."""
        ...


class Maintenance(Protocol):
    """What the worker asks of the store."""

    def prepare_partitions(self) -> list[str]:
        """Make the partitions of the months ahead; what was made. Nothing on SQLite."""
        ...

    def drop_expired_answers(self, goes_on: ShouldContinue = to_the_end) -> int:
        """Forget idempotency keys whose window ended; how many."""
        ...

    def try_lead(self) -> bool:
        """Whether this process is (or became) the one that does the background work."""
        ...

    def claim_counters(self) -> bool:
        """Whether this process is (or became) the only one that counts rate limits by itself; False
        also while the store does not say."""
        ...


@dataclass(slots=True)
class BackgroundWork:
    """How the worker of this process is doing, as it tells health checks."""

    runs: bool = False
    """Whether there is one."""
    trouble: str | None = None
    """Why it does not work, or what of its last round failed."""


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
    quotas: QuotaStore
    policies: PolicyStore
    usage: UsageStore
    counters: CounterStore
    limiter: Limiter
    store: StoreProbe
    maintenance: Maintenance
    close_stores: Callable[[], None]
    credential_cache: CredentialCache = field(default_factory=CredentialCache)
    background: BackgroundWork = field(default_factory=BackgroundWork)

    def claim_counters(self) -> None:
        """Count rate limits in this process and no other, when they are counted in process.

        Raises `Conflict` when another engine on the same data counts them: each would admit the
        whole limit.
        """
        if not self.counters.immediate:
            return
        waited = 0.0
        while not self.maintenance.claim_counters():
            # one that was killed a moment ago may still seem to be there
            if waited >= _CLAIM_SECONDS:
                raise Conflict(
                    "Another Fiscus, in this or another process, counts rate limits on this data",
                    suggested_action="Close the other one, or set FISCUS_REDIS_URL for all of "
                    "them, so that they count together in Redis or Valkey.",
                )
            time.sleep(_CLAIM_TRY_SECONDS)
            waited += _CLAIM_TRY_SECONDS
        self.limiter.housekeeping.keep_alone(self.maintenance.claim_counters)

    def close(self) -> None:
        """Commit what waits in the ledger, write what was counted, then close the stores."""
        self.ledger.close()
        self.limiter.close()
        self.counters.close()
        self.close_stores()

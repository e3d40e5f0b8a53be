"""What is used most, read from the store for `/metrics`: now and then, never waited for long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fiscus.budgets.port import BudgetUse
from fiscus.errors import FiscusError
from fiscus.http.server import Server
from fiscus.quotas.port import QuotaUse
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

MOST: Final = 20
"""So many budgets, and so many quotas, are shown: a bounded number of series at any time."""
AGAIN_AFTER: Final = timedelta(minutes=1)
SHOWN_FOR: Final = timedelta(minutes=5)
"""How long what was read is shown while the store does not answer."""
PATIENCE_SECONDS: Final = 1.0


class MostUsed(NamedTuple):
    """The budgets and the quotas that are used most: few of each."""

    budgets: list[BudgetUse]
    quotas: list[QuotaUse]

    def render(self) -> bytes:
        """As Prometheus reads it."""
        registry = CollectorRegistry()
        registry.register(_Gauges(self))
        return generate_latest(registry)


class MostUsedReader:
    """Looks at the store once a minute at most, however often and by how many it is asked."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reading: asyncio.Task[None] | None = None
        self._began: datetime | None = None
        self._known: tuple[datetime, MostUsed] | None = None
        """What was read last, and as of when."""

    async def read(self) -> MostUsed | None:
        """What is used most, as it was read last; None when that was too long ago, or never."""
        now = self._server.engine.clock.now()
        if self._reading is None or (
            self._reading.done() and not _within(AGAIN_AFTER, self._began, now)
        ):
            self._began = now
            self._reading = asyncio.create_task(self._read(now))
        # a task that goes on: the next to ask may find what this one could not wait for
        await asyncio.wait({self._reading}, timeout=PATIENCE_SECONDS)
        if self._known is None or not _within(SHOWN_FOR, self._known[0], now):
            return None
        return self._known[1]

    async def _read(self, now: datetime) -> None:
        engine = self._server.engine
        try:
            found = await self._server.in_thread(
                lambda: MostUsed(
                    engine.budgets.most_used(now, MOST), engine.quotas.most_used(now, MOST)
                ),
                lane="probes",
            )
        except FiscusError as error:
            log.warning("most_used_not_read", reason=error.message)
        except Exception:
            log.exception("most_used_not_read")
        else:
            self._known = now, found


class _Gauges(Collector):
    """Made for one answer: what is not among the most used any more is not shown."""

    def __init__(self, most_used: MostUsed) -> None:
        self._most_used = most_used

    def collect(self) -> Iterable[GaugeMetricFamily]:
        budgets = GaugeMetricFamily(
            "fiscus_budget_utilization_ratio",
            "(spent + reserved) / amount in the current period, of the 20 budgets used most; of "
            "one for `*`, by the id that used most. For platform_admin only.",
            labels=("tenant_id", "budget_id"),
        )
        for use in self._most_used.budgets:
            budgets.add_metric((use.tenant_id, use.budget_id), float(use.utilization_ratio))
        quotas = GaugeMetricFamily(
            "fiscus_quota_utilization_ratio",
            "used / allocated, burst included, of the 20 quotas used most whose period runs; of "
            "one for `*`, by the id that used most. For platform_admin only.",
            labels=("tenant_id", "quota_id", "resource_type"),
        )
        for use in self._most_used.quotas:
            labels = (use.tenant_id, use.quota_id, use.resource_type)
            quotas.add_metric(labels, float(use.utilization_ratio))
        return budgets, quotas


def _within(time: timedelta, since: datetime | None, now: datetime) -> bool:
    # the clock may be set back
    return since is not None and abs(now - since) < time


__all__ = ["MostUsed", "MostUsedReader"]

"""What Fiscus tells Prometheus. Cheap where it is hot: label children are bound once and kept."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, generate_latest, multiprocess
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer
from fiscus.engine import PoolUse
from fiscus.http.monitoring.families import Families
from fiscus.ledger.loop import Ledger
from fiscus.quotas.calls import QuotaCheckAnswer, QuotaCheckBatchAnswer
from fiscus.ratelimits.calls import RateLimitBatchAnswer, RateLimitCheckAnswer
from fiscus.ratelimits.limiter import Limiter
from fiscus.runtime.breaker import BreakerState
from fiscus.runtime.cache_stats import CacheStats

TELL_SECONDS: Final = 5.0
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

RECORDING: Final = frozenset({"record", "record_batch", "record_stream", "settle"})
QUOTAS: Final = frozenset({"quota_check", "quota_check_batch", "release_consumption"})
LIMITING: Final = frozenset({"rate_limit_check", "rate_limit_check_batch", "envoy_check"})
"""Operations with a histogram of their own; the others' latency is that of checking budgets."""


class Metrics:
    """The metrics of one process, in a registry of their own; a `thread_batcher.GroupObserver`.

    With `PROMETHEUS_MULTIPROC_DIR` set before Fiscus is imported, what is shown are the sums over
    all worker processes that share that folder.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._families = Families(registry)
        self._commits = self._families.commits.labels("group", "committed")
        self._decided: dict[tuple[str, str], Callable[[float], None]] = {}
        self._denied: dict[str, Callable[[], None]] = {}
        self._ledger: Ledger | None = None
        self._limiter: Limiter | None = None
        self._caches: list[_CacheShown] = []
        self._pool_use: Callable[[], PoolUse] | None = None
        self._breakers_shown: tuple[BreakerState, BreakerState] | None = None
        self._showing = threading.Lock()

    # -- told by the edge

    def decided(self, operation: str, outcome: str, seconds: float) -> None:
        """A decision endpoint answered: `allowed`, `denied`, `limited` or `error`."""
        observe = self._decided.get((operation, outcome))
        if observe is None:
            family = self._families.checks
            if operation in RECORDING:
                family = self._families.records
            elif operation in LIMITING:
                family = self._families.limits
            elif operation in QUOTAS:
                family = self._families.quotas
            observe = family.labels(operation, outcome).observe
            self._decided[operation, outcome] = observe
        observe(seconds)

    def checked(self, answer: CheckAnswer | CheckBatchAnswer) -> None:
        """Checks were decided: count the denied and the degraded ones."""
        answers = answer.results if isinstance(answer, CheckBatchAnswer) else (answer,)
        for one in answers:
            if one.degraded:
                self._families.degraded.inc()
            if not one.allowed:
                # without a budget the tenant's own `require_budget` denies
                action = str(one.enforcement_action or "require_budget")
                increase = self._denied.get(action)
                if increase is None:
                    increase = self._denied[action] = self._families.denials.labels(action).inc
                increase()

    def limited(self, answer: RateLimitCheckAnswer | RateLimitBatchAnswer) -> None:
        """Rate limits were checked: count the denied and the degraded checks."""
        answers = answer.results if isinstance(answer, RateLimitBatchAnswer) else (answer,)
        for one in answers:
            if one.degraded:
                self._families.degraded_limits.inc()
            if not one.allowed:
                deciding = next(line for line in one.policies if line.policy_id == one.policy_id)
                self._families.violations.labels(str(deciding.algorithm)).inc()

    def quotas_checked(self, answer: QuotaCheckAnswer | QuotaCheckBatchAnswer) -> None:
        """Quotas were checked: count the denied checks."""
        answers = answer.results if isinstance(answer, QuotaCheckBatchAnswer) else (answer,)
        for one in answers:
            if not one.allowed:
                # without a quota the tenant's own `require_quota` denies
                scope = next(
                    (line.scope["type"] for line in one.quotas if line.quota_id == one.quota_id),
                    "require_quota",
                )
                self._families.quota_denials.labels(scope).inc()

    def access_denied(self, reason: str) -> None:
        """`reason`: `credential`, `role` or `tenant`."""
        self._families.access_denied.labels(reason).inc()

    def api_limited(self, limit: str) -> None:
        """The API's own limit of this name held a call up."""
        self._families.api_limited.labels(limit).inc()

    def requested(self, method: str, route: str, status: int) -> None:
        self._families.requests.labels(method, route, str(status)).inc()

    def counters_answered(self, seconds: float) -> None:
        """Counters elsewhere answered a group of checks."""
        self._families.counter_round_trips.observe(seconds)
        self._look_at_breakers()

    def counters_failed(self) -> None:
        """Counters elsewhere did not answer."""
        self._families.counter_errors.inc()
        self._look_at_breakers()

    # -- told by the ledger, in any thread

    def watch(
        self,
        ledger: Ledger,
        limiter: Limiter,
        credentials: CacheStats,
        pool_use: Callable[[], PoolUse],
    ) -> None:
        """Be told by `ledger` and `limiter` about their groups; show their queue and breakers, the
        pool, and how often `credentials`, definitions and policies were in memory."""
        self._ledger = ledger
        self._limiter = limiter
        self._pool_use = pool_use
        self._caches = [
            _CacheShown(name, lookups, self._families.cache_lookups)
            for name, lookups in (
                ("credentials", credentials),
                ("definitions", ledger.lookups),
                ("policies", limiter.lookups),
            )
        ]
        ledger.observer = self
        if limiter.loop is not None:
            limiter.loop.observer = _CountersObserver(self)
        self._look_at_stores()

    def group_committed(self, size: int, seconds: float) -> None:
        self._commits.observe(seconds)
        self._families.group_size.observe(size)
        if self._ledger is not None:
            self._families.queue_depth.set(self._ledger.queue_depth)
        self._look_at_breakers()

    def group_failed(self, size: int) -> None:
        self._families.store_errors.inc()
        self._families.store_error_commands.inc(size)
        self._look_at_stores()

    # -- shown

    def render(self) -> Iterator[bytes]:
        """Everything, as Prometheus reads it, by metric: each takes up to some milliseconds.

        The first takes longer where processes share their metrics, which are added up by then.
        """
        self._look_at_stores()
        registry = self._registry
        if _is_shared():
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        for metric in registry.collect():
            yield generate_latest(_One(metric))

    async def keep_told(self) -> None:
        """Until cancelled, note every few seconds what another process that shows the sums cannot
        look at; nothing to do where there is none."""
        try:
            while _is_shared():
                self._look_at_stores()
                await asyncio.sleep(TELL_SECONDS)
        finally:
            self._look_at_stores()

    def _look_at_stores(self) -> None:
        if self._ledger is not None:
            self._families.queue_depth.set(self._ledger.queue_depth)
        self._look_at_breakers()
        with self._showing:
            for cache in self._caches:
                cache.show()
        if self._pool_use is not None:
            use = self._pool_use()
            self._families.pool.labels("in_use").set(use.in_use)
            self._families.pool.labels("idle").set(use.idle)

    def _look_at_breakers(self) -> None:
        """After each group: another process that shows the sums cannot look at these breakers."""
        ledger, limiter = self._ledger, self._limiter
        if ledger is None or limiter is None:
            return
        if (ledger.breaker_state, limiter.breaker_state) == self._breakers_shown:
            return
        with self._showing:  # groups of both end in threads of their own
            shown = ledger.breaker_state, limiter.breaker_state
            for state in BreakerState:
                self._families.breaker.labels(str(state)).set(state is shown[0])
                self._families.counters_breaker.labels(str(state)).set(state is shown[1])
            self._breakers_shown = shown


class _CacheShown:
    """What was counted of a cache, and what of it Prometheus was told."""

    def __init__(self, name: str, lookups: CacheStats, counter: Counter) -> None:
        self._lookups = lookups
        self._hits = counter.labels(name, "hit")
        self._misses = counter.labels(name, "miss")
        self._shown = 0, 0

    def show(self) -> None:
        hits, misses = self._shown
        new_misses = self._lookups.misses - misses
        # a miss may be counted a moment before the look-up that it is of
        new_hits = max(0, self._lookups.count - self._lookups.misses - hits)
        self._misses.inc(new_misses)
        self._hits.inc(new_hits)
        self._shown = hits + new_hits, misses + new_misses


class _One(Collector):
    """A metric as it was collected."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _is_shared() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


class _CountersObserver:
    """A `thread_batcher.GroupObserver` of the loop before Redis."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def group_committed(self, size: int, seconds: float) -> None:
        self._metrics.counters_answered(seconds)

    def group_failed(self, size: int) -> None:
        self._metrics.counters_failed()


__all__ = ["CONTENT_TYPE", "Metrics"]

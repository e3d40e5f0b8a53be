"""Every metric of a process, but those read from the store for one answer (`most_used`)."""

from __future__ import annotations

from functools import partial
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

LATENCY_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5)
GROUP_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
disable_created_metrics()  # they would double the series and nobody reads them


class Families:
    """What is counted and measured, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        timed = partial(
            Histogram,
            labelnames=("operation", "outcome"),
            buckets=LATENCY_SECONDS,
            registry=registry,
        )
        shown = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        counted = partial(Counter, registry=registry)
        self.checks = timed(
            "fiscus_check_duration_seconds",
            "Time to answer a decision about budgets, over HTTP.",
        )
        self.records = timed(
            "fiscus_record_duration_seconds",
            "Time to answer that a cost is recorded, over HTTP.",
        )
        self.limits = timed(
            "fiscus_rate_limit_duration_seconds",
            "Time to answer a check of rate limits, over HTTP or to Envoy.",
        )
        self.quotas = timed(
            "fiscus_quota_duration_seconds",
            "Time to answer a check of quotas or a release, over HTTP.",
        )
        self.commits = timed(
            "fiscus_commit_duration_seconds",
            "Time of one group of the ledger, from loading to the end of its commit.",
        )
        self.group_size = Histogram(
            "fiscus_group_size",
            "Commands that shared one commit.",
            buckets=GROUP_SIZES,
            registry=registry,
        )
        self.queue_depth = shown(
            "fiscus_ledger_queue_depth",
            "Commands that wait for the ledger.",
        )
        self.breaker = shown(
            "fiscus_breaker_state",
            "1 for the state the breaker before the store is in.",
            ("state",),
        )
        self.store_errors = counted("fiscus_store_errors", "Groups the store did not commit.")
        self.store_error_commands = counted(
            "fiscus_store_error_commands", "Commands of groups the store did not commit."
        )
        self.denials = counted(
            "fiscus_denials",
            "Operations denied, by the enforcement action of the deciding budget.",
            ("action",),
        )
        self.degraded = counted(
            "fiscus_degraded_answers",
            "Operations allowed without the store, by the budgets' own failure policy.",
        )
        self.violations = counted(
            "fiscus_rate_limit_violations",
            "Checks of rate limits that were denied, by the algorithm of the deciding policy.",
            ("algorithm",),
        )
        self.degraded_limits = counted(
            "fiscus_rate_limit_degraded_answers",
            "Checks of rate limits answered without their counters, by the policies' own rule.",
        )
        self.quota_denials = counted(
            "fiscus_quota_denials",
            "Checks of quotas that were denied, by the type of scope of the deciding quota.",
            ("scope",),
        )
        self.counter_round_trips = Histogram(
            "fiscus_counters_duration_seconds",
            "Time of one round trip to counters in Redis.",
            buckets=LATENCY_SECONDS,
            registry=registry,
        )
        self.counter_errors = counted(
            "fiscus_counters_errors", "Round trips that Redis did not answer."
        )
        self.counters_breaker = shown(
            "fiscus_counters_breaker_state",
            "1 for the state the breaker before Redis is in.",
            ("state",),
        )
        self.cache_lookups = counted(
            "fiscus_cache_lookups",
            "Look-ups of API keys and tokens, definitions (once for each tenant of a group) and "
            "rate-limit policies in memory; of a miss the store was read, or a token verified.",
            ("cache", "outcome"),
        )
        self.pool = shown(
            "fiscus_pool_connections",
            "Connections to the database for reads and changes of definitions.",
            ("state",),
        )
        self.access_denied = counted(
            "fiscus_access_denied",
            "Calls refused for their credential (401), or their role or tenant (403).",
            ("reason",),
        )
        self.api_limited = counted(
            "fiscus_api_limited",
            "Calls refused by the limits on Fiscus's own API (429), by the limit.",
            ("limit",),
        )
        self.requests = counted(
            "fiscus_http_requests",
            "Requests answered, by route template; decisions are in the histograms.",
            ("method", "route", "status"),
        )


__all__ = ["Families"]

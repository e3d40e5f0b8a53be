"""The benchmarks by name, and the stores that each is measured on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from bench import (
    counters_memory,
    limits_in_process,
    limits_on_valkey,
    operations,
    policies_scale,
    quotas,
)
from bench.budgets import CHECK, RECORD
from bench.limits_http import BATCHED, ONE, SINGLE, TWO, checks
from bench.plan import Plan, Result
from bench.servers import Databases
from fiscus.ratelimits.rules import Algorithm

DATABASES: Final = ("sqlite", "postgresql")
COUNTERS: Final = ("memory", "valkey")
STORES: Final = (*DATABASES, *COUNTERS)


class Benchmark(NamedTuple):
    """What measures, called with its own name, and where."""

    run: Callable[[str, Databases, Plan], Result]
    stores: tuple[str, ...]


BENCHMARKS: Final[dict[str, Benchmark]] = {
    "check-single": Benchmark(partial(operations.single, CHECK), DATABASES),
    "check-batch": Benchmark(partial(operations.batch, CHECK), DATABASES),
    "record-single": Benchmark(partial(operations.single, RECORD), DATABASES),
    "record-batch": Benchmark(partial(operations.batch, RECORD), DATABASES),
    "latency": Benchmark(partial(operations.latency, CHECK), DATABASES),
    "scaling": Benchmark(partial(operations.scaling, CHECK), DATABASES),
    "quota-check-single": Benchmark(partial(operations.single, quotas.CHECK), DATABASES),
    "quota-check-batch": Benchmark(partial(operations.batch, quotas.CHECK), DATABASES),
    "quota-allocate": Benchmark(quotas.allocate, DATABASES),
    "quota-scaling": Benchmark(partial(operations.scaling, quotas.CHECK), DATABASES),
    "rate-limit-single": Benchmark(partial(checks, SINGLE, ONE, True), COUNTERS),
    "rate-limit-two": Benchmark(partial(checks, SINGLE, TWO, False), COUNTERS),
    "rate-limit-batch": Benchmark(partial(checks, BATCHED, ONE, False), COUNTERS),
    "policies": Benchmark(policies_scale.policies, ("memory",)),
    "counters-bucket": Benchmark(
        partial(counters_memory.memory, Algorithm.TOKEN_BUCKET), ("memory",)
    ),
    "counters-log": Benchmark(
        partial(counters_memory.memory, Algorithm.SLIDING_WINDOW_LOG), ("memory",)
    ),
    "limit-token-bucket": Benchmark(limits_in_process.token_bucket, ("memory",)),
    "limit-leaky-bucket": Benchmark(limits_in_process.leaky_bucket, ("memory",)),
    "limit-fixed-window": Benchmark(limits_in_process.fixed_window, ("memory",)),
    "limit-sliding-log": Benchmark(limits_in_process.sliding_log, ("memory",)),
    "limit-five-together": Benchmark(limits_in_process.five_together, ("memory",)),
    "limit-callers-window": Benchmark(limits_on_valkey.fixed_window, ("valkey",)),
    "limit-callers-bucket": Benchmark(limits_on_valkey.token_bucket, ("valkey",)),
}


def select(
    names: list[str] | None, stores: tuple[str, ...]
) -> list[tuple[str, list[tuple[str, Benchmark]]]]:
    """The benchmarks of these names (None: all) on these stores, store by store."""
    wanted = list(BENCHMARKS) if names is None else names
    return [
        (store, [(name, BENCHMARKS[name]) for name in wanted if store in BENCHMARKS[name].stores])
        for store in stores
    ]

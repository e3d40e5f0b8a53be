"""Counters in this process: exact across threads, and no larger than what is in use."""

from __future__ import annotations

import tracemalloc

import pytest

from fiscus.ratelimits.port import Take
from fiscus.ratelimits.rules import Algorithm
from fiscus.stores.counters.memory import MemoryCounters
from fiscus.stores.counters.sweeping import CLOCK_SLACK_US
from tests.counters.histories import NOON_US, NORMAL, SECOND_US, rule

GIB = 2**30
EVERY_ALGORITHM = pytest.mark.parametrize("algorithm", list(Algorithm))


@EVERY_ALGORITHM
def test_million_keys_fit_in_one_gib(algorithm: Algorithm) -> None:
    counters = MemoryCounters()
    one = rule(algorithm, 10, 60)
    keys = 20_000
    tracemalloc.start()
    try:
        for number in range(keys):
            # as long as the limiter's: policy, generation, algorithm, scope, resource key
            key = f"01890a5d-ac96-774b-bcce-b302099a8057.0.{algorithm}:user-{number:08}.13:address"
            take = Take("tenant", (key,), (one,), 1, NORMAL)
            counters.decide_all([take], NOON_US + number)
        size_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(counters) == keys
    assert size_bytes / keys * 1_000_000 < GIB


def test_idle_keys_go_while_others_are_used() -> None:
    counters = MemoryCounters()
    one = rule("token_bucket", 10, 1)
    for number in range(20_000):
        counters.decide_all([Take("tenant", (f"{number}",), (one,), 1, NORMAL)], NOON_US)
    assert len(counters) == 20_000
    later_us = NOON_US + 2 * CLOCK_SLACK_US
    for number in range(20_000):
        counters.decide_all([Take("tenant", ("busy",), (one,), 1, NORMAL)], later_us + number * 100)
    assert len(counters) <= 2


def test_stream_of_new_keys_holds_no_more_than_those_in_use() -> None:
    counters = MemoryCounters()
    one = rule("fixed_window", 10, 1)
    most = 0
    for number in range(100_000):
        now_us = NOON_US + number * SECOND_US // 100  # a hundred a second
        counters.decide_all([Take("tenant", (f"{number}",), (one,), 1, NORMAL)], now_us)
        most = max(most, len(counters))
    in_use = 100 * (1 + CLOCK_SLACK_US // SECOND_US)
    assert most < 2 * in_use


def test_sweep_forgets_what_is_unused_and_keeps_the_rest() -> None:
    counters = MemoryCounters()
    for key, seconds in (("short", 1), ("long", 3600)):
        counters.decide_all(
            [Take("tenant", (key,), (rule("fixed_window", 5, seconds),), 1, NORMAL)], NOON_US
        )
    assert counters.sweep(NOON_US + SECOND_US) == 0
    assert counters.sweep(NOON_US + SECOND_US + CLOCK_SLACK_US) == 1
    assert counters.state("short") is None
    assert counters.state("long") is not None

"""Latencies that a load generator counted, and those of them that were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

Histogram = Mapping[int, int]
"""How often a latency was counted, in microseconds."""


def measured(told: Histogram, interval: int) -> dict[int, int]:
    """What wrk tells, without the requests it did not send.

    When a connection has waited for twice `interval` or longer, wrk counts its wait once more for
    each further request that it would have sent meanwhile, had it sent one every `interval`
    microseconds: the wait less one interval, less two and so on, as long as more than one is left
    (`stats_correct` in wrk's stats.c). Each comes of a longer wait, so that they can be taken out
    again from the longest downwards, to the last one.
    """
    counts = Counter(told)
    for wait in sorted(told, reverse=True):
        if wait < 2 * interval:
            break
        for unsent in range(wait - interval, interval, -interval):
            counts[unsent] -= counts[wait]
    return {wait: count for wait, count in counts.items() if count}


def percentile(histogram: Histogram, percent: int) -> int:
    """The shortest latency that so many of a hundred do not exceed, in microseconds."""
    wanted = sum(histogram.values()) * percent
    reached = 0
    for latency in sorted(histogram):
        reached += histogram[latency] * 100
        if reached >= wanted:
            return latency
    raise ValueError("no latency was counted")

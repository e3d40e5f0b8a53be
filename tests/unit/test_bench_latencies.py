"""The latencies of a benchmark are those of the requests that were sent."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.latencies import measured, percentile

waits = st.lists(st.integers(min_value=0, max_value=400), max_size=60)
intervals = st.integers(min_value=1, max_value=120)


def as_wrk_tells(waits: list[int], interval: int) -> Counter[int]:
    """`stats_correct` of wrk 4, step by step: over all latencies upwards, with what it added."""
    data = Counter(waits)
    for latency in range(2 * interval, max(waits, default=0) + 1):
        count = data[latency]
        unsent = latency - interval
        while count and unsent > interval:
            data[unsent] += count
            unsent -= interval
    return +data


@given(waits, intervals)
def test_what_wrk_added_is_taken_out_again(waits: list[int], interval: int) -> None:
    assert measured(as_wrk_tells(waits, interval), interval) == Counter(waits)


def test_a_wait_of_three_and_a_half_intervals_is_told_three_times() -> None:
    told = as_wrk_tells([350], 100)
    assert told == {350: 1, 250: 1, 150: 1}
    assert measured(told, 100) == {350: 1}


@given(waits.filter(bool), st.integers(min_value=1, max_value=100))
def test_a_percentile_is_the_first_latency_that_so_many_do_not_exceed(
    waits: list[int], percent: int
) -> None:
    found = percentile(Counter(waits), percent)
    assert sum(wait <= found for wait in waits) * 100 >= percent * len(waits)
    assert sum(wait < found for wait in waits) * 100 < percent * len(waits)


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no latency"):
        percentile({}, 50)

"""Contestants of a benchmark take turns, and start warm."""

from __future__ import annotations

from functools import partial

from bench.samples import Sample, interleaved


def test_each_run_that_counts_follows_a_shorter_one_of_the_same_contestant() -> None:
    ran: list[tuple[str, float]] = []

    def measure(name: str, seconds: float) -> Sample:
        ran.append((name, seconds))
        return Sample(operations=len(ran), operations_per_second=1, requests_per_second=1)

    contestants = {name: partial(measure, name) for name in ("fiscus", "yardstick")}
    samples = interleaved(contestants, rounds=2, seconds=2)

    turn = [("fiscus", 1), ("fiscus", 2), ("yardstick", 1), ("yardstick", 2)]
    assert ran == turn + turn
    counted = {name: [one.operations for one in of] for name, of in samples.items()}
    assert counted == {"fiscus": [2, 6], "yardstick": [4, 8]}


def test_a_run_that_does_not_count_is_no_longer_than_one_that_does() -> None:
    ran: list[float] = []

    def measure(seconds: float) -> Sample:
        ran.append(seconds)
        return Sample(operations=1, operations_per_second=1, requests_per_second=1)

    interleaved({"fiscus": measure}, rounds=1, seconds=0.25)
    assert ran == [0.25, 0.25]

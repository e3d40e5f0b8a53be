"""What a short run measured, and two contestants compared over several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final, Literal

from msgspec import Struct

Measure = Callable[[float], "Sample"]
"""Runs for about so many seconds."""

_WARM_UP_SECONDS: Final = 1.0


class Sample(Struct, frozen=True, kw_only=True):
    """One short run. Latencies are per request, or per group for hand-written SQL; None for calls
    that are too short to be timed one by one.

    `cpu_us` is the processor time that the measured process spent per operation, in microseconds.
    Unlike the rates it has no waits in it, but it grows where memory is slow. A database server's
    own is not in it. None where the system does not tell.
    """

    operations: int
    operations_per_second: float
    requests_per_second: float
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p95_as_told_ms: float | None = None
    cpu_us: float | None = None


class Target(Struct, frozen=True, kw_only=True):
    """What a ratio has to reach."""

    ratio: float
    rule: Literal["at least", "at most"]

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.ratio if self.rule == "at least" else ratio <= self.ratio

    def __str__(self) -> str:
        return f"{'>=' if self.rule == 'at least' else '<='} {self.ratio:g}"


class Comparison(Struct, frozen=True, kw_only=True):
    """Fiscus against one yardstick: medians over the rounds, and the range of their ratios.

    The ratio is the median of those of the rounds, not that of the medians: a shared machine gives
    twice as much in one minute as in another, but to both of a round about the same.
    """

    yardstick: str
    measure: str
    fiscus: float
    yardstick_value: float
    ratio: float
    lowest: float
    highest: float
    target: Target | None
    met: bool | None


def interleaved(
    contestants: Mapping[str, Measure], *, rounds: int, seconds: float
) -> dict[str, list[Sample]]:
    """Each contestant's samples of `rounds` rounds, each after a run that does not count.

    The rounds alternate, so that what else the machine does touches all alike. The run before is
    so that no sample has in it what the contestant before left behind: other processes where this
    one's have to be, and other data in the caches.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            measure(min(_WARM_UP_SECONDS, seconds))
            samples[name].append(measure(seconds))
    return samples


def compare(
    yardstick: str,
    measure: str,
    fiscus: Sequence[float],
    other: Sequence[float],
    target: Target | None = None,
) -> Comparison:
    """`measure` of Fiscus divided by the yardstick's."""
    pairs = [mine / theirs for mine, theirs in zip(fiscus, other, strict=True)]
    ratio = median(pairs)
    return Comparison(
        yardstick=yardstick,
        measure=measure,
        fiscus=median(fiscus),
        yardstick_value=median(other),
        ratio=ratio,
        lowest=min(pairs),
        highest=max(pairs),
        target=target,
        met=None if target is None else target.is_met(ratio),
    )


def by_rate(
    yardstick: str,
    measure: str,
    samples: Mapping[str, Sequence[Sample]],
    name: str,
    target: Target | None = None,
) -> Comparison:
    """Operations per second of `fiscus` divided by those of the contestant `name`."""
    return compare(
        yardstick,
        measure,
        [sample.operations_per_second for sample in samples["fiscus"]],
        [sample.operations_per_second for sample in samples[name]],
        target,
    )


def known(value: float | None) -> float:
    """A figure that was measured."""
    assert value is not None
    return value


def middle(samples: Sequence[Sample]) -> Sample:
    """The median of each figure."""
    return Sample(
        operations=sum(sample.operations for sample in samples),
        operations_per_second=median(sample.operations_per_second for sample in samples),
        requests_per_second=median(sample.requests_per_second for sample in samples),
        p50_ms=_median_known([sample.p50_ms for sample in samples]),
        p95_ms=_median_known([sample.p95_ms for sample in samples]),
        p99_ms=_median_known([sample.p99_ms for sample in samples]),
        p95_as_told_ms=_median_known([sample.p95_as_told_ms for sample in samples]),
        cpu_us=_median_known([sample.cpu_us for sample in samples]),
    )


def _median_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None

"""How long to measure, and what comes of one benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from bench.profiling import Profiler
from bench.samples import Comparison, Sample


@dataclass(frozen=True)
class Plan:
    """How long to measure, on what disk, and what to profile by."""

    rounds: int
    seconds: float
    profiler: Profiler = field(default_factory=Profiler)
    fsync_ms: float | None = None
    """So much longer each fsync takes than the machine's own."""


class Result(Struct, frozen=True, kw_only=True):
    """One benchmark on one store: a database, or what holds the counters of rate limits."""

    name: str
    store: str
    what: str
    fiscus: Sample
    """Medians of the runs."""
    comparisons: list[Comparison]
    peak_memory_bytes: int | None
    answer_bytes: int | None
    samples: dict[str, list[Sample]]

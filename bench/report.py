"""Results as a plain table and as JSON files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import workload
from bench.machine import Machine
from bench.plan import Plan, Result
from bench.samples import Comparison, Sample, middle

_HEAD: Final = (
    "benchmark",
    "store",
    "contestant",
    "requests/s",
    "operations/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "cpu us/op",
    "peak MiB",
)
_RATIO_HEAD: Final = (
    "benchmark",
    "store",
    "yardstick",
    "measure",
    "fiscus",
    "yardstick",
    "ratio",
    "range",
    "target",
    "met",
)


def table(results: Sequence[Result]) -> str:
    """What was measured, the yardsticks beside it, then each ratio with its target."""
    measured = [
        _measured(result, contestant, middle(samples))
        for result in results
        for contestant, samples in reversed(result.samples.items())
    ]
    ratios = [
        (result.name, result.store, *_ratio(comparison))
        for result in results
        for comparison in result.comparisons
    ]
    return f"{_columns(_HEAD, measured)}\n\n{_columns(_RATIO_HEAD, ratios)}"


def unmet(results: Sequence[Result]) -> list[str]:
    """Benchmarks that missed a target."""
    return [
        f"{result.name} on {result.store}"
        for result in results
        if any(comparison.met is False for comparison in result.comparisons)
    ]


def write(folder: Path, result: Result, machine: Machine, plan: Plan) -> Path:
    """Keep a result as `<name>-<store>.json`, with `-fsync-<ms>ms` of a slower disk; the file."""
    folder.mkdir(parents=True, exist_ok=True)
    disk = f"-fsync-{plan.fsync_ms:g}ms" if plan.fsync_ms else ""
    path = folder / f"{result.name}-{result.store}{disk}.json"
    document: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "workload": {
            "name": workload.NAME,
            "tenants": workload.TENANTS,
            "distribution": "zipf, s=1",
            "seed": workload.SEED,
            "rounds": plan.rounds,
            "seconds": plan.seconds,
        },
        "machine": machine,
        "result": _rounded(msgspec.to_builtins(result)),
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    return path


def _measured(result: Result, contestant: str, sample: Sample) -> tuple[str, ...]:
    """One line of the first table; for hand-written SQL a request is a group."""
    peak = result.peak_memory_bytes
    return (
        result.name,
        result.store,
        contestant,
        _figure(sample.requests_per_second),
        _figure(sample.operations_per_second),
        *(
            "" if ms is None else f"{ms:.1f}"
            for ms in (sample.p50_ms, sample.p95_ms, sample.p99_ms)
        ),
        "?" if sample.cpu_us is None else f"{sample.cpu_us:.1f}",
        "" if contestant != "fiscus" else "?" if peak is None else f"{peak / 2**20:.0f}",
    )


def _ratio(comparison: Comparison) -> tuple[str, ...]:
    met = {True: "yes", False: "NO", None: "-"}[comparison.met]
    return (
        comparison.yardstick,
        comparison.measure,
        _figure(comparison.fiscus),
        _figure(comparison.yardstick_value),
        f"{comparison.ratio:.2f}",
        f"{comparison.lowest:.2f}-{comparison.highest:.2f}",
        "-" if comparison.target is None else str(comparison.target),
        met,
    )


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Numbers to the right, words to the left."""
    lines = [head, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    words = [not any(row[index][:1].isdigit() for row in rows) for index in range(len(head))]

    def shown(line: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if is_word else cell.rjust(width)
            for cell, width, is_word in zip(line, widths, words, strict=True)
        ).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([shown(head), rule, *(shown(row) for row in rows)])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value

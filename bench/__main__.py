"""`python -m bench`: run the benchmarks, print a table, keep the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import machine, report, slow_disk
from bench.load import WrkMissing, find_wrk
from bench.plan import Plan, Result
from bench.profiling import Profiler, ProfilerMissing
from bench.servers import Databases, work_folder
from bench.slow_disk import CompilerMissing
from bench.suite import BENCHMARKS, STORES, select

RESULTS: Final = Path(__file__).with_name("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured, whatever came of it; 2: cannot be run."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _options(given)
    try:
        find_wrk()
        if options.fsync_ms and not slow_disk.is_slowed():
            return slow_disk.run_again(given, options.fsync_ms)
        profiler = Profiler(options.profile)
    except WrkMissing:
        return _cannot(
            "the benchmarks need the load generator wrk, which is not on the PATH.",
            "Install it: `apt-get install wrk`, `dnf install wrk` or `brew install wrk`.",
        )
    except CompilerMissing:
        return _cannot(
            "--fsync-ms needs Linux, and a C compiler as cc on the PATH.",
            "Install one: `apt-get install gcc`.",
        )
    except ProfilerMissing:
        return _cannot("--profile needs py-spy on the PATH.", "Install it: `pip install py-spy`.")
    seconds = options.seconds or (1.0 if options.quick else 2.0)
    plan = Plan(
        rounds=3 if options.quick else 10,
        seconds=seconds,
        profiler=profiler,
        fsync_ms=options.fsync_ms,
    )
    stores = tuple(options.store or STORES)
    results: list[Result] = []
    with work_folder() as folder:
        facts = machine.describe(folder)
        for store, benchmarks in select(options.only, stores):
            with Databases(store, folder) as databases:
                for name, benchmark in benchmarks:
                    print(f"{name} on {store} ...", file=sys.stderr, flush=True)
                    result = benchmark.run(name, databases, plan)
                    results.append(result)
                    if options.results is not None and profiler.folder is None:
                        report.write(options.results, result, facts, plan)
    print(f"{facts.cores} cores of {facts.processor}, Python {facts.python}, ", end="")
    print(f"SQLite {facts.sqlite}, fsync {facts.fsync_ms} ms\n")
    print(report.table(results))
    missed = report.unmet(results)
    if missed:
        print(f"\ntargets missed: {', '.join(missed)}")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks of Fiscus, each beside its yardsticks."
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(BENCHMARKS),
        metavar="NAME",
        help=f"one benchmark; may be repeated: {', '.join(BENCHMARKS)}",
    )
    parser.add_argument(
        "--store",
        action="append",
        choices=STORES,
        metavar="STORE",
        help=f"one store; may be repeated: {', '.join(STORES)}",
    )
    parser.add_argument("--seconds", type=float, help="length of one run (default 2)")
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds of 1 second; results are not kept"
    )
    parser.add_argument(
        "--fsync-ms",
        type=_above_zero,
        metavar="MS",
        help="have each fsync take so much longer, as on slower disks",
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="where to keep results (bench/results)"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="profile the server with py-spy into this folder; results are not kept",
    )
    options = parser.parse_args(arguments)
    if options.results is None and not options.quick:
        options.results = RESULTS
    return options


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0 and at most 1000")
    return number


def _cannot(what: str, how: str) -> int:
    print(f"make bench: {what}\n{how}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

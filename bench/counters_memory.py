"""Memory of a million counters in process, and what is left once they are unused again.

As a script, with the name of an algorithm, this is the process that is measured: it tells what it
saw as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

import msgspec

from bench.plan import Plan, Result
from bench.samples import Sample, Target, compare
from bench.servers import ROOT, Databases
from fiscus.ratelimits.port import Take
from fiscus.ratelimits.rules import Algorithm, make_rule
from fiscus.stores.counters.memory import MemoryCounters

KEYS: Final = 1_000_000
MAX_BYTES: Final = 2**30
LEFT_BYTES: Final = 2**26
"""What may be left of them: the empty table of a dictionary, which the next keys use again."""

_WINDOW_US: Final = 60_000_000
_NOW_US: Final = 1_700_000_000_000_000


class _Seen(msgspec.Struct):
    full_bytes: int
    """What the process grew by with all counters in use."""
    left_bytes: int
    """What it still is larger by once they are unused and swept."""
    left_counters: int
    rate: float
    cpu_us: float


def memory(algorithm: Algorithm, name: str, databases: Databases, plan: Plan) -> Result:
    """A million keys hit once, then left until they are whole again; in a process of their own."""
    seen = _seen(algorithm)
    sample = Sample(
        operations=KEYS,
        operations_per_second=seen.rate,
        requests_per_second=seen.rate,
        cpu_us=seen.cpu_us,
    )
    return Result(
        name=name,
        store=databases.kind,
        what=f"{KEYS} keys of one {algorithm} policy hit once, then swept when unused",
        fiscus=sample,
        comparisons=[
            compare(
                "1 GiB",
                "bytes of a million counters",
                [float(seen.full_bytes)],
                [float(MAX_BYTES)],
                Target(ratio=1.0, rule="at most"),
            ),
            compare(
                "64 MiB",
                "bytes left of them when unused",
                [float(max(1, seen.left_bytes))],
                [float(LEFT_BYTES)],
                Target(ratio=1.0, rule="at most"),
            ),
        ],
        peak_memory_bytes=seen.full_bytes,
        answer_bytes=None,
        samples={"fiscus": [sample]},
    )


def _seen(algorithm: Algorithm) -> _Seen:
    ran = subprocess.run(
        [sys.executable, "-m", "bench.counters_memory", algorithm.value],
        check=True,
        capture_output=True,
        cwd=ROOT,
        timeout=300,
    )
    seen = msgspec.json.decode(ran.stdout, type=_Seen)
    if seen.left_counters:
        raise RuntimeError(f"{seen.left_counters} unused counters were kept")
    return seen


def main() -> None:
    rule = make_rule(Algorithm(sys.argv[1]), 1000, _WINDOW_US)
    counters = MemoryCounters()
    began_bytes = _resident_bytes()
    cpu_began, began = process_time(), perf_counter()
    for number in range(KEYS):
        take = Take("tenant", (f"policy.1.bucket:user-{number:07d}.12",), (rule,), 1, 2)
        counters.decide_all((take,), _NOW_US + number)
    elapsed, cpu = perf_counter() - began, process_time() - cpu_began
    full_bytes = _resident_bytes() - began_bytes
    counters.sweep(_NOW_US + KEYS + 10 * _WINDOW_US)
    left = len(counters)
    left_bytes = _resident_bytes() - began_bytes
    sys.stdout.buffer.write(
        msgspec.json.encode(_Seen(full_bytes, left_bytes, left, KEYS / elapsed, cpu / KEYS * 1e6))
    )


def _resident_bytes() -> int:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what is free is not kept by the counters
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


if __name__ == "__main__":
    main()

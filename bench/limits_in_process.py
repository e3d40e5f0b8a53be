"""`fiscus.limits` in process, beside `limits` and `throttled-py` with the same algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from bench import rivals, workload
from bench.calls import one_by_one
from bench.plan import Plan, Result
from bench.rivals import Ask
from bench.samples import Sample, Target, by_rate, interleaved, known, middle
from bench.servers import Databases

KEYS: Final = 20_000
ROOMY: Final = "1000000/hour"
"""Hardly ever full: the path that most hits take."""
LOGGED: Final = "100/second"
"""A log is as long as its limit; the busiest keys are over it."""
FIVE: Final = ("50000/second", "1000000/minute", "9000000/hour", "80000000/day", "400000000/week")

_SAME: Final = Target(ratio=1.5, rule="at least")
_TOGETHER: Final = Target(ratio=3.0, rule="at least")
_OTHER: Final = " (another algorithm)"
_BARE: Final = " (no more than whether)"


def token_bucket(name: str, databases: Databases, plan: Plan) -> Result:
    return _measured(
        name,
        plan,
        f"hit of a key of {workload.TENANTS}, token bucket {ROOMY}",
        {
            "fiscus": rivals.fiscus(ROOMY),
            "throttled-py token bucket": rivals.throttled("token_bucket", [ROOMY]),
            "throttled-py GCRA": rivals.throttled("gcra", [ROOMY]),
            "fiscus" + _BARE: rivals.fiscus_hit(ROOMY),
        },
    )


def leaky_bucket(name: str, databases: Databases, plan: Plan) -> Result:
    return _measured(
        name,
        plan,
        f"hit of a key of {workload.TENANTS}, leaky bucket {ROOMY}",
        {
            "fiscus": rivals.fiscus(f"{ROOMY} leaky_bucket"),
            "throttled-py leaking bucket": rivals.throttled("leaking_bucket", [ROOMY]),
        },
    )


def fixed_window(name: str, databases: Databases, plan: Plan) -> Result:
    return _measured(
        name,
        plan,
        f"hit of a key of {workload.TENANTS}, fixed window {ROOMY}",
        {
            "fiscus": rivals.fiscus(f"{ROOMY} fixed_window"),
            "limits fixed window": rivals.limits("fixed-window", [ROOMY]),
            "throttled-py fixed window": rivals.throttled("fixed_window", [ROOMY]),
            "limits fixed window" + _BARE: rivals.limits_hit("fixed-window", ROOMY),
        },
    )


def sliding_log(name: str, databases: Databases, plan: Plan) -> Result:
    return _measured(
        name,
        plan,
        f"hit of a key of {workload.TENANTS}, sliding window log {LOGGED}",
        {
            "fiscus": rivals.fiscus(f"{LOGGED} sliding_window_log"),
            "limits moving window": rivals.limits("moving-window", [LOGGED]),
            "limits moving window" + _BARE: rivals.limits_hit("moving-window", LOGGED),
            "limits sliding counter" + _OTHER: rivals.limits("sliding-window-counter", [LOGGED]),
            "throttled-py sliding counter" + _OTHER: rivals.throttled("sliding_window", [LOGGED]),
        },
    )


def five_together(name: str, databases: Databases, plan: Plan) -> Result:
    """One decision on five limits, all or none, beside five decisions one after another."""
    return _measured(
        name,
        plan,
        "five fixed windows as one, beside five calls",
        {
            "fiscus": rivals.fiscus("; ".join(f"{one} fixed_window" for one in FIVE)),
            "limits fixed window": rivals.limits("fixed-window", FIVE),
            "throttled-py fixed window": rivals.throttled("fixed_window", FIVE),
        },
        _TOGETHER,
    )


def _measured(
    name: str, plan: Plan, what: str, contestants: Mapping[str, Ask], target: Target = _SAME
) -> Result:
    """The contestants in turn, for a twelfth of the time that a server is given.

    They are compared by their thread's processor time: all of it is their own, and what else the
    machine does is not in it.
    """
    keys = workload.keys(KEYS)
    samples = interleaved(
        {one: one_by_one(ask, keys) for one, ask in reversed(list(contestants.items()))},
        rounds=plan.rounds,
        seconds=plan.seconds / 12,
    )
    return Result(
        name=name,
        store="memory",
        what=what,
        fiscus=middle(samples["fiscus"]),
        comparisons=[
            by_rate(
                one,
                "hits per cpu second",
                _by_cpu(samples),
                one,
                None if one.endswith((_OTHER, _BARE)) else target,
            )
            for one in contestants
            if not one.startswith("fiscus")
        ],
        peak_memory_bytes=None,
        answer_bytes=None,
        samples=samples,
    )


def _by_cpu(samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[Sample]]:
    return {
        name: [replace(one, operations_per_second=1e6 / known(one.cpu_us)) for one in of_one]
        for name, of_one in samples.items()
    }

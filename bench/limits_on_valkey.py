"""`fiscus.limits` with its counters in Valkey, beside `limits` and `throttled-py` on that one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from bench import rivals, workload
from bench.calls import at_once
from bench.limits_in_process import KEYS, ROOMY
from bench.plan import Plan, Result
from bench.rivals import AskAsync
from bench.samples import Target, by_rate, interleaved, middle
from bench.servers import Databases

CALLERS: Final = 64

_TARGET: Final = Target(ratio=6.0, rule="at least")
_BARE: Final = " (no more than whether)"


def fixed_window(name: str, databases: Databases, plan: Plan) -> Result:
    url = _url(databases)
    return _measured(
        name,
        plan,
        f"hit of a key of {workload.TENANTS}, fixed window {ROOMY}, {CALLERS} callers",
        {
            "fiscus": rivals.fiscus_on_redis(f"{ROOMY} fixed_window", url),
            "limits fixed window": rivals.limits_on_redis("fixed-window", ROOMY, url),
            "throttled-py fixed window": rivals.throttled_on_redis("fixed_window", ROOMY, url),
            "limits fixed window" + _BARE: rivals.limits_hit_on_redis("fixed-window", ROOMY, url),
        },
    )


def token_bucket(name: str, databases: Databases, plan: Plan) -> Result:
    url = _url(databases)
    return _measured(
        name,
        plan,
        f"hit of a key of {workload.TENANTS}, token bucket {ROOMY}, {CALLERS} callers",
        {
            "fiscus": rivals.fiscus_on_redis(ROOMY, url),
            "throttled-py token bucket": rivals.throttled_on_redis("token_bucket", ROOMY, url),
            "throttled-py GCRA": rivals.throttled_on_redis("gcra", ROOMY, url),
        },
    )


def _measured(name: str, plan: Plan, what: str, contestants: Mapping[str, AskAsync]) -> Result:
    """The contestants in turn on one event loop, for an eighth of the time a server is given."""
    keys = workload.keys(KEYS)
    with asyncio.Runner() as runner:
        samples = interleaved(
            {
                one: at_once(runner, ask, keys, CALLERS)
                for one, ask in reversed(list(contestants.items()))
            },
            rounds=plan.rounds,
            seconds=plan.seconds / 8,
        )
    return Result(
        name=name,
        store="valkey",
        what=what,
        fiscus=middle(samples["fiscus"]),
        comparisons=[
            by_rate(one, "hits per second", samples, one, None if one.endswith(_BARE) else _TARGET)
            for one in contestants
            if one != "fiscus"
        ],
        peak_memory_bytes=None,
        answer_bytes=None,
        samples=samples,
    )


def _url(databases: Databases) -> str:
    url = databases.redis_url
    assert url is not None
    return url

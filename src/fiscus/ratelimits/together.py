"""Several requests of a tenant as one take, and what that says to each of them.

A counter that several of them name is taken from once, by the one that asks for the most, and each
is judged by its own priority.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from fiscus.ratelimits.matching import Applied
from fiscus.ratelimits.model import OnCountersFailure
from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Rule, Verdict

Ask = tuple[str, int]
"""A counter's key, and a priority."""


def joined(
    requests: Sequence[tuple[Take, Sequence[Applied]]],
) -> tuple[Take, list[OnCountersFailure]]:
    """One take of all their counters, each once for each priority, and what their policies do
    without them.

    Of a counter that comes several times each is decided from the same state, and that of the last
    one admitted stays; so the one that asks for the most is last.
    """
    counts: dict[Ask, int] = {}
    found: dict[Ask, tuple[Rule, OnCountersFailure]] = {}
    for take, policies in requests:
        for key, rule, policy in zip(take.keys, take.rules, policies, strict=True):
            ask = key, take.priority
            counts[ask] = max(counts.get(ask, 0), take.count)
            found[ask] = rule, policy.policy.state.policy.on_store_failure
    asks = sorted(counts.items(), key=lambda one: one[1])
    take = replace(
        requests[0][0],
        keys=tuple(key for (key, _), _ in asks),
        rules=tuple(found[ask][0] for ask, _ in asks),
        asks=tuple((count, priority) for (_, priority), count in asks),
    )
    return take, [found[ask][1] for ask, _ in asks]


def said(take: Take, taken: Taken) -> dict[Ask, Verdict]:
    """What was said of each counter to those of each priority, after what was taken from it."""
    lines = list(zip(take.keys, take.asks, taken.verdicts, strict=True))
    most = {key: (count, one) for key, (count, _), one in lines if one.allowed}
    told: dict[Ask, Verdict] = {}
    for key, (count, priority), verdict in lines:
        told[key, priority] = verdict
        if taken.admitted and verdict.allowed and most[key][1] is not verdict:
            taken_count, decided = most[key]
            remaining = max(0, verdict.remaining + count - taken_count)
            told[key, priority] = replace(verdict, remaining=remaining, reset_us=decided.reset_us)
    return told

"""Several requests of a tenant as one take, and what that says to each of them.

A counter that several of them name is taken from, or corrected, once: by the one that asks for the
most. Each of them is judged by its own count and priority.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from fiscus.ratelimits.matching import MatchedPolicy
from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Rule, Verdict

Ask = tuple[str, int, int]
"""A counter's key, a count and a priority."""


def join_takes(
    requests: Sequence[tuple[Take, Sequence[MatchedPolicy]]],
) -> tuple[Take, tuple[MatchedPolicy, ...]]:
    """One take of all their counters, each once for each count and priority; and their policies.

    Of a counter that comes several times each is decided from the same state, and that of the last
    one admitted stays; so the one that asks for the most is last.
    """
    found: dict[Ask, tuple[Rule, MatchedPolicy]] = {}
    for take, policies in requests:
        for key, rule, policy in zip(take.keys, take.rules, policies, strict=True):
            found[key, take.count, take.priority] = rule, policy
    asks = sorted(found, key=lambda ask: ask[1])
    take = replace(
        requests[0][0],
        keys=tuple(key for key, _, _ in asks),
        rules=tuple(found[ask][0] for ask in asks),
        asks=tuple((count, priority) for _, count, priority in asks),
    )
    return take, tuple(found[ask][1] for ask in asks)


def verdicts_of(take: Take, taken: Taken) -> dict[Ask, Verdict]:
    """What was said of each counter to those who asked alike, after what was taken from it."""
    lines = list(zip(take.keys, take.asks, taken.verdicts, strict=True))
    most = {key: (count, one) for key, (count, _), one in lines if one.allowed}
    told: dict[Ask, Verdict] = {}
    for key, (count, priority), verdict in lines:
        charge, charged = most.get(key, (0, verdict))
        if not taken.admitted or charged is verdict:
            told[key, count, priority] = verdict
            continue
        before = verdict.remaining + (count if verdict.allowed else 0)
        told[key, count, priority] = replace(
            verdict, remaining=max(0, before - charge), reset_us=charged.reset_us
        )
    return told


def usage_of(take: Take, taken: Taken) -> list[tuple[int, int, Verdict]]:
    """What usage says of each counter, which counts once: a place in `take`, a count, a verdict.

    The count is the most that was asked for and could pass; the verdict denies if one of those did.
    """
    places: dict[str, list[int]] = {}
    for place, key in enumerate(take.keys):
        places.setdefault(key, []).append(place)
    lines: list[tuple[int, int, Verdict]] = []
    for same in places.values():
        possible = [one for one in same if taken.verdicts[one].wait_us is not None] or same
        most = possible[-1]
        denying = [one for one in possible if not taken.verdicts[one].allowed]
        verdict = taken.verdicts[denying[0] if denying else most]
        lines.append((most, take.asks[most][0], verdict))
    return lines


def join_corrections(corrections: Sequence[Take]) -> Take:
    """One correction of all their counters, each once by the largest of its corrections."""
    found: dict[str, tuple[Rule, int]] = {}
    for take in corrections:
        for key, rule in zip(take.keys, take.rules, strict=True):
            if key not in found or abs(found[key][1]) < abs(take.count):
                found[key] = rule, take.count
    first = corrections[0]
    return replace(
        first,
        keys=tuple(found),
        rules=tuple(rule for rule, _ in found.values()),
        asks=tuple((count, first.priority) for _, count in found.values()),
    )

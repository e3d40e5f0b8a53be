"""Leaky bucket as a meter: a level that every request raises and that drains at limit / window.

Source: the continuous-state leaky bucket of ITU-T I.371 (GCRA). The capacity is the limit. Besides
the verdict it tells `delay_ms`: how long the level that the request found takes to drain. A caller
that waits so long before each admitted request sends at the drain rate.
"""

from __future__ import annotations

from fiscus.ratelimits import draining
from fiscus.ratelimits.draining import Level
from fiscus.ratelimits.rules import Rule, Verdict


def decide(rule: Rule, state: Level | None, count: int, ceiling: int, now_us: int) -> Verdict:
    """Add `count` to the level, or nothing; see `draining.decide`."""
    return draining.decide(rule, state, count, ceiling, now_us, shaped=True)

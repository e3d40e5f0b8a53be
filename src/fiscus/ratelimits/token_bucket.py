"""Token bucket: a bucket of limit + burst tokens that refills all the time.

Source: the token bucket of RFC 2697 with one rate, kept as the tokens that are missing (see
`draining`). It starts full and refills at limit / window, also in the middle of a window, so a
client may use the whole bucket at once and then limit / window. Burst adds to the bucket, not to
the refill.
"""

from __future__ import annotations

from fiscus.ratelimits import draining
from fiscus.ratelimits.draining import Level
from fiscus.ratelimits.rules import Rule, Verdict


def decide(rule: Rule, state: Level | None, count: int, ceiling: int, now_us: int) -> Verdict:
    """Take `count` tokens, or none; see `draining.decide`."""
    return draining.decide(rule, state, count, ceiling, now_us, shaped=False)

"""The arithmetic that token and leaky buckets share: a level that drains at a steady rate.

Both are the one meter of RFC 3290 and ITU-T I.371 (GCRA) seen from two sides: a token bucket's
missing tokens are a leaky bucket's level. The level rises by whole requests and drains by
`rate.drain` units per unit of time until it is empty. Nothing is ever rounded while the rate stays
the same.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from fiscus.ratelimits.rules import FAR_US, MAX_WHOLE, Rate, Rule, Verdict

_FAR_MS: Final = FAR_US // 1000
_NEAR_US: Final = _FAR_MS * 1000
"""Times before this one are told as they are."""


class Level(Struct, frozen=True, gc=False):
    """How full a bucket was at a moment, and how fast it drains from then on."""

    at_us: int
    """A multiple of `rate.unit_us`."""
    level: int
    """In units of 1/`rate.scale` request."""
    rate: Rate


def decide(
    rule: Rule, state: Level | None, count: int, ceiling: int, now_us: int, *, shaped: bool = False
) -> Verdict:
    """May `count` more requests be taken without the level passing `ceiling`?

    A denied request, and one of 0, leave the level as it was. A clock that goes back drains
    nothing. `shaped`: tell how long what came before takes to drain.
    """
    rate = rule.rate
    drain, scale, unit_us = rate.drain, rate.scale, rate.unit_us
    if state is None:
        at_us, level = now_us - now_us % unit_us, 0
    else:
        if state.rate is not rate and state.rate != rate:
            state = rebased(state, rate, now_us)
        at_us, level = state.at_us, state.level
        elapsed = (now_us - at_us) // unit_us
        if elapsed > 0:
            at_us += elapsed * unit_us
            drained = elapsed * drain
            level = level - drained if drained < level else 0
    room = ceiling * scale - level
    remaining = room // scale if room > 0 else 0
    wait_us: int | None = 0
    delay_ms = 0
    allowed = count <= remaining
    if allowed:
        remaining -= count
        if shaped and level:
            delay_ms = -(-level * unit_us // (drain * 1000))
        if count:
            level += count * scale
            state = Level(at_us, level, rate)
    elif count <= ceiling:
        over = level - (ceiling - count) * scale
        wait_us = _later(at_us, -(-over // drain), unit_us) - now_us
    else:
        wait_us = None
    reset_us = at_us - (-level // drain) * unit_us
    if not now_us < reset_us < _NEAR_US:
        # rare: an empty level in the middle of a unit, or one that drains for centuries
        reset_us = max(now_us, min(FAR_US, reset_us))
        delay_ms = min(_FAR_MS, delay_ms)
    return Verdict(allowed, remaining, wait_us, reset_us, delay_ms, state)


def adjust(rule: Rule, state: Level | None, count: int, now_us: int) -> Level:
    """The level after a charge was corrected by `count` requests; never below empty."""
    rate = rule.rate
    if state is None:
        state = Level(now_us // rate.unit_us * rate.unit_us, 0, rate)
    elif state.rate != rate:
        state = rebased(state, rate, now_us)
    at_us, level = _drained(state, now_us)
    most = MAX_WHOLE // rate.scale * rate.scale
    level = max(0, min(most, level + count * rate.scale))
    return Level(at_us, level, rate)


def rebased(state: Level, rate: Rate, now_us: int) -> Level:
    """The same use under another rate: the old one holds until `now_us`, the new one from then on.

    A part of a unit rounds up, in the limit's favour, and so does the moment. An empty level is as
    if it had been forgotten.
    """
    at_us, level = _drained(state, now_us)
    at_us = max(at_us, now_us)
    at_us = (-(-at_us // rate.unit_us) if level else at_us // rate.unit_us) * rate.unit_us
    level = -(-level * rate.scale // state.rate.scale)
    return Level(at_us, min(level, MAX_WHOLE // rate.scale * rate.scale), rate)


def empty_us(state: Level) -> int:
    """When the bucket is empty again if nobody comes; the counter can be forgotten then."""
    rate = state.rate
    return _later(state.at_us, -(-state.level // rate.drain), rate.unit_us)


def _drained(state: Level, now_us: int) -> tuple[int, int]:
    unit_us = state.rate.unit_us
    elapsed = (now_us - state.at_us) // unit_us
    if elapsed <= 0:
        return state.at_us, state.level
    return state.at_us + elapsed * unit_us, max(0, state.level - elapsed * state.rate.drain)


def _later(at_us: int, units: int, unit_us: int) -> int:
    return min(FAR_US, at_us + units * unit_us)

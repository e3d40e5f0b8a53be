"""Sliding window log: every hit is remembered for exactly one window.

A hit at t counts until just before t + window, so no stretch of one window's length ever holds
more than the limit. Exact, and as large as its limit, which is why that is at most 10 000.
"""

from __future__ import annotations

from array import array
from typing import Final

from msgspec import Struct

from fiscus.ratelimits.rules import MAX_WHOLE, Rule, Verdict

_COMPACT: Final = 64
"""Forgotten hits that are carried along before the log is copied without them."""


class Log(Struct, frozen=True):
    """The hits of a window, oldest first: a value, though logs share the array they grew from.

    `hits` holds times and counts in turns; this log's are those from `first` up to `last`. What
    lies beyond `last` belongs to a later log.
    """

    at_us: int
    """The latest moment written."""
    window_us: int
    hits: array[int]
    first: int
    last: int
    used: int

    def pairs(self) -> list[tuple[int, int]]:
        """The hits as `(time in microseconds, count)`."""
        part = self.hits[self.first : self.last]
        return list(zip(part[::2], part[1::2], strict=True))


def decide(rule: Rule, state: Log | None, count: int, ceiling: int, now_us: int) -> Verdict:
    """May `count` more hits be made now?

    A denied request, and one of 0, leave the log as it was. A clock that goes back forgets nothing.
    When the window's length changes, hits that had left the old window stay forgotten and the
    others count in the new one.
    """
    window_us = rule.window_us
    at_us, first, used = now_us, 0, 0
    if state is not None:
        if state.at_us > now_us:
            at_us = state.at_us
        first, used = _live(state, state.window_us, at_us)
        if state.window_us != window_us:
            state = Log(at_us, window_us, state.hits, first, state.last, used)
            first, used = _live(state, window_us, at_us)
    remaining = ceiling - used if used < ceiling else 0
    if count <= remaining:
        if count:
            used += count
            state = _with_hit(state, first, used, at_us, window_us, count)
        return Verdict(True, remaining - count, 0, _reset(state, used, now_us), 0, state)
    wait_us = None
    if count <= ceiling:
        assert state is not None
        wait_us = _when_free(state, first, used + count - ceiling) - now_us
    return Verdict(False, remaining, wait_us, _reset(state, used, now_us), 0, state)


def adjust(rule: Rule, state: Log | None, count: int, now_us: int) -> Log | None:
    """The log after a charge was corrected by `count` hits.

    More hits are made now; fewer are taken from the latest; never below zero use.
    """
    at_us = now_us if state is None else max(now_us, state.at_us)
    first, used = (0, 0) if state is None else _live(state, state.window_us, at_us)
    if count > 0:
        count = min(count, MAX_WHOLE - used)
        return _with_hit(state, first, used + count, at_us, rule.window_us, count)
    if state is None:
        return None
    hits = state.hits[first : state.last]
    gone = min(used, -count)
    left = gone
    while left and hits:
        if hits[-1] > left:
            hits[-1] -= left
            break
        left -= hits[-1]
        del hits[-2:]
    return Log(at_us, rule.window_us, hits, 0, len(hits), used - gone)


def empty_us(state: Log) -> int:
    """When the last hit is forgotten."""
    return state.hits[state.last - 2] + state.window_us if state.last > state.first else state.at_us


def _live(state: Log, window_us: int, at_us: int) -> tuple[int, int]:
    """Where the hits begin that still count, and how many requests they are."""
    hits, first, used = state.hits, state.first, state.used
    while first < state.last and hits[first] + window_us <= at_us:
        used -= hits[first + 1]
        first += 2
    return first, used


def _with_hit(
    state: Log | None, first: int, used: int, at_us: int, window_us: int, count: int
) -> Log:
    if state is None:
        return Log(at_us, window_us, array("q", (at_us, count)), 0, 2, used)
    hits, last = state.hits, state.last
    if len(hits) != last or (first > _COMPACT and first > len(hits) // 2):
        hits = hits[first:last]
        first, last = 0, len(hits)
    hits.append(at_us)
    hits.append(count)
    return Log(at_us, window_us, hits, first, last + 2, used)


def _when_free(state: Log, first: int, wanted: int) -> int:
    """The moment at which `wanted` requests have left the window."""
    hits = state.hits
    while True:
        wanted -= hits[first + 1]
        if wanted <= 0:
            return hits[first] + state.window_us
        first += 2


def _reset(state: Log | None, used: int, now_us: int) -> int:
    # a hit that still counts leaves the window after now
    return now_us if state is None or not used else state.hits[state.last - 2] + state.window_us

"""Sliding window log: every hit is remembered for exactly one window.

A hit at t counts until just before t + window, so no stretch of one window's length ever holds
more than the limit. Exact, and as large as its limit, which is why that is at most 10 000. A hit is
held with the total before it, so that where a log begins, and when it has room, is found by halves.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Final

from msgspec import Struct

from fiscus.ratelimits.rules import MAX_WHOLE, Rule, Verdict

_ROUND: Final = MAX_WHOLE + 1
"""Totals begin again at 0 there; what a log holds is less."""
_COMPACT: Final = 64
"""Forgotten hits that are carried along before the log is copied without them."""


class Log(Struct, frozen=True):
    """The hits of a window, oldest first: a value, though logs share the array they grew from.

    `hits` holds in turns when a hit was made, and how many requests were before it; this log's are
    those from `first` up to `last`. What lies beyond `last` belongs to another log.
    """

    at_us: int
    """The latest moment written."""
    window_us: int
    hits: array[int]
    first: int
    last: int
    used: int
    total: int
    """Requests up to the last hit, by the same count as those before each."""

    def pairs(self) -> list[tuple[int, int]]:
        """The hits as `(time in microseconds, count)`."""
        part = self.hits[self.first : self.last]
        after = [*part[3::2], self.total]
        return [
            (at_us, (end - begin) % _ROUND)
            for at_us, begin, end in zip(part[::2], part[1::2], after, strict=False)
        ]


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
            state = Log(at_us, window_us, state.hits, first, state.last, used, state.total)
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
    gone = min(used, -count)
    used -= gone
    last = first + 2 * _begun_before(state, first, used) if used else first
    total = (state.total - gone) % _ROUND
    return Log(at_us, rule.window_us, state.hits, first, last, used, total)


def empty_us(state: Log) -> int:
    """When the last hit is forgotten."""
    return state.hits[state.last - 2] + state.window_us if state.last > state.first else state.at_us


def _live(state: Log, window_us: int, at_us: int) -> tuple[int, int]:
    """Where the hits begin that still count, and how many requests they are."""
    hits, first, last = state.hits, state.first, state.last
    gone_us = at_us - window_us
    if first == last or hits[first] > gone_us:
        return first, state.used
    first += 2  # most often one has left
    if first < last and hits[first] <= gone_us:
        first += 2 * bisect_right(range(first, last, 2), gone_us, key=hits.__getitem__)
    return first, (state.total - hits[first + 1]) % _ROUND if first < last else 0


def _with_hit(
    state: Log | None, first: int, used: int, at_us: int, window_us: int, count: int
) -> Log:
    if state is None:
        return Log(at_us, window_us, array("q", (at_us, 0)), 0, 2, used, count)
    hits, last = state.hits, state.last
    if len(hits) != last or (first > _COMPACT and first > len(hits) // 2):
        hits = hits[first:last]
        first, last = 0, len(hits)
    hits.append(at_us)
    hits.append(state.total)
    total = (state.total + count) % _ROUND
    return Log(at_us, window_us, hits, first, last + 2, used, total)


def _when_free(state: Log, first: int, wanted: int) -> int:
    """The moment at which `wanted` requests have left the window."""
    hits = state.hits
    # most often the oldest hit is enough
    if first + 2 < state.last and (hits[first + 3] - hits[first + 1]) % _ROUND < wanted:
        first += 2 * (_begun_before(state, first, wanted) - 1)
    return hits[first] + state.window_us


def _begun_before(state: Log, first: int, requests: int) -> int:
    """How many hits, from the one at `first` on, have less than so many `requests` before them."""
    hits = state.hits
    begin = hits[first + 1]
    return bisect_left(
        range(first, state.last, 2), requests, key=lambda place: (hits[place + 1] - begin) % _ROUND
    )


def _reset(state: Log | None, used: int, now_us: int) -> int:
    # a hit that still counts leaves the window after now
    return now_us if state is None or not used else state.hits[state.last - 2] + state.window_us

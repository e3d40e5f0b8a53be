"""Fixed window: so many requests in each window of time, windows side by side.

Windows begin at multiples of their length since the Unix epoch, or at the edges of calendar
periods in a time zone, which come with the rule. The known edge: twice the limit can pass around
the end of a window; the other algorithms do not have it.
"""

from __future__ import annotations

from msgspec import Struct

from fiscus.ratelimits.rules import MAX_WHOLE, Rule, Verdict


class Window(Struct, frozen=True, gc=False):
    """What was used of the window that ends at `end_us`; `at_us` is the latest moment counted."""

    at_us: int
    end_us: int
    used: int


def decide(rule: Rule, state: Window | None, count: int, ceiling: int, now_us: int) -> Verdict:
    """May `count` more requests be taken in this window?

    A denied request, and one of 0, use nothing. A clock that goes back stays in the window it had
    reached. When the length of the window changes, what was used counts in the present window.
    """
    at_us = now_us if state is None or state.at_us < now_us else state.at_us
    window_us = rule.window_us
    end_us = window_end(rule, at_us) if rule.window_ends else (at_us // window_us + 1) * window_us
    used = 0
    if state is not None and at_us < state.end_us:
        used = state.used
        if state.end_us != end_us:
            state = Window(at_us, end_us, used)
    remaining = ceiling - used if used < ceiling else 0
    if count <= remaining:
        if count:
            used += count
            state = Window(at_us, end_us, used)
        return Verdict(True, remaining - count, 0, end_us if used else now_us, 0, state)
    wait_us = end_us - now_us if count <= ceiling else None
    return Verdict(False, remaining, wait_us, end_us if used else now_us, 0, state)


def adjust(rule: Rule, state: Window | None, count: int, now_us: int) -> Window:
    """The window after a charge was corrected by `count` requests; never below zero use."""
    at_us = now_us if state is None else max(now_us, state.at_us)
    used = state.used if state is not None and at_us < state.end_us else 0
    return Window(at_us, window_end(rule, at_us), max(0, min(MAX_WHOLE, used + count)))


def window_end(rule: Rule, at_us: int) -> int:
    """The end of the window that a moment lies in."""
    ends = rule.window_ends
    if not ends:
        return (at_us // rule.window_us + 1) * rule.window_us
    for end_us in ends:
        if at_us < end_us:
            return end_us
    # only a counter store whose clock is windows away from ours gets here
    return ends[-1] + ((at_us - ends[-1]) // rule.window_us + 1) * rule.window_us

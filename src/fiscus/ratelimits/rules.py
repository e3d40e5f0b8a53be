"""Rules: a policy's limit at one moment, in whole numbers, and what an algorithm says of a request.

A `Rule` is what an algorithm needs and nothing else. Counters hold whole numbers below 2^53, so
that a script in Redis, whose numbers are doubles, computes the same: amounts in units of 1/`scale`
request, times in microseconds since the Unix epoch, rates as `drain` units per `unit_us`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from math import gcd
from typing import Any, Final, NamedTuple

from msgspec import Struct

from fiscus.errors import ValidationError

MAX_WHOLE: Final = 2**53 - 1
"""The largest whole number that a double holds together with all below it."""

FAR_US: Final = MAX_WHOLE
"""Times beyond what can be told, in the year 2255, are told as this one."""

MAX_LIMIT: Final = 10**12
MAX_WINDOW_SECONDS: Final = 366 * 86_400
MAX_LOG_LIMIT: Final = 10_000

_UNITS_US: Final = (1, 1_000, 1_000_000)


class Algorithm(StrEnum):
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - no password
    LEAKY_BUCKET = "leaky_bucket"
    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW_LOG = "sliding_window_log"


BUCKETS: Final = frozenset({Algorithm.TOKEN_BUCKET, Algorithm.LEAKY_BUCKET})
"""The algorithms whose counters drain at a rate."""

_CEILINGS: Final = ((2, 1), (3, 2), (1, 1), (1, 2))
"""Numerator and denominator of each priority's share of the capacity."""


class Rate(Struct, frozen=True, gc=False):
    """How fast a bucket drains: `drain` units of 1/`scale` request per `unit_us` microseconds.

    `drain / scale` is limit / window in lowest terms, so draining never rounds.
    """

    drain: int
    scale: int
    unit_us: int


class Verdict(Struct, frozen=True, gc=False):
    """What one rule says of one request."""

    allowed: bool
    remaining: int
    """Requests that could be taken right after."""
    wait_us: int | None
    """Until this same request would be admitted if nobody else came; 0: allowed, None: never."""
    reset_us: int
    """When the counter would be unused again, in microseconds since the epoch."""
    delay_ms: int
    """Leaky bucket: how long the requests before this one take to drain; else 0."""
    state: Any
    """The counter after the decision; the very same object when nothing is to be written."""


def decides(one: Verdict, other: Verdict) -> bool:
    """Whether `one` decides what is told rather than `other`, which comes first.

    A denial does before what is allowed, the one with the longer wait before others, and one for
    ever before all; of what is allowed, the one with the least left.
    """
    if one.allowed != other.allowed:
        return not one.allowed
    if one.allowed:
        return one.remaining < other.remaining
    if one.wait_us is None or other.wait_us is None:
        return one.wait_us is None and other.wait_us is not None
    return one.wait_us > other.wait_us


def deciding(verdicts: Sequence[Verdict]) -> int:
    """The place of the verdict that decides; of equals, the first."""
    place = 0
    if len(verdicts) > 1:
        for index, verdict in enumerate(verdicts):
            if decides(verdict, verdicts[place]):
                place = index
    return place


Ceilings = tuple[int, int, int, int]

Decide = Callable[["Rule", Any, int, int, int], Verdict]


class Rule(NamedTuple):
    """A limit at one moment. Two equal rules decide alike."""

    algorithm: Algorithm
    limit: int
    """Requests per window: the effective limit, without burst."""
    window_us: int
    ceilings: Ceilings
    """The most a counter may hold for a request of each of `priorities.PRIORITIES`."""
    rate: Rate
    """Of the buckets; of the others, a constant without meaning."""
    window_ends: tuple[int, ...]
    """Ends of calendar windows around the present, ascending; empty: multiples of the window."""
    shadow: bool
    """Decides and counts, never denies."""


_NO_RATE: Final = Rate(1, 1, 1)


def make_rule(
    algorithm: Algorithm,
    limit: int,
    window_us: int,
    *,
    burst: int = 0,
    shadow: bool = False,
    window_ends: tuple[int, ...] = (),
) -> Rule:
    """The rule of `limit` requests per `window_us` microseconds, plus `burst` for token buckets.

    Raises `ValidationError` naming the field for numbers that no rule can have, and for a bucket
    that whole numbers below 2^53 cannot hold in microseconds, milliseconds or seconds.
    """
    _check_numbers(algorithm, limit, window_us, burst)
    ceilings = ceilings_of(limit + burst)
    rate = rate_of(limit, window_us, ceilings[0]) if algorithm in BUCKETS else _NO_RATE
    return Rule(algorithm, limit, window_us, ceilings, rate, window_ends, shadow)


def ceilings_of(capacity: int) -> Ceilings:
    """The most that a counter may hold for a request of each priority."""
    critical, high, normal, low = (max(1, capacity * above // below) for above, below in _CEILINGS)
    return critical, high, normal, low


def rate_of(limit: int, window_us: int, most: int) -> Rate:
    """`limit` per `window_us` in lowest terms, in the finest unit of time in which a level of
    `most` requests stays below 2^53. Raises `ValidationError` when none does."""
    for unit_us in _UNITS_US:
        if window_us % unit_us == 0:
            window = window_us // unit_us
            common = gcd(limit, window)
            if most * (window // common) <= MAX_WHOLE:
                return Rate(limit // common, window // common, unit_us)
    raise ValidationError(
        f"limit_value {limit} in {window_us / 1_000_000:g} s is too large to be counted exactly",
        field="limit_value",
        suggested_action="Lower limit_value or burst_capacity, or use a shorter or rounder window.",
    )


def _check_numbers(algorithm: Algorithm, limit: int, window_us: int, burst: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise _out_of_range("limit_value", f"must be 1 to {MAX_LIMIT}")
    if not 1 <= window_us <= MAX_WINDOW_SECONDS * 1_000_000:
        raise _out_of_range("time_window_seconds", f"must be 1 to {MAX_WINDOW_SECONDS}")
    if not 0 <= burst <= MAX_LIMIT:
        raise _out_of_range("burst_capacity", f"must be 0 to {MAX_LIMIT}")
    if burst and algorithm is not Algorithm.TOKEN_BUCKET:
        raise ValidationError(
            f"burst_capacity is not known to {algorithm}",
            field="burst_capacity",
            suggested_action="Leave burst_capacity out, or use the algorithm token_bucket.",
        )
    if algorithm is Algorithm.SLIDING_WINDOW_LOG and limit > MAX_LOG_LIMIT:
        raise ValidationError(
            f"limit_value of sliding_window_log must be at most {MAX_LOG_LIMIT}",
            field="limit_value",
            suggested_action="Use token_bucket or fixed_window for larger limits.",
        )


def _out_of_range(field: str, what: str) -> ValidationError:
    return ValidationError.of_field(field, what, f"Correct {field} and send it again.")

"""Decisions while the counters cannot be reached: each policy says which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from fiscus.ratelimits.model import OnCountersFailure
from fiscus.ratelimits.port import CounterStore, Take, Taken
from fiscus.ratelimits.rules import Algorithm, Rule, Verdict, make_rule

_RETRY_US: Final = 1_000_000
_NO_KEY: Final = ""
"""No counter is called so."""
_REFUSING: Final = make_rule(Algorithm.FIXED_WINDOW, 1, 1_000_000)._replace(ceilings=(0, 0, 0, 0))


class DegradedTakes:
    """`allow` admits uncounted, `deny` denies, `local` counts in `stand_in` for the time being.

    All or nothing holds as ever: one policy that denies denies the request, and nothing is counted.
    """

    def __init__(self, stand_in: CounterStore) -> None:
        self._stand_in = stand_in

    def decide(self, take: Take, failure: Sequence[OnCountersFailure], now_us: int) -> Taken:
        """`failure` is each rule's policy. `take` is decided as of `now_us`, ungated."""
        denied = any(
            one is OnCountersFailure.DENY and not rule.shadow
            for one, rule in zip(failure, take.rules, strict=True)
        )
        asks = take.asks or ((take.count, take.priority),) * len(take.rules)
        local = [index for index, one in enumerate(failure) if one is OnCountersFailure.LOCAL]
        counted = replace(
            take,
            keys=tuple(take.keys[index] for index in local),
            rules=tuple(take.rules[index] for index in local),
            asks=tuple(asks[index] for index in local) if take.asks or denied else (),
            gated=False,
        )
        if denied:  # the others say what they would, and nothing is taken from them
            counted = replace(
                counted,
                keys=(*counted.keys, _NO_KEY),
                rules=(*counted.rules, _REFUSING),
                asks=(*counted.asks, (1, take.priority)),
            )
        taken = self._stand_in.decide_all([counted], now_us)[0]
        assert taken is not None
        verdicts = [
            _uncounted(rule, one, ask, taken.admitted, now_us)
            for rule, one, ask in zip(take.rules, failure, asks, strict=True)
        ]
        for index, verdict in zip(local, taken.verdicts, strict=False):
            verdicts[index] = verdict
        return Taken(taken.admitted, verdicts)

    def sweep(self, now_us: int) -> None:
        """Forget counters that are unused: once the others are back nobody takes from these."""
        self._stand_in.sweep(now_us)


def _uncounted(
    rule: Rule, failure: OnCountersFailure, ask: tuple[int, int], admitted: bool, now_us: int
) -> Verdict:
    count, priority = ask
    ceiling = rule.ceilings[priority]
    if failure is OnCountersFailure.DENY:
        wait_us = _RETRY_US if count <= ceiling else None
        return Verdict(False, 0, wait_us, now_us + _RETRY_US, 0, None)
    return Verdict(True, max(0, ceiling - count) if admitted else ceiling, 0, now_us, 0, None)

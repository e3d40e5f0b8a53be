"""Decisions while the counters cannot be reached: each policy says which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from fiscus.ratelimits.model import OnCountersFailure
from fiscus.ratelimits.port import CounterStore, Take, Taken
from fiscus.ratelimits.rules import Rule, Verdict

_RETRY_US: Final = 1_000_000


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
        local = [index for index, one in enumerate(failure) if one is OnCountersFailure.LOCAL]
        counted = replace(
            take,
            keys=tuple(take.keys[index] for index in local),
            rules=tuple(take.rules[index] for index in local),
            count=0 if denied else take.count,
            asks=tuple((0 if denied else take.asks[i][0], take.asks[i][1]) for i in local)
            if take.asks
            else (),
            gated=False,
        )
        taken = self._stand_in.decide_all([counted], now_us)[0]
        assert taken is not None
        asks = take.asks or ((take.count, take.priority),) * len(take.rules)
        verdicts = [
            _uncounted(rule, one, ask, now_us)
            for rule, one, ask in zip(take.rules, failure, asks, strict=True)
        ]
        for index, verdict in zip(local, taken.verdicts, strict=True):
            verdicts[index] = verdict
        return Taken(taken.admitted and not denied, verdicts)


def _uncounted(
    rule: Rule, failure: OnCountersFailure, ask: tuple[int, int], now_us: int
) -> Verdict:
    if failure is OnCountersFailure.DENY:
        return Verdict(False, 0, _RETRY_US, now_us + _RETRY_US, 0, None)
    count, priority = ask
    return Verdict(True, max(0, rule.ceilings[priority] - count), 0, now_us, 0, None)

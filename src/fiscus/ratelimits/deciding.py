"""Several rules decided as one: a request is taken from all of their counters or from none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

from fiscus.ratelimits import draining, fixed_window, leaky_bucket, sliding_window_log, token_bucket
from fiscus.ratelimits.draining import Level
from fiscus.ratelimits.fixed_window import Window
from fiscus.ratelimits.rules import Algorithm, Decide, Rule, Verdict
from fiscus.ratelimits.sliding_window_log import Log

State = Level | Window | Log
"""What a counter holds; a counter that was never used, or is unused again, is None."""

DECIDE: Final[dict[Algorithm, Decide]] = {
    Algorithm.TOKEN_BUCKET: token_bucket.decide,
    Algorithm.LEAKY_BUCKET: leaky_bucket.decide,
    Algorithm.FIXED_WINDOW: fixed_window.decide,
    Algorithm.SLIDING_WINDOW_LOG: sliding_window_log.decide,
}

_ADJUST: Final[dict[Algorithm, Callable[[Rule, Any, int, int], State | None]]] = {
    Algorithm.TOKEN_BUCKET: draining.adjust,
    Algorithm.LEAKY_BUCKET: draining.adjust,
    Algorithm.FIXED_WINDOW: fixed_window.adjust,
    Algorithm.SLIDING_WINDOW_LOG: sliding_window_log.adjust,
}


class Step(NamedTuple):
    """A rule made ready to be decided for requests of one priority."""

    decide: Decide
    rule: Rule
    ceiling: int


def steps_of(rules: Sequence[Rule], priority: int) -> tuple[Step, ...]:
    """`priority` is an index of `PRIORITIES`."""
    return tuple([Step(DECIDE[rule[0]], rule, rule[3][priority]) for rule in rules])


def decide_together(
    rules: Sequence[Rule],
    states: Sequence[State | None],
    count: int,
    priority: int,
    now_us: int,
    asks: Sequence[tuple[int, int]] = (),
) -> tuple[bool, list[Verdict]]:
    """Whether `count` requests are admitted, and what each rule says.

    A rule that denies denies all, unless it only shadows; then no counter is charged, and the rules
    that had room say what is left of it. A shadow rule without room is not charged either: it
    counts what would have been admitted. `priority` is an index of `PRIORITIES`. `asks` are count
    and priority for each rule, where they differ.
    """
    if not asks:
        return decide_steps(steps_of(rules, priority), states, repeat(count), now_us)
    steps = [
        Step(DECIDE[rule.algorithm], rule, rule.ceilings[rank])
        for rule, (_, rank) in zip(rules, asks, strict=True)
    ]
    return decide_steps(steps, states, [one for one, _ in asks], now_us)


def decide_steps(
    steps: Sequence[Step], states: Sequence[State | None], counts: Iterable[int], now_us: int
) -> tuple[bool, list[Verdict]]:
    """As `decide_together`, for rules that are decided often; `counts` may go on for ever."""
    verdicts: list[Verdict] = []
    admitted = True
    # not strict: `counts` may have no end
    for (decide, rule, ceiling), state, count in zip(steps, states, counts):  # noqa: B905
        verdict = decide(rule, state, count, ceiling, now_us)
        verdicts.append(verdict)
        if not verdict.allowed and not rule.shadow:
            admitted = False
    return admitted, verdicts if admitted else _nothing_taken(steps, states, verdicts, now_us)


def _nothing_taken(
    steps: Sequence[Step],
    states: Sequence[State | None],
    verdicts: Sequence[Verdict],
    now_us: int,
) -> list[Verdict]:
    return [
        step.decide(step.rule, state, 0, step.ceiling, now_us) if verdict.allowed else verdict
        for step, state, verdict in zip(steps, states, verdicts, strict=True)
    ]


def adjusted(rule: Rule, state: State | None, count: int, now_us: int) -> State | None:
    """A counter after a charge was corrected by `count` requests; never below zero use."""
    return _ADJUST[rule.algorithm](rule, state, count, now_us)


def unused_from_us(state: State) -> int:
    """From when on a counter is as if it had never been used, whatever its rule is by then."""
    if isinstance(state, Level):
        return draining.empty_us(state)
    if isinstance(state, Window):
        return state.end_us
    return sliding_window_log.empty_us(state)

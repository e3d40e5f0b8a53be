"""Rules, takes and histories for the tests of counters, and what is compared of their outcomes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from fiscus.errors import ValidationError
from fiscus.priorities import PRIORITIES, Priority
from fiscus.ratelimits.deciding import State, adjusted, decide_together
from fiscus.ratelimits.port import CounterStore, Take, Taken
from fiscus.ratelimits.rules import (
    MAX_LIMIT,
    MAX_LOG_LIMIT,
    Algorithm,
    Rule,
    Verdict,
    make_rule,
)
from fiscus.ratelimits.sliding_window_log import Log
from fiscus.stores.counters.memory import MemoryCounters
from fiscus.stores.counters.redis import RedisCounters
from tests.counters.redis_states import state_of

SECOND_US = 1_000_000
NORMAL = PRIORITIES.index(Priority.NORMAL)
NOON_US = 1_773_144_000_000_000
"""A Tuesday noon in 2026, a multiple of every window that the tests use up to an hour."""

Seen = tuple[bool, list[tuple[bool, int, int | None, int, int]]] | None


def new_tenant() -> str:
    return f"tenant-{secrets.token_hex(6)}"


def rule(algorithm: Algorithm | str, limit: int, seconds: float, **others) -> Rule:
    return make_rule(Algorithm(algorithm), limit, round(seconds * SECOND_US), **others)


def seen(taken: Taken | None) -> Seen:
    """All that an outcome says, without the state, which a store may keep to itself."""
    return None if taken is None else (taken.admitted, [line(one) for one in taken.verdicts])


def line(verdict: Verdict) -> tuple[bool, int, int | None, int, int]:
    return (
        verdict.allowed,
        verdict.remaining,
        verdict.wait_us,
        verdict.reset_us,
        verdict.delay_ms,
    )


def content(state: State | None) -> object:
    """What a state says: logs with the same hits are the same, however they lie in memory."""
    if isinstance(state, Log):
        return state.at_us, state.window_us, state.pairs(), state.used
    return state


def state_in(store: CounterStore, tenant_id: str, key: str) -> State | None:
    if isinstance(store, RedisCounters):
        return state_of(store, tenant_id, key)
    assert isinstance(store, MemoryCounters)
    return store.state(key)


class PureCounters:
    """The pure functions over a dictionary: what every store must do."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}

    def decide_all(self, takes: Sequence[Take], now_us: int) -> list[Taken | None]:
        results: list[Taken | None] = []
        admitted = True
        for take in takes:
            if take.gated and not admitted:
                results.append(None)
                continue
            before = [self.states.get(key) for key in take.keys]
            admitted, verdicts = decide_together(
                take.rules, before, take.count, take.priority, now_us, take.asks
            )
            for key, state, verdict in zip(take.keys, before, verdicts, strict=True):
                if verdict.state is None or (not verdict.allowed and self.states[key] != state):
                    continue  # of several asks on one counter, another was taken from it
                self.states[key] = verdict.state
            results.append(Taken(admitted, verdicts))
        return results

    def adjust(self, take: Take, now_us: int) -> list[Verdict]:
        asks = take.asks or ((take.count, take.priority),) * len(take.keys)
        for key, its_rule, (count, _) in zip(take.keys, take.rules, asks, strict=True):
            state = adjusted(its_rule, self.states.get(key), count, now_us)
            if state is not None:
                self.states[key] = state
        asks = tuple((0, priority) for _, priority in take.asks)
        look = Take(take.tenant_id, take.keys, take.rules, 0, take.priority, asks=asks)
        (taken,) = self.decide_all([look], now_us)
        assert taken is not None
        return taken.verdicts

    def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.states.pop(key, None)


# ---------------------------------------------------------------- generated histories

_WINDOWS_US = (
    *(1, 7, 1000, 1_500_000, 30 * SECOND_US, 60 * SECOND_US),
    *(3600 * SECOND_US, 86_400 * SECOND_US, 366 * 86_400 * SECOND_US),
)


@dataclass(frozen=True)
class Step:
    """At `now_us` a group of takes, or one correction, or one forgetting."""

    now_us: int
    kind: str
    takes: tuple[Take, ...]


def rules_of(algorithm: Algorithm, *, shadow: st.SearchStrategy[bool] = st.just(False)):  # noqa: B008
    """Every kind of rule of an algorithm, the smallest and the largest more often than fair."""
    most = MAX_LOG_LIMIT if algorithm is Algorithm.SLIDING_WINDOW_LOG else MAX_LIMIT
    limits = st.one_of(st.integers(1, 12), st.integers(1, most), st.sampled_from([7, 1000, most]))
    bursts = st.one_of(st.just(0), st.integers(0, 9), st.just(MAX_LIMIT))
    windows = st.one_of(
        st.sampled_from(_WINDOWS_US), st.integers(1, 4000).map(lambda one: one * SECOND_US)
    )

    def build(limit: int, window_us: int, burst: int, shadows: bool) -> Rule | None:
        try:
            return make_rule(
                algorithm,
                limit,
                window_us,
                burst=burst if algorithm is Algorithm.TOKEN_BUCKET else 0,
                shadow=shadows,
            )
        except ValidationError:
            return None

    made = st.builds(build, limits, windows, bursts, shadow)
    return made.filter(lambda one: one is not None)


@st.composite
def histories(draw, *, steps: int = 8, backwards: bool = True) -> list[Step]:
    """Steps over a few counters whose rules change, at times that may also go back.

    Few enough takes that a store in this process does not begin to look for unused counters.
    """
    algorithms = draw(st.lists(st.sampled_from(list(Algorithm)), min_size=1, max_size=3))
    keys = [f"{index}.{algorithm}" for index, algorithm in enumerate(algorithms)]
    some_shadow = st.sampled_from([False, False, False, True])
    pools = [
        draw(st.lists(rules_of(one, shadow=some_shadow), min_size=1, max_size=3))
        for one in algorithms
    ]
    windows = [one.window_us for pool in pools for one in pool]
    now_us = draw(st.sampled_from([0, NOON_US, NOON_US + 123_457]))
    moves = st.one_of(
        st.just(0),
        st.integers(0, 3 * SECOND_US),
        st.sampled_from(windows),
        st.sampled_from(windows).flatmap(lambda one: st.integers(0, one)),
        *([st.integers(-90 * SECOND_US, 0)] if backwards else []),
    )
    history: list[Step] = []
    for _ in range(draw(st.integers(1, steps))):
        now_us = min(2**52, max(0, now_us + draw(moves)))
        kind = draw(st.sampled_from(["decide"] * 6 + ["adjust", "forget"]))
        takes = draw(st.integers(1, 2)) if kind == "decide" else 1
        group = tuple(draw(_takes(keys, pools, kind, gated=index > 0)) for index in range(takes))
        history.append(Step(now_us, kind, group))
    return history


@st.composite
def _takes(draw, keys: list[str], pools: list[list[Rule]], kind: str, *, gated: bool) -> Take:
    chosen = draw(
        st.lists(st.integers(0, len(keys) - 1), min_size=1, max_size=len(keys), unique=True)
    )
    rules = tuple(draw(st.sampled_from(pools[index])) for index in chosen)
    ceiling = min(one.ceilings[NORMAL] for one in rules)
    count = draw(
        st.one_of(
            st.integers(0, 3),
            st.integers(0, ceiling),
            st.sampled_from([ceiling, 2 * ceiling, MAX_LIMIT]),
        )
    )
    asks: tuple[tuple[int, int], ...] = ()
    signs = st.sampled_from([1, -1] if kind == "adjust" else [1])
    count *= draw(signs)
    if draw(st.booleans()):
        priorities = st.integers(0, len(PRIORITIES) - 1)
        asks = tuple(
            (draw(st.integers(0, max(3, one.ceilings[NORMAL]))) * draw(signs), draw(priorities))
            for one in rules
        )
    return Take(
        "",
        tuple(keys[index] for index in chosen),
        rules,
        count,
        draw(st.integers(0, len(PRIORITIES) - 1)),
        gated and draw(st.booleans()),
        asks,
    )

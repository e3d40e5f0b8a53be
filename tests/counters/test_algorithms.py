"""The pure functions of the four algorithms keep what they promise, to the microsecond."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fiscus.priorities import PRIORITIES
from fiscus.ratelimits import draining
from fiscus.ratelimits.deciding import DECIDE, State, adjusted, unused_from_us
from fiscus.ratelimits.rules import FAR_US, MAX_WHOLE, Algorithm, Rate, Rule, Verdict, make_rule
from tests.counters.histories import (
    NOON_US,
    NORMAL,
    SECOND_US,
    PureCounters,
    histories,
    rule,
    rules_of,
    seen,
)

any_rule = st.sampled_from(list(Algorithm)).flatmap(rules_of)
bucket_rule = st.sampled_from([Algorithm.TOKEN_BUCKET, Algorithm.LEAKY_BUCKET]).flatmap(rules_of)
small_rule = st.builds(
    make_rule,
    st.sampled_from(list(Algorithm)),
    st.integers(1, 12),
    st.sampled_from([7, 1000, 30 * SECOND_US, 60 * SECOND_US]),
)


def decide(one: Rule, state: State | None, count: int, now_us: int) -> Verdict:
    return DECIDE[one.algorithm](one, state, count, one.ceilings[NORMAL], now_us)


@st.composite
def used(draw, rules: st.SearchStrategy[Rule] = any_rule) -> tuple[Rule, State | None, int]:
    """A rule, a counter that some requests took from, and the time."""
    one, state, now_us = draw(rules), None, NOON_US
    for _ in range(draw(st.integers(0, 6))):
        count = draw(st.integers(1, one.ceilings[NORMAL]))
        state = decide(one, state, count, now_us).state
        now_us += draw(st.integers(0, one.window_us // 2))
    return one, state, now_us


@given(counter=used(), data=st.data())
def test_waiting_admits_and_not_a_microsecond_earlier(
    counter: tuple[Rule, State | None, int], data: st.DataObject
) -> None:
    one, state, now_us = counter
    verdict = decide(one, state, data.draw(st.integers(1, one.ceilings[NORMAL])), now_us)
    if verdict.allowed:
        assert verdict.wait_us == 0
        return
    count = verdict.remaining + 1
    verdict = decide(one, state, count, now_us)
    assert verdict.wait_us is not None
    assert verdict.wait_us > 0
    assume(now_us + verdict.wait_us < FAR_US)
    assert decide(one, state, count, now_us + verdict.wait_us).allowed
    assert not decide(one, state, count, now_us + verdict.wait_us - 1).allowed


@given(counter=used())
def test_remaining_can_be_taken_and_no_more(counter: tuple[Rule, State | None, int]) -> None:
    one, state, now_us = counter
    remaining = decide(one, state, 0, now_us).remaining
    assert not decide(one, state, remaining + 1, now_us).allowed
    taken = decide(one, state, remaining, now_us)
    assert (taken.allowed, taken.remaining) == (True, 0)


@given(counter=used())
def test_denied_request_and_look_give_back_the_same_state(
    counter: tuple[Rule, State | None, int],
) -> None:
    one, state, now_us = counter
    assert decide(one, state, 0, now_us).state is state
    assert decide(one, state, one.ceilings[NORMAL] + 1, now_us).state is state


@given(counter=used())
def test_counter_is_unused_at_its_reset_and_not_before(
    counter: tuple[Rule, State | None, int],
) -> None:
    one, state, now_us = counter
    reset_us = decide(one, state, 0, now_us).reset_us
    assume(now_us < reset_us < FAR_US)
    whole = one.ceilings[NORMAL]
    assert decide(one, state, 0, reset_us).remaining == whole
    assert decide(one, state, 0, reset_us - 1).remaining < whole or one.algorithm in (
        Algorithm.TOKEN_BUCKET,
        Algorithm.LEAKY_BUCKET,
    )
    assert state is not None
    assert unused_from_us(state) == reset_us


@given(one=bucket_rule, data=st.data())
def test_level_never_drifts_from_the_exact_fraction(one: Rule, data: st.DataObject) -> None:
    unit_us = one.rate.unit_us
    rate = Fraction(one.limit, one.window_us)
    now_us = at_us = NOON_US // unit_us * unit_us
    state, level = None, Fraction(0)
    for _ in range(20):
        now_us += data.draw(st.integers(0, one.window_us))
        at_us, before_us = now_us // unit_us * unit_us, at_us
        level = max(Fraction(0), level - rate * (at_us - before_us))
        count = data.draw(st.integers(0, max(1, one.ceilings[NORMAL] // 4)))
        verdict = decide(one, state, count, now_us)
        assert verdict.allowed == (level + count <= one.ceilings[NORMAL])
        if verdict.allowed:
            level += count
        assert verdict.remaining == int(one.ceilings[NORMAL] - level)
        state = verdict.state


@given(
    one=small_rule,
    moves=st.lists(st.tuples(st.integers(0, 9 * SECOND_US), st.integers(1, 4)), max_size=40),
)
def test_no_stretch_of_time_admits_more_than_the_algorithm_says(
    one: Rule, moves: list[tuple[int, int]]
) -> None:
    admitted: list[tuple[int, int]] = []
    state, now_us = None, NOON_US
    for move_us, count in moves:
        now_us += move_us
        verdict = decide(one, state, count, now_us)
        state = verdict.state
        if verdict.allowed:
            admitted.append((now_us, count))
    for index, (first_us, _) in enumerate(admitted):
        total = 0
        for at_us, count in admitted[index:]:
            total += count
            length_us = at_us - first_us
            if one.algorithm is Algorithm.SLIDING_WINDOW_LOG:
                assert total <= one.limit or length_us >= one.window_us
            elif one.algorithm is Algorithm.FIXED_WINDOW:
                same_window = at_us // one.window_us == first_us // one.window_us
                assert total <= one.limit or not same_window
            else:
                assert total <= one.limit + Fraction(one.limit * length_us, one.window_us)


@given(history=histories(steps=10))
def test_state_stays_within_what_a_double_holds(history: list) -> None:
    counters = PureCounters()
    for step in history:
        if step.kind == "adjust":
            counters.adjust(step.takes[0], step.now_us)
        else:
            for taken in counters.decide_all(step.takes, step.now_us):
                _, verdicts = seen(taken) or (False, [])
                for numbers in verdicts:
                    assert all(0 <= (number or 0) <= MAX_WHOLE for number in numbers)
        for state in counters.states.values():
            numbers = (getattr(state, name, 0) for name in ("at_us", "level", "used", "end_us"))
            assert all(0 <= number <= MAX_WHOLE for number in numbers)


@given(counter=used(bucket_rule), other=bucket_rule)
def test_use_taken_along_to_another_rate_is_never_less_and_less_than_a_unit_more(
    counter: tuple[Rule, State | None, int], other: Rule
) -> None:
    one, state, now_us = counter
    assume(state is not None)
    now_level = adjusted(one, state, 0, now_us)
    assert isinstance(state, draining.Level)
    assert isinstance(now_level, draining.Level)
    rebased = draining.rebased(state, other.rate, now_us)
    before = Fraction(now_level.level, one.rate.scale)
    after = Fraction(rebased.level, other.rate.scale)
    most = Fraction(MAX_WHOLE // other.rate.scale)
    assert min(before, most) <= after < before + Fraction(1, other.rate.scale)


def test_empty_bucket_under_another_rate_is_as_if_it_was_never_used() -> None:
    coarse = rule("token_bucket", 10**8 - 1, 366 * 86_400)
    assert coarse.rate.unit_us == SECOND_US
    long_empty = draining.Level(NOON_US - 1000 * SECOND_US, 5, Rate(1, 10, 1))
    now_us = NOON_US + 500
    kept = decide(coarse, long_empty, 7, now_us)
    new = decide(coarse, None, 7, now_us)
    assert (kept.reset_us, kept.state) == (new.reset_us, new.state)


def test_bucket_that_was_adjusted_far_above_its_capacity_says_so_in_bounds() -> None:
    one = rule("leaky_bucket", 150_001, 366 * 86_400)
    state = adjusted(one, None, 10**12, NOON_US)
    verdict = decide(one, state, 0, NOON_US)
    assert (verdict.remaining, verdict.reset_us, verdict.delay_ms) == (0, FAR_US, FAR_US // 1000)


def test_priorities_have_a_ceiling_of_at_least_one() -> None:
    assert rule("fixed_window", 1, 60).ceilings == (2, 1, 1, 1)
    assert len(PRIORITIES) == len(rule("fixed_window", 7, 60).ceilings)
    assert rule("token_bucket", 5, 60, burst=2).ceilings == (14, 10, 7, 3)


@pytest.mark.parametrize("already", [0, 1, MAX_WHOLE, MAX_WHOLE - 20])
def test_log_says_what_a_list_of_its_hits_says(already: int) -> None:
    """`already`: what the log has counted before, whose total begins again at 2^53."""
    made = random.Random(already)
    log = make_rule(Algorithm.SLIDING_WINDOW_LOG, 100, 60)
    state = adjusted(log, None, already, NOON_US)
    now_us, hits = NOON_US + 60, list[tuple[int, int]]()
    for _ in range(3000):
        now_us += made.choice([0, 1, 2, 40])
        hits = [one for one in hits if now_us < one[0] + 60]
        if made.random() < 0.1:
            count = made.randint(-30, 5)
            state = adjusted(log, state, count, now_us)
            hits = corrected(hits, count, now_us)
        count = made.choice([1, 1, 2, 30, 100])
        verdict = decide(log, state, count, now_us)
        room = 100 - sum(one for _, one in hits)
        assert verdict.allowed == (count <= room)
        if verdict.allowed:
            state = verdict.state
            hits.append((now_us, count))
        else:
            assert verdict.remaining == max(0, room)
            assert verdict.wait_us == first_room(hits, count - room) + 60 - now_us
        assert verdict.reset_us == hits[-1][0] + 60
        assert state is not None
        assert unused_from_us(state) == verdict.reset_us


def corrected(hits: list[tuple[int, int]], count: int, now_us: int) -> list[tuple[int, int]]:
    """A log's hits after a correction: more are made now, or the latest are not."""
    if count > 0:
        return [*hits, (now_us, count)]
    left = list(hits)
    while left and count < 0:
        at_us, held = left.pop()
        if held + count > 0:
            left.append((at_us, held + count))
        count += held
    return left


def first_room(hits: list[tuple[int, int]], wanted: int) -> int:
    """When the hit was made with which `wanted` requests will have left."""
    for at_us, count in hits:
        wanted -= count
        if wanted <= 0:
            return at_us
    raise AssertionError(wanted)

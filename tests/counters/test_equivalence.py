"""The pure functions, the counters in this process and those in Valkey decide alike."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fiscus.errors import ValidationError
from fiscus.ratelimits.deciding import unused_from_us
from fiscus.ratelimits.port import Take
from fiscus.ratelimits.rules import MAX_LIMIT, MAX_WHOLE, Algorithm, Rule, make_rule
from fiscus.stores.counters.memory import MemoryCounters
from fiscus.stores.counters.redis import RedisCounters
from tests.counters.histories import (
    NOON_US,
    NORMAL,
    SECOND_US,
    PureCounters,
    Step,
    content,
    histories,
    line,
    new_tenant,
    rule,
    rules_of,
    seen,
    state_in,
)
from tests.counters.redis_states import state_of

any_rule = st.sampled_from(list(Algorithm)).flatmap(rules_of)


@pytest.fixture(scope="module")
def redis(valkey_url: str) -> Iterator[RedisCounters]:
    store = RedisCounters(valkey_url, timeout_seconds=20)
    yield store
    store.close()


@given(history=histories())
def test_every_store_says_the_same_and_holds_the_same(
    redis: RedisCounters, history: list[Step]
) -> None:
    pure, memory = PureCounters(), MemoryCounters()
    stores = (memory, redis)
    tenant_id = new_tenant()
    for step in history:
        takes = [replace(take, tenant_id=tenant_id) for take in step.takes]
        if step.kind == "decide":
            expected = [seen(one) for one in pure.decide_all(takes, step.now_us)]
            for store in stores:
                assert [seen(one) for one in store.decide_all(takes, step.now_us)] == expected
        elif step.kind == "adjust":
            lines = [line(one) for one in pure.adjust(takes[0], step.now_us)]
            for store in stores:
                assert [line(one) for one in store.adjust(takes[0], step.now_us)] == lines
        else:
            pure.forget(takes[0].keys)
            for store in stores:
                store.forget(tenant_id, takes[0].keys)
        for key in {key for take in takes for key in take.keys}:
            held = content(pure.states.get(key))
            for store in stores:
                assert content(state_in(store, tenant_id, key)) == held


@given(history=histories(steps=12, backwards=False))
def test_forgetting_unused_counters_changes_no_answer(history: list[Step]) -> None:
    keeping, forgetting = PureCounters(), PureCounters()
    for step in history:
        for key, state in list(forgetting.states.items()):
            if unused_from_us(state) <= step.now_us:
                forgetting.forget([key])
        if step.kind == "decide":
            kept = [seen(one) for one in keeping.decide_all(step.takes, step.now_us)]
            assert [seen(one) for one in forgetting.decide_all(step.takes, step.now_us)] == kept
        elif step.kind == "adjust":
            lines = [line(one) for one in keeping.adjust(step.takes[0], step.now_us)]
            assert [line(one) for one in forgetting.adjust(step.takes[0], step.now_us)] == lines


@given(one=any_rule, counts=st.lists(st.integers(0, 100), min_size=1, max_size=5), data=st.data())
def test_moments_that_answers_name_are_the_same_moments_everywhere(
    redis: RedisCounters, one: Rule, counts: list[int], data: st.DataObject
) -> None:
    """A history that goes to where something changes, or a microsecond beside it."""
    pure, tenant_id, now_us = PureCounters(), new_tenant(), NOON_US + 1
    for percent in counts:
        count = one.ceilings[NORMAL] * percent // 100
        take = Take(tenant_id, ("key",), (one,), count, NORMAL)
        decided = pure.decide_all([take], now_us)
        assert [seen(taken) for taken in redis.decide_all([take], now_us)] == [
            seen(taken) for taken in decided
        ]
        assert content(state_of(redis, tenant_id, "key")) == content(pure.states.get("key"))
        assert decided[0] is not None
        verdict = decided[0].verdicts[0]
        moment_us = data.draw(st.sampled_from([verdict.reset_us, now_us + (verdict.wait_us or 0)]))
        now_us = min(2**52, moment_us + data.draw(st.integers(-1, 1)))


@given(
    algorithm=st.sampled_from(list(Algorithm)),
    corrections=st.lists(
        st.sampled_from([1, 7, MAX_LIMIT, MAX_WHOLE, MAX_WHOLE - 5]).flatmap(
            lambda size: st.sampled_from([size, -size])
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_corrections_of_any_size_leave_the_same_whole_number(
    redis: RedisCounters, algorithm: Algorithm, corrections: list[int]
) -> None:
    pure, tenant_id = PureCounters(), new_tenant()
    for count in corrections:
        take = Take(tenant_id, ("key",), (rule(algorithm, 10, 60),), count, NORMAL)
        lines = [line(one) for one in pure.adjust(take, NOON_US)]
        assert [line(one) for one in redis.adjust(take, NOON_US)] == lines
        assert content(state_of(redis, tenant_id, "key")) == content(pure.states.get("key"))


@given(
    steps=st.lists(
        st.tuples(
            st.integers(-3 * SECOND_US, 30 * SECOND_US),  # later than the step before
            st.sampled_from([5, 5, 60]),  # seconds of the window; then takes, or a correction
            st.one_of(st.integers(1, 50), st.integers(-40, -1), st.integers(-150, -1)),
            st.integers(2, 3),  # count of each take
        ),
        min_size=3,
        max_size=12,
    )
)
def test_logs_longer_than_what_is_fetched_at_once_are_the_same(
    redis: RedisCounters, steps: list[tuple[int, int, int, int]]
) -> None:
    pure, tenant_id, now_us = PureCounters(), new_tenant(), NOON_US
    for later_us, seconds, takes, count in steps:
        now_us += later_us
        log = rule(Algorithm.SLIDING_WINDOW_LOG, 100, seconds)
        take = Take(tenant_id, ("log",), (log,), count, NORMAL)
        if takes < 0:
            correction = replace(take, count=takes)
            lines = [line(one) for one in pure.adjust(correction, now_us)]
            assert [line(one) for one in redis.adjust(correction, now_us)] == lines
        else:
            group = [take] * takes + [replace(take, count=90)]
            expected = [seen(one) for one in pure.decide_all(group, now_us)]
            assert [seen(one) for one in redis.decide_all(group, now_us)] == expected
        held = content(pure.states.get("log"))
        assert content(state_of(redis, tenant_id, "log")) == held


def test_log_whose_total_begins_again_is_the_same(redis: RedisCounters) -> None:
    pure, tenant_id, now_us = PureCounters(), new_tenant(), NOON_US
    log = rule(Algorithm.SLIDING_WINDOW_LOG, 100, 5)
    take = Take(tenant_id, ("log",), (log,), MAX_WHOLE - 20, NORMAL)
    lines = [line(one) for one in pure.adjust(take, now_us)]
    assert [line(one) for one in redis.adjust(take, now_us)] == lines
    for step in range(1, 60):
        now_us += SECOND_US if step % 7 else 3 * SECOND_US
        group = [replace(take, count=count) for count in (4, 3, 90)]
        expected = [seen(one) for one in pure.decide_all(group, now_us)]
        assert [seen(one) for one in redis.decide_all(group, now_us)] == expected
        if step % 5 == 0:
            back = replace(take, count=-5)
            lines = [line(one) for one in pure.adjust(back, now_us)]
            assert [line(one) for one in redis.adjust(back, now_us)] == lines
        assert content(state_of(redis, tenant_id, "log")) == content(pure.states.get("log"))


def test_level_takes_every_rate_along_exactly(redis: RedisCounters) -> None:
    """The one product that no double holds: a level in other units."""
    made = random.Random(4)
    for _ in range(60):
        pure, tenant_id, now_us = PureCounters(), new_tenant(), NOON_US
        for _ in range(4):
            limit = made.choice([made.randint(1, 20), made.randint(1, 10**6)])
            window_us = made.choice([1, 10**6]) * made.randint(1, 31_622_400)
            try:
                bucket = make_rule(Algorithm.TOKEN_BUCKET, limit, window_us)
            except ValidationError:
                continue
            take = Take(tenant_id, ("bucket",), (bucket,), made.randint(1, limit), NORMAL)
            now_us += made.randint(0, window_us)
            expected = [seen(one) for one in pure.decide_all([take], now_us)]
            assert [seen(one) for one in redis.decide_all([take], now_us)] == expected
            assert state_of(redis, tenant_id, "bucket") == pure.states.get("bucket")

"""What every counter store does, in process and on Valkey."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from fiscus.priorities import PRIORITIES
from fiscus.ratelimits.port import CounterStore, Take, Taken
from fiscus.ratelimits.rules import FAR_US, MAX_LIMIT, Algorithm, Rule
from tests.counters.histories import (
    NOON_US,
    NORMAL,
    SECOND_US,
    content,
    new_tenant,
    rule,
    state_in,
)

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "ratelimits.json"
EVERY_ALGORITHM = pytest.mark.parametrize("algorithm", list(Algorithm))


class Counters:
    """Counters of a new tenant in a store, one for each rule."""

    def __init__(self, store: CounterStore, *rules: Rule) -> None:
        self.store = store
        self.rules = rules
        self.tenant_id = new_tenant()
        # policies, and so the keys of their counters, are never of two tenants
        self.keys = tuple(f"{self.tenant_id}.{index}" for index in range(len(rules)))

    def request(self, count: int = 1, *, priority: int = NORMAL, gated: bool = False) -> Take:
        return Take(self.tenant_id, self.keys, self.rules, count, priority, gated)

    def take(self, count: int = 1, *, at: float = 0, priority: int = NORMAL) -> Taken:
        now_us = NOON_US + round(at * SECOND_US)
        (taken,) = self.store.decide_all([self.request(count, priority=priority)], now_us)
        assert taken is not None
        return taken

    def admits(self, count: int = 1, *, at: float = 0, priority: int = NORMAL) -> bool:
        return self.take(count, at=at, priority=priority).admitted

    def left(self, *, at: float = 0, priority: int = NORMAL) -> list[int]:
        return [one.remaining for one in self.take(0, at=at, priority=priority).verdicts]

    def adjust(self, count: int, *, at: float = 0) -> list[int]:
        verdicts = self.store.adjust(self.request(count), NOON_US + round(at * SECOND_US))
        return [one.remaining for one in verdicts]

    def held(self) -> list[object]:
        return [content(state_in(self.store, self.tenant_id, key)) for key in self.keys]


def whole_seconds(wait_us: int | None) -> int | None:
    return None if wait_us is None else -(-wait_us // SECOND_US)


def histories() -> list[pytest.param]:
    if not VECTORS.is_file():
        reason = pytest.mark.skip(reason=f"no vectors at {VECTORS}")
        return [pytest.param(None, id="vectors", marks=reason)]
    return [
        pytest.param(one, id=one["name"]) for one in json.loads(VECTORS.read_text())["histories"]
    ]


@pytest.mark.parametrize("history", histories())
def test_published_history_has_the_published_answers(store: CounterStore, history: dict) -> None:
    rules = [
        rule(
            one["algorithm"],
            one["limit_value"],
            one["time_window_seconds"],
            burst=one.get("burst_capacity", 0),
        )
        for one in history["policies"]
    ]
    counters = Counters(store, *rules)
    for step in history["steps"]:
        now_us = round(step["t"] * SECOND_US)
        (taken,) = store.decide_all([counters.request(step["n"])], now_us)
        assert taken is not None
        waits = [one.wait_us for one in taken.verdicts if not one.allowed]
        wait = None if None in waits else whole_seconds(max(waits, default=0))
        answer = {
            "allowed": taken.admitted,
            "remaining": min(one.remaining for one in taken.verdicts),
            "retry_after": wait,
        }
        assert {name: answer[name] for name in answer if name in step} == {
            name: step[name] for name in answer if name in step
        }, step


# ---------------------------------------------------------------- several rules


@EVERY_ALGORITHM
def test_hundred_threads_on_five_per_minute_admit_exactly_five(
    store: CounterStore, algorithm: Algorithm
) -> None:
    counters = Counters(store, rule(algorithm, 5, 60), rule("token_bucket", 1000, 60))
    together = threading.Barrier(100)
    admitted: list[bool] = []

    def ask() -> None:
        together.wait(30)
        admitted.append(counters.admits())

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(admitted), sum(admitted)) == (100, 5)
    assert counters.left()[1] == 995


@EVERY_ALGORITHM
def test_denied_request_charges_no_counter(store: CounterStore, algorithm: Algorithm) -> None:
    counters = Counters(store, rule(algorithm, 9, 60), rule("token_bucket", 2, 3600))
    assert counters.admits(2)
    held = counters.held()
    denied = counters.take()
    assert [one.allowed for one in denied.verdicts] == [True, False]
    assert [one.remaining for one in denied.verdicts] == [7, 0]
    assert counters.held() == held


def test_rule_that_only_shadows_never_denies_and_is_charged_what_it_admits(
    store: CounterStore,
) -> None:
    counters = Counters(
        store, rule("token_bucket", 2, 3600, shadow=True), rule("fixed_window", 5, 3600)
    )
    answers = [counters.take() for _ in range(6)]
    assert [one.admitted for one in answers] == [True] * 5 + [False]
    assert [one.verdicts[0].allowed for one in answers] == [True] * 2 + [False] * 4
    alone = Counters(store, rule("token_bucket", 1, 3600, shadow=True))
    assert [alone.admits() for _ in range(3)] == [True] * 3


def test_gated_take_is_decided_only_after_an_admission(store: CounterStore) -> None:
    counters = Counters(store, rule("fixed_window", 2, 3600))
    other = Counters(store, rule("fixed_window", 2, 3600))
    group = [
        counters.request(2),
        other.request(1, gated=True),
        counters.request(1),
        other.request(1, gated=True),
        other.request(1, gated=True),
        counters.request(0),
        other.request(1, gated=True),
    ]
    # a gate is between takes of one tenant
    group = [replace(take, tenant_id=counters.tenant_id) for take in group]
    results = store.decide_all(group, NOON_US)
    assert [None if one is None else one.admitted for one in results] == [
        *(True, True, False, None, None, True, True)
    ]


def test_takes_of_a_group_are_decided_in_order_on_what_the_ones_before_left(
    store: CounterStore,
) -> None:
    for algorithm in Algorithm:
        counters = Counters(store, rule(algorithm, 5, 3600))
        group = [counters.request(count) for count in (2, 4, 2, 1, 1)]
        results = store.decide_all(group, NOON_US)
        assert [one and one.admitted for one in results] == [True, False, True, True, False]


def test_no_takes_are_no_work(store: CounterStore) -> None:
    assert store.decide_all([], NOON_US) == []
    store.forget("tenant", [])


@pytest.mark.parametrize("key", ["", "k" * 10_000, "{}:\x00\n\r é 日本"])
def test_any_text_is_a_key_of_its_own(store: CounterStore, key: str) -> None:
    tenant_id, one = new_tenant(), rule("token_bucket", 1, 3600)
    takes = [Take(tenant_id, (name,), (one,), 1, NORMAL) for name in (key, key, key + "x")]
    results = store.decide_all(takes, NOON_US)
    assert [taken and taken.admitted for taken in results] == [True, False, True]
    store.forget(tenant_id, [key])
    assert state_in(store, tenant_id, key) is None
    assert state_in(store, tenant_id, key + "x") is not None
    store.forget(tenant_id, [key + "x"])


# ---------------------------------------------------------------- one rule


@EVERY_ALGORITHM
def test_priority_scales_the_ceiling_of_its_request_only(
    store: CounterStore, algorithm: Algorithm
) -> None:
    counters = Counters(store, rule(algorithm, 10, 60))
    ranks = range(len(PRIORITIES))
    assert [counters.left(priority=rank) for rank in ranks] == [[20], [15], [10], [5]]
    assert counters.admits(12, priority=0)
    assert [counters.left(priority=rank) for rank in ranks] == [[8], [3], [0], [0]]
    assert not counters.admits(priority=NORMAL)
    assert counters.admits(8, priority=0)


@EVERY_ALGORITHM
def test_more_than_the_ceiling_is_never_satisfiable(
    store: CounterStore, algorithm: Algorithm
) -> None:
    counters = Counters(store, rule(algorithm, 3, 60))
    assert counters.take(4).verdicts[0].wait_us is None
    assert counters.take(MAX_LIMIT).verdicts[0].wait_us is None
    assert counters.admits(2)
    assert counters.take(3).verdicts[0].wait_us is not None
    assert counters.held() != [None]


@EVERY_ALGORITHM
def test_clock_that_goes_back_mints_nothing(store: CounterStore, algorithm: Algorithm) -> None:
    counters = Counters(store, rule(algorithm, 2, 60))
    assert counters.admits(2, at=61)
    for at in (60, 30, 0, -50, 61):
        assert not counters.admits(at=at)
        assert counters.take(at=at).verdicts[0].reset_us >= NOON_US + 61 * SECOND_US
    assert counters.admits(2, at=121)


@EVERY_ALGORITHM
def test_changed_limit_keeps_what_was_used(store: CounterStore, algorithm: Algorithm) -> None:
    counters = Counters(store, rule(algorithm, 10, 60))
    assert counters.admits(6)
    for limit, left in ((8, 2), (3, 0), (20, 14)):
        counters.rules = (rule(algorithm, limit, 60),)
        assert counters.left() == [left]


@EVERY_ALGORITHM
def test_changed_window_keeps_what_was_used(store: CounterStore, algorithm: Algorithm) -> None:
    counters = Counters(store, rule(algorithm, 10, 60))
    assert counters.admits(6)
    for seconds in (3600, 7, 86_400, 60):
        counters.rules = (rule(algorithm, 10, seconds),)
        assert counters.left() == [4]


@EVERY_ALGORITHM
def test_adjusting_corrects_a_charge_and_never_falls_below_zero_use(
    store: CounterStore, algorithm: Algorithm
) -> None:
    counters = Counters(store, rule(algorithm, 10, 60), rule("fixed_window", 20, 3600))
    assert counters.adjust(-3) == [10, 20]
    assert counters.admits(4)
    assert counters.adjust(3) == [3, 13]
    assert counters.adjust(-2) == [5, 15]
    assert counters.adjust(50) == [0, 0]
    assert not counters.admits()
    assert counters.adjust(-MAX_LIMIT) == [10, 20]
    for _ in range(3):
        assert counters.adjust(MAX_LIMIT) == [0, 0]
    assert counters.adjust(-3 * MAX_LIMIT) == [10, 20]


@EVERY_ALGORITHM
def test_adjusting_corrects_each_counter_by_its_own_count(
    store: CounterStore, algorithm: Algorithm
) -> None:
    counters = Counters(store, rule(algorithm, 10, 60), rule("fixed_window", 20, 3600))
    assert counters.admits(8)
    apart = replace(counters.request(), asks=((-5, NORMAL), (3, NORMAL)))
    assert [one.remaining for one in store.adjust(apart, NOON_US)] == [7, 9]
    assert counters.left() == [7, 9]


@EVERY_ALGORITHM
@pytest.mark.parametrize(("limit", "seconds"), [(20, 3600), (10, 7200)])
def test_of_several_asks_on_a_changed_counter_a_denied_one_leaves_what_another_took(
    store: CounterStore, algorithm: Algorithm, limit: int, seconds: int
) -> None:
    counters = Counters(store, rule(algorithm, 10, 3600, shadow=True))
    assert counters.admits(4)
    counters.rules = (rule(algorithm, limit, seconds, shadow=True),)
    both = replace(
        counters.request(),
        keys=counters.keys * 2,
        rules=counters.rules * 2,
        asks=((3, NORMAL), (1000, NORMAL)),
    )
    (taken,) = store.decide_all([both], NOON_US)
    assert taken is not None
    assert [one.allowed for one in taken.verdicts] == [True, False]
    assert counters.left() == [limit - 7]


@EVERY_ALGORITHM
def test_forgotten_counter_is_unused(store: CounterStore, algorithm: Algorithm) -> None:
    counters = Counters(store, rule(algorithm, 2, 60))
    assert counters.admits(2)
    store.forget(counters.tenant_id, [*counters.keys, "never used"])
    assert counters.held() == [None]
    assert counters.left() == [2]


@EVERY_ALGORITHM
def test_look_and_denial_write_nothing(store: CounterStore, algorithm: Algorithm) -> None:
    counters = Counters(store, rule(algorithm, 2, 60))
    assert counters.left() == [2]
    assert not counters.admits(3)
    assert counters.held() == [None]
    assert counters.admits(2)
    held = counters.held()
    assert counters.left(at=20) == counters.left(at=20)
    assert not counters.admits(2, at=20)
    assert counters.held() == held


def test_bucket_of_ten_in_thirty_seconds_hit_once_a_second(store: CounterStore) -> None:
    for algorithm in ("token_bucket", "leaky_bucket"):
        counters = Counters(store, rule(algorithm, 10, 30))
        left = [counters.take(at=at).verdicts[0].remaining for at in range(11)]
        assert left == [9, 8, 7, 7, 6, 5, 5, 4, 3, 3, 2]


def test_leaky_bucket_says_how_long_what_came_before_takes(store: CounterStore) -> None:
    counters = Counters(store, rule("leaky_bucket", 3, 1))
    delays = [counters.take().verdicts[0].delay_ms for _ in range(4)]
    assert delays == [0, 334, 667, 0]  # the last one is denied


@pytest.mark.parametrize(
    ("seconds", "unit_us"), [(10, 1), (86_400, 1_000), (366 * 86_400, 1_000_000)]
)
def test_largest_limits_are_counted_exactly_in_coarser_time(
    store: CounterStore, seconds: int, unit_us: int
) -> None:
    limit = {1: 10**8 - 1, 1_000: 2 * 10**7 - 1, 1_000_000: 10**8 - 1}[unit_us]
    for algorithm in ("token_bucket", "leaky_bucket"):
        counters = Counters(store, rule(algorithm, limit, seconds))
        assert counters.rules[0].rate.unit_us == unit_us
        assert counters.take(limit).verdicts[0].remaining == 0
        delay_ms = seconds * 1000 if algorithm == "leaky_bucket" else 0
        assert counters.take(0).verdicts[0].delay_ms == delay_ms
        verdict = counters.take().verdicts[0]
        assert verdict.wait_us is not None
        assert verdict.reset_us == NOON_US + seconds * SECOND_US
        ready = verdict.wait_us / SECOND_US
        assert not counters.admits(at=ready - 1e-6)
        assert counters.admits(at=ready)


def test_calendar_windows_end_where_the_rule_says(store: CounterStore) -> None:
    ends = tuple(NOON_US + hours * 3600 * SECOND_US for hours in (-1, 10, 33))
    counters = Counters(store, rule("fixed_window", 2, 86_400, window_ends=ends))
    assert counters.admits(2)
    verdict = counters.take().verdicts[0]
    assert (verdict.wait_us, verdict.reset_us) == (10 * 3600 * SECOND_US, ends[1])
    assert not counters.admits(at=10 * 3600 - 1e-6)
    assert counters.take(2, at=10 * 3600).verdicts[0].reset_us == ends[2]
    # beyond what the rule knows, windows of the nominal length follow
    assert counters.take(2, at=33 * 3600).verdicts[0].reset_us == ends[2] + 86_400 * SECOND_US


def test_log_of_the_largest_limit_answers_from_either_end(store: CounterStore) -> None:
    counters = Counters(store, rule("sliding_window_log", 10_000, 60))
    for part in range(20):
        takes = [counters.request() for _ in range(500)]
        results = store.decide_all(takes, NOON_US + part * SECOND_US)
        assert all(one is not None and one.admitted for one in results)
    assert counters.take(at=20).verdicts[0].wait_us == 40 * SECOND_US
    assert counters.take(9_000, at=20).verdicts[0].wait_us == 57 * SECOND_US
    assert counters.adjust(-700, at=20) == [700]
    assert counters.take(0, at=20).verdicts[0].reset_us == NOON_US + 78 * SECOND_US
    assert counters.admits(700, at=20)
    assert counters.left(at=60) == [500]
    assert counters.take(500, at=60).verdicts[0].remaining == 0
    assert counters.left(at=78.5) == [8_800]


def test_log_gives_back_of_its_latest_hits_after_the_oldest_have_left(store: CounterStore) -> None:
    counters = Counters(store, rule("sliding_window_log", 10, 60))
    for count, at in ((2, 0), (1, 10), (5, 50), (1, 51)):
        assert counters.admits(count, at=at)
    assert counters.adjust(-3, at=61) == [6]
    hits = [(NOON_US + 10 * SECOND_US, 1), (NOON_US + 50 * SECOND_US, 3)]
    assert counters.held() == [(NOON_US + 61 * SECOND_US, 60 * SECOND_US, hits, 4)]
    assert counters.left(at=110) == [10]


def test_log_corrected_at_its_end_is_looked_at_from_its_beginning(store: CounterStore) -> None:
    counters = Counters(store, rule("sliding_window_log", 100, 60))
    for at in range(40):
        assert counters.admits(2, at=at / 10)
    counters.rules = (rule("sliding_window_log", 100, 5),)
    assert counters.adjust(-1, at=30) == [100]
    assert counters.left(at=30) == [100]


def test_moments_beyond_what_can_be_told_are_told_as_the_last(store: CounterStore) -> None:
    counters = Counters(store, rule("leaky_bucket", 150_001, 366 * 86_400))
    counters.adjust(MAX_LIMIT)
    verdict = counters.take(0).verdicts[0]
    assert (verdict.reset_us, verdict.delay_ms) == (FAR_US, FAR_US // 1000)

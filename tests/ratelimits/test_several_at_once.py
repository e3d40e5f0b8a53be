"""Several requests at once: batches, together, and from many threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from fiscus import match_limits
from fiscus.clock import ManualClock, to_us
from fiscus.errors import PayloadTooLarge, ServiceUnavailable
from fiscus.http.limiting import LoopLimiter
from fiscus.ids import uuid7
from fiscus.priorities import Priority
from fiscus.ratelimits.calls import (
    AdjustRequest,
    RateLimitBatchRequest,
    RateLimitCheckAnswer,
)
from fiscus.ratelimits.counter_loop import PORTION, portions
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.port import CountersUnavailable, Take, Taken
from fiscus.ratelimits.rules import Algorithm
from fiscus.stores.counters.redis import RedisCounters
from fiscus.wiring.counters import open_counters
from tests.ratelimits.desk import Desk, Usage, request
from tests.ratelimits.policies import NOON, TENANT, Policies, policy


def test_a_batch_is_decided_in_order_each_for_itself() -> None:
    desk = Desk(policy(limit_value=3))
    batch = RateLimitBatchRequest(checks=[request(2), request(2), request(1)])
    answer = desk.limiter.check_batch(batch, [TENANT] * 3, NOON)
    assert [one.allowed for one in answer.results] == [True, False, True]
    assert not answer.allowed


def test_a_batch_to_which_too_many_policies_apply_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_CHECKS", 5)
    desk = Desk(policy(limit_value=9), policy(limit_value=9))
    batch = RateLimitBatchRequest(checks=[request()] * 3)
    with pytest.raises(PayloadTooLarge) as caught:
        desk.limiter.check_batch(batch, [TENANT] * 3, NOON)
    assert caught.value.message == (
        "The first 3 of 3 checks meet 6 rate limit policies; at most 5 are met at once"
    )
    with pytest.raises(PayloadTooLarge):
        desk.limiter.check_together([request()] * 3, TENANT, NOON)
    with pytest.raises(PayloadTooLarge):
        desk.limiter.adjust_together(
            [AdjustRequest(resource_type="api", request_count=1)] * 3, TENANT, NOON
        )
    assert desk.left() == 9
    two = RateLimitBatchRequest(checks=[request()] * 2)
    assert desk.limiter.check_batch(two, [TENANT] * 2, NOON).allowed


class Watched(RedisCounters):
    """Counters in Valkey, and how many are asked for at once; they can be told to fail."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout_seconds=5)
        self.asked: list[int] = []
        self.fail_from: int | None = None

    def decide_all(self, takes: Sequence[Take], now_us: int | None) -> list[Taken | None]:
        self.asked.append(sum(len(take.keys) for take in takes))
        if self.fail_from is not None and len(self.asked) > self.fail_from:
            raise CountersUnavailable("told to")
        return super().decide_all(takes, now_us)


def test_a_large_batch_is_asked_for_in_portions_each_for_itself(valkey_url: str) -> None:
    states = [policy(one, scope_type="user", scope_id="*", limit_value=2) for one in "abc"]
    counters = Watched(valkey_url)
    clock = ManualClock(NOON)
    limiter = Limiter(
        Policies(*states), counters, clock, stand_in=open_counters(None), timeout_seconds=5
    )
    name = uuid7()
    batch = RateLimitBatchRequest(
        checks=[request(1, user_id=f"{name}-{number % 100}") for number in range(300)]
    )
    answer = limiter.check_batch(batch, [TENANT] * 300, NOON)
    assert [one.allowed for one in answer.results] == [True] * 200 + [False] * 100
    assert sum(counters.asked) == 900
    assert max(counters.asked) <= PORTION
    counters.fail_from = 0
    answer = limiter.check_batch(batch, [TENANT] * 300, NOON)
    assert all(one.degraded for one in answer.results)
    limiter.close()
    counters.close()


def test_what_of_a_large_batch_was_counted_before_the_counters_failed_stands(
    valkey_url: str,
) -> None:
    counters = Watched(valkey_url)
    state = policy(scope_type="user", scope_id="*", limit_value=1)
    limiter = Limiter(
        Policies(state),
        counters,
        ManualClock(NOON),
        stand_in=open_counters(None),
        virtual_time=True,
    )
    name = uuid7()
    checks = [request(1, user_id=f"{name}-{number}") for number in range(PORTION + 2)]
    batch = RateLimitBatchRequest(checks=checks)
    counters.fail_from = 1
    answer = limiter.check_batch(batch, [TENANT] * len(checks), NOON)
    assert [one.degraded for one in answer.results] == [False] * PORTION + [True] * 2
    with pytest.raises(ServiceUnavailable):  # nothing was counted
        limiter.check_batch(batch, [TENANT] * len(checks), NOON)
    counters.fail_from = len(counters.asked) + 1
    now_us = to_us(NOON)
    takes = tuple(
        limiter.prepare(one, TENANT, NOON, now_us, None, Priority.NORMAL).take for one in checks
    )
    of_coroutine = asyncio.run(LoopLimiter(limiter).decide_each(takes, now_us))
    assert [one and one.admitted for one in of_coroutine] == [False] * PORTION + [None] * 2
    limiter.close()
    counters.close()


@pytest.mark.parametrize("sizes", [[], [1], [PORTION + 1], [100, 28, 1], [PORTION + 1, 0, 3]])
def test_portions_are_all_takes_in_order(sizes: list[int]) -> None:
    takes = tuple(Take(TENANT, ("key",) * size, (), index, 0) for index, size in enumerate(sizes))
    parts = list(portions(takes))
    assert tuple(take for part in parts for take in part) == takes
    for part in parts:
        assert len(part) <= 1 or sum(len(take.keys) for take in part) <= PORTION


def test_requests_together_are_taken_all_or_none() -> None:
    desk = Desk(
        policy("a", scope_type="user", scope_id="*", limit_value=5),
        policy("b", scope_type="project", scope_id="*", limit_value=1),
    )
    both = [request(user_id="u"), request(project_id="p")]
    first = desk.limiter.check_together(both, TENANT, NOON)
    second = desk.limiter.check_together(both, TENANT, NOON)
    assert [one.allowed for one in first] == [True, True]
    assert [one.allowed for one in second] == [True, False]
    assert desk.left(user_id="u") == 4


def test_an_adjustment_corrects_what_was_charged_and_never_below_nothing() -> None:
    desk = Desk(policy(limit_value=100))
    desk.check(50)
    give_back = AdjustRequest(resource_type="api", request_count=-20)
    assert desk.limiter.adjust(give_back, TENANT, NOON).remaining_requests == 70
    more = AdjustRequest(resource_type="api", request_count=100)
    assert desk.limiter.adjust(more, TENANT, NOON).remaining_requests == 0
    desk.clock.advance(seconds=18)  # 130 were in use, 100 a minute drain
    assert desk.left() == 0
    desk.clock.advance(seconds=3)
    assert desk.left() == 5
    all_back = AdjustRequest(resource_type="api", request_count=-1000)
    assert desk.limiter.adjust(all_back, TENANT, desk.clock.now()).remaining_requests == 100


def test_one_counter_can_be_looked_at_and_forgotten() -> None:
    state = policy(scope_type="user", scope_id="*", limit_value=10)
    desk = Desk(state)
    desk.check(4, user_id="u", resource_key="k")
    assert desk.limiter.counter(state, "u", "k", NOON).remaining_requests == 6
    assert desk.limiter.counter(state, "u", None, NOON).remaining_requests == 10
    desk.limiter.forget(state, "u", "k")
    assert desk.left(user_id="u", resource_key="k") == 10


def test_a_hundred_threads_on_five_a_minute_admit_five() -> None:
    desk = Desk(policy(limit_value=5))
    gate = threading.Barrier(100)
    admitted: list[bool] = []

    def caller() -> None:
        gate.wait()
        admitted.append(desk.check().allowed)

    threads = [threading.Thread(target=caller) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted.count(True) == 5


def test_requests_together_ask_each_counter_for_their_own_count() -> None:
    usage = Usage()
    desk = Desk(
        policy("r", resource_type="requests", limit_value=100),
        policy("t", resource_type="tokens", limit_value=100),
        usage=usage,
    )
    both = [request(1, resource_type="requests"), request(60, resource_type="tokens")]
    first = desk.limiter.check_together(both, TENANT, NOON)
    assert [one.remaining_requests for one in first] == [99, 40]
    second = desk.limiter.check_together(both, TENANT, NOON)
    assert [one.allowed for one in second] == [True, False]
    assert [one.remaining_requests for one in second] == [99, 40]
    desk.limiter.flush_usage()
    seen = {row.policy_id: row.window for row in usage.rows}
    assert (seen["r"].admitted, seen["r"].denied) == (1, 0)
    assert (seen["t"].admitted, seen["t"].denied) == (60, 60)


@pytest.mark.parametrize("redis", [False, True])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_requests_together_are_judged_each_by_its_own_priority(
    valkey_url: str, algorithm: Algorithm, *, redis: bool
) -> None:
    counters = RedisCounters(valkey_url, timeout_seconds=5) if redis else open_counters(None)
    state = policy(
        scope_type="user",
        scope_id="*",
        limit_value=10,
        time_window_seconds=86_400 * 7,
        algorithm=algorithm,
    )
    limiter = Limiter(Policies(state), counters, ManualClock(NOON), timeout_seconds=5)
    user = {"user_id": uuid7()}
    both = [request(1, priority="low", **user), request(3, priority="normal", **user)]

    def ask() -> list[tuple[bool, int | None]]:
        answers = limiter.check_together(both, TENANT, NOON)
        return [(one.allowed, one.remaining_requests) for one in answers]

    assert ask() == [(True, 2), (True, 7)]  # 3 are in use, of 5 and of 10
    assert ask() == [(True, 0), (True, 4)]  # 6
    assert ask() == [(False, 0), (True, 4)]
    limiter.close()
    counters.close()


def test_requests_together_are_judged_each_by_its_own_count() -> None:
    usage = Usage()
    desk = Desk(policy("a", limit_value=10), usage=usage)

    def ask(*counts: int) -> list[RateLimitCheckAnswer]:
        return desk.limiter.check_together([request(one) for one in counts], TENANT, NOON)

    small, large = ask(3, 1000)
    assert (small.allowed, small.remaining_requests) == (True, 10)
    assert (large.allowed, large.retry_after) == (False, None)
    assert large.message.startswith("Denied: 1000 at once can never pass")
    assert [one.remaining_requests for one in ask(6, 2)] == [4, 4]
    assert [one.allowed for one in ask(6, 2, 0)] == [False, True, True]
    desk.limiter.flush_usage()
    (row,) = usage.rows
    assert (row.window.checks, row.window.admitted, row.window.denied) == (3, 6, 6)


def test_of_requests_together_a_shadow_policy_counts_what_it_would_have_admitted() -> None:
    usage = Usage()
    desk = Desk(policy("s", limit_value=10, shadow=True), usage=usage)
    both = [request(3), request(1000)]
    told = [one.policies[0] for one in desk.limiter.check_together(both, TENANT, NOON)]
    assert [line.decision for line in told] == ["allow", "shadow_deny"]
    assert [line.remaining_requests for line in told] == [7, 7]
    desk.limiter.flush_usage()
    (row,) = usage.rows
    assert (row.window.checks, row.window.admitted, row.window.shadow_denied) == (1, 3, 0)


def test_of_requests_together_those_that_one_policy_denies_are_its_load_once() -> None:
    usage = Usage()
    state = policy("a", scope_type="user", scope_id="*", limit_value=10)
    desk = Desk(state, usage=usage)
    ann = {"user_id": "ann"}
    desk.check(4, **ann)
    mixed = [request(2, priority="low", **ann), request(5, **ann), request(6, user_id="bob")]
    answers = desk.limiter.check_together(mixed, TENANT, NOON)
    assert [one.allowed for one in answers] == [False, True, True]
    desk.limiter.flush_usage()
    seen = {row.window.scope_id: row.window for row in usage.rows}
    assert (seen["ann"].checks, seen["ann"].admitted, seen["ann"].denied) == (2, 4, 5)
    assert (seen["bob"].checks, seen["bob"].admitted, seen["bob"].denied) == (1, 0, 0)


@pytest.mark.parametrize("redis", [False, True])
def test_what_was_taken_once_is_given_back_once(valkey_url: str, *, redis: bool) -> None:
    counters = RedisCounters(valkey_url, timeout_seconds=5) if redis else open_counters(None)
    project, user = uuid7(), uuid7()
    shared = policy(scope_type="project", scope_id="*", limit_value=100, algorithm="fixed_window")
    own = policy(scope_type="user", scope_id="*", limit_value=100, algorithm="fixed_window")
    limiter = Limiter(Policies(shared, own), counters, ManualClock(NOON), virtual_time=True)
    operation = {"resource_type": "api", "project_id": project}
    limiter.check_together(
        [request(10, project_id=project), request(30, project_id=project, user_id=user)],
        TENANT,
        NOON,
    )
    back = limiter.adjust_together(
        [
            AdjustRequest(request_count=-25, user_id=user, **operation),
            AdjustRequest(request_count=-5, **operation),
            AdjustRequest(request_count=-5, resource_type="other"),
        ],
        TENANT,
        NOON,
    )
    left = [{line.policy_id: line.remaining_requests for line in one.policies} for one in back]
    of_project, of_user = shared.policy.policy_id, own.policy.policy_id
    assert left == [{of_project: 95, of_user: 95}, {of_project: 95}, {}]
    limiter.close()
    counters.close()


def test_requests_together_need_no_policy() -> None:
    (answer,) = Desk().limiter.check_together([request()], TENANT, NOON)
    assert answer.allowed
    assert answer.policies == []

"""The limiter: which policies apply, what is answered, what is counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from fiscus.clock import ManualClock, to_us
from fiscus.errors import Conflict, Forbidden, ServiceUnavailable
from fiscus.http.limiting import LoopLimiter
from fiscus.ids import uuid7
from fiscus.money import Amount
from fiscus.priorities import Priority
from fiscus.ratelimits import limiter
from fiscus.ratelimits.calls import (
    AdjustRequest,
    RateLimitBatchRequest,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
    UsageWindow,
)
from fiscus.ratelimits.counter_loop import PORTION, portions
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.model import HourRange, Overrides, PolicyState
from fiscus.ratelimits.policy_port import UsageRow
from fiscus.ratelimits.port import CountersUnavailable, Take, Taken
from fiscus.ratelimits.rules import Algorithm
from fiscus.stores.counters.memory import MemoryCounters
from fiscus.stores.counters.redis import RedisCounters
from fiscus.wire import convert
from fiscus.wiring.counters import open_counters
from tests.ports import free_port
from tests.ratelimits.policies import NOON, TENANT, Policies, policy
from tests.valkey import wait_until


class Desk:
    """A limiter over counters in process, and a clock."""

    def __init__(self, *states: PolicyState, usage: Any = None) -> None:
        self.clock = ManualClock(NOON)
        self.policies = Policies(*states)
        self.limiter = Limiter(self.policies, open_counters(None), self.clock, usage=usage)

    def check(
        self, count: int = 1, *, highest: Priority = Priority.NORMAL, **fields: Any
    ) -> RateLimitCheckAnswer:
        return self.limiter.check(
            request(count, **fields), TENANT, self.clock.now(), priority=highest
        )

    def left(self, **fields: Any) -> int | None:
        return self.check(0, **fields).remaining_requests

    def refresh(self) -> None:
        """What the limiter does each second."""
        self.limiter._cache.refresh(self.clock.now())


def uncountable() -> PolicyState:
    """A policy that could not be made: a third of its limit shares no divisor with the window."""
    sound = policy("bad")
    third = HourRange(from_hour=0, to_hour=24, multiplier=Amount("0.333333333333"))
    definition = replace(
        sound.policy,
        limit_value=366 * 86_400 * 10_000,
        time_window_seconds=366 * 86_400,
        overrides=Overrides(time_of_day=[third]),
    )
    return replace(sound, policy=definition)


def request(count: int = 1, **fields: Any) -> RateLimitCheckRequest:
    body = {"resource_type": "api", "request_count": count, **fields}
    return convert(body, RateLimitCheckRequest)


# ---------------------------------------------------------------- what applies


def test_without_a_policy_everything_passes_and_all_is_null() -> None:
    answer = Desk().check()
    assert answer.allowed
    assert (answer.policy_id, answer.limit_value, answer.remaining_requests) == (None, None, None)
    assert answer.policies == []


@pytest.mark.parametrize(
    ("pattern", "resource_type", "applies"),
    [
        ("api", "api", True),
        ("api", "api.read", False),
        ("api*", "api.read", True),
        ("api*", "api", True),
        ("api.w*", "api.read", False),
        ("*", "anything", True),
    ],
)
def test_a_policy_applies_by_resource_type_or_its_beginning(
    pattern: str, resource_type: str, *, applies: bool
) -> None:
    desk = Desk(policy(resource_type=pattern))
    assert bool(desk.check(resource_type=resource_type).policies) is applies


@pytest.mark.parametrize(
    ("scope_type", "field"),
    [
        ("project", "project_id"),
        ("user", "user_id"),
        ("feature", "feature_id"),
        ("api_key", "api_key_id"),
    ],
)
def test_a_policy_for_every_id_has_a_counter_for_each(scope_type: str, field: str) -> None:
    desk = Desk(policy(scope_type=scope_type, scope_id="*", limit_value=1))
    assert desk.check(**{field: "a"}).allowed
    assert not desk.check(**{field: "a"}).allowed
    assert desk.check(**{field: "b"}).allowed
    assert desk.check().policies == []


def test_the_calling_api_key_is_the_default_for_policies_of_api_keys() -> None:
    desk = Desk(policy(scope_type="api_key", scope_id="k-1", limit_value=1))
    now = desk.clock.now()
    assert desk.limiter.check(request(), TENANT, now, key_id="k-1").policies
    assert not desk.limiter.check(request(), TENANT, now, key_id="k-2").policies
    assert desk.limiter.check(request(api_key_id="k-1"), TENANT, now, key_id="k-2").policies


def test_a_missing_resource_key_is_a_key_of_its_own() -> None:
    desk = Desk(policy(limit_value=1))
    assert desk.check().allowed
    assert desk.check(resource_key="x").allowed
    assert not desk.check(resource_key="x").allowed
    assert not desk.check().allowed


def test_ids_and_keys_with_colons_do_not_share_a_counter() -> None:
    desk = Desk(policy(scope_type="user", scope_id="*", limit_value=1))
    assert desk.check(user_id="a:b", resource_key="c").allowed
    assert desk.check(user_id="a", resource_key="b:c").allowed
    assert desk.check(user_id="a:b:c").allowed


# ---------------------------------------------------------------- what is decided


def test_one_policy_that_denies_denies_all_and_none_is_charged() -> None:
    minute, hour = policy("a", limit_value=20), policy("b", limit_value=3, time_window_seconds=3600)
    desk = Desk(minute, hour)
    for _ in range(3):
        assert desk.check().allowed
    answer = desk.check()
    assert not answer.allowed
    assert answer.policy_id == "b"
    assert answer.remaining_requests == 0
    assert [line.remaining_requests for line in answer.policies] == [17, 0]
    assert [line.decision for line in answer.policies] == ["allow", "deny"]


def test_the_denier_with_the_longest_wait_decides() -> None:
    desk = Desk(
        policy("a", limit_value=1, time_window_seconds=10),
        policy("b", limit_value=1, time_window_seconds=30),
    )
    desk.check()
    answer = desk.check()
    assert (answer.policy_id, answer.retry_after) == ("b", 30)


def test_a_denier_that_never_admits_decides_and_says_so() -> None:
    desk = Desk(policy("a", limit_value=1), policy("b", limit_value=5))
    answer = desk.check(2)
    assert (answer.policy_id, answer.retry_after, answer.retry_after_ms) == ("a", None, None)
    assert "never" in answer.message


def test_of_those_that_allow_the_least_remaining_decides_and_ties_go_by_id() -> None:
    desk = Desk(policy("b", limit_value=5), policy("a", limit_value=5), policy("c", limit_value=9))
    assert desk.check().policy_id == "a"


def test_retry_after_is_when_this_same_request_passes() -> None:
    desk = Desk(policy(limit_value=10, time_window_seconds=30))
    desk.check(10)
    answer = desk.check(4)
    assert answer.retry_after == 12
    desk.clock.advance(seconds=11, milliseconds=999)
    assert not desk.check(4).allowed
    desk.clock.advance(milliseconds=1)
    assert desk.check(4).allowed


def test_leaky_bucket_tells_how_long_to_wait_to_send_at_its_rate() -> None:
    desk = Desk(policy(algorithm="leaky_bucket", limit_value=10, time_window_seconds=60))
    assert [desk.check().delay_ms for _ in range(3)] == [0, 6000, 12000]


def test_a_shadow_policy_counts_and_never_denies() -> None:
    desk = Desk(policy("a", limit_value=1, shadow=True), policy("b", limit_value=5))
    desk.check()
    answer = desk.check()
    assert answer.allowed
    assert answer.policy_id == "b"
    assert answer.remaining_requests == 3
    assert [line.decision for line in answer.policies] == ["shadow_deny", "allow"]


def test_where_all_policies_shadow_nothing_limits() -> None:
    answer = Desk(policy(limit_value=1, shadow=True)).check(5)
    assert answer.allowed
    assert answer.policy_id is None
    assert answer.policies[0].decision == "shadow_deny"


# ---------------------------------------------------------------- priorities


def test_priority_scales_the_ceiling_and_not_the_refill() -> None:
    desk = Desk(policy(limit_value=10, time_window_seconds=10))
    critical = {"highest": Priority.CRITICAL}
    assert desk.left(**critical) == 20
    assert desk.left(priority="high", **critical) == 15
    assert desk.left(priority="normal", **critical) == 10
    assert desk.left(priority="low", **critical) == 5
    assert desk.check(20, **critical).allowed
    assert not desk.check().allowed
    desk.clock.advance(seconds=10)
    assert desk.left(**critical) == 10


def test_a_credential_claims_no_more_than_it_may() -> None:
    desk = Desk(policy())
    assert desk.check(priority="low").allowed
    with pytest.raises(Forbidden) as caught:
        desk.check(priority="high")
    assert caught.value.details["field"] == "priority"


# ---------------------------------------------------------------- changes


def test_a_changed_limit_keeps_what_was_used() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check(8)
    desk.policies.put(policy("a", limit_value=20))
    desk.limiter.changed(TENANT)
    assert desk.left() == 12
    desk.policies.put(policy("a", limit_value=5))
    desk.limiter.changed(TENANT)
    assert desk.left() == 0


def test_another_algorithm_or_generation_begins_unused() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check(8)
    desk.policies.put(policy("a", limit_value=10, algorithm="fixed_window"))
    desk.limiter.changed(TENANT)
    assert desk.left() == 10
    desk.check(8)
    desk.policies.put(policy("a", limit_value=10, algorithm="fixed_window", generation=2))
    desk.limiter.changed(TENANT)
    assert desk.left() == 10


def test_the_limit_follows_the_hour_without_being_told() -> None:
    night = {"from_hour": 13, "to_hour": 14, "multiplier": 0.5}
    desk = Desk(policy(limit_value=10, overrides={"time_of_day": [night]}))
    assert desk.check(0).limit_value == 10
    desk.clock.advance(hours=1)
    assert desk.check(0).limit_value == 5
    desk.clock.advance(hours=1)
    assert desk.check(0).limit_value == 10


def test_more_than_passes_at_night_is_told_when_it_passes_by_day() -> None:
    night = {"time_of_day": [{"from_hour": 22, "to_hour": 6, "multiplier": 0.1}]}
    desk = Desk(policy(limit_value=100, timezone="Asia/Kathmandu", overrides=night))
    desk.clock.set(datetime.fromisoformat("2026-03-04T23:30:00+05:45"))
    denied = desk.check(50)
    assert (denied.allowed, denied.retry_after) == (False, 6 * 3600 + 1800)
    assert "never" not in denied.message
    assert desk.check(101).retry_after is None
    desk.clock.advance(seconds=6 * 3600 + 1799)
    assert desk.check(50).retry_after == 1
    desk.clock.advance(seconds=1)
    assert desk.check(50).allowed


def test_more_than_passes_in_a_quiet_hour_is_told_when_it_passes_in_the_week() -> None:
    load = [0] * 167 + [168]  # Sunday, the last hour
    quiet = {"usage_pattern": {"min_multiplier": 0.5, "max_multiplier": 2}}
    desk = Desk(policy(limit_value=10, overrides=quiet, hourly_load=tuple(load)))
    desk.clock.set(datetime.fromisoformat("2026-03-02T00:00:00+00:00"))  # a Monday
    assert desk.check(15).retry_after == 167 * 3600
    assert desk.check(21).retry_after is None


def test_calendar_windows_begin_at_local_midnight() -> None:
    desk = Desk(
        policy(
            algorithm="fixed_window",
            calendar="day",
            timezone="America/New_York",
            time_window_seconds=None,
            limit_value=1,
        )
    )
    desk.check()
    answer = desk.check()
    assert answer.retry_after == 17 * 3600  # 12:00 UTC is 07:00 there
    desk.clock.set(datetime.fromisoformat("2026-03-05T05:00:00+00:00"))
    assert desk.check().allowed


def test_policies_changed_elsewhere_are_found_by_their_version() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check()
    desk.policies.put(policy("a", limit_value=3))
    assert desk.check(0).limit_value == 10
    desk.refresh()
    assert desk.check(0).limit_value == 3


@pytest.mark.parametrize("seconds", [301, -301])
def test_policies_are_read_again_after_their_time_even_when_nobody_tells(seconds: int) -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check()
    desk.policies.states = (policy("a", limit_value=3),)
    desk.refresh()
    desk.clock.advance(seconds=seconds)
    assert desk.check(0).limit_value == 10  # nobody waits for the database
    desk.refresh()
    assert desk.check(0).limit_value == 3


def test_policies_read_by_a_later_check_serve_one_that_began_before() -> None:
    desk = Desk(policy())
    desk.check()
    reads = desk.policies.reads
    desk.clock.advance(milliseconds=-1)
    desk.check()
    desk.refresh()
    assert desk.policies.reads == reads


def test_policies_that_cannot_be_read_again_are_used_on_and_one_check_waits_for_that() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check()
    reads = desk.policies.reads
    desk.policies.unreachable = True
    desk.policies.states = (policy("a", limit_value=3),)
    desk.limiter.changed(TENANT)
    assert [desk.check(0).limit_value for _ in range(3)] == [10, 10, 10]
    assert desk.policies.reads == reads + 1
    desk.policies.unreachable = False
    desk.refresh()
    assert desk.check(0).limit_value == 3


def test_a_policy_that_cannot_be_counted_fails_only_its_own_checks() -> None:
    desk = Desk(uncountable(), policy("a", resource_type="llm"))
    assert desk.check(resource_type="llm").allowed
    with pytest.raises(Conflict, match="Policy bad cannot be counted"):
        desk.check()


def test_a_tenant_that_cannot_be_read_keeps_no_other_from_being_refreshed() -> None:
    desk = Desk(policy("a", limit_value=10))
    for tenant_id in ("before", TENANT):
        desk.limiter.check(request(), tenant_id, desk.clock.now())
    desk.policies.put(policy("a", limit_value=3))
    desk.policies.broken = {"before"}
    with pytest.raises(RuntimeError):
        desk.refresh()
    assert desk.check(0).limit_value == 3


def test_policies_that_were_never_read_are_unavailable() -> None:
    desk = Desk(policy())
    desk.policies.unreachable = True
    with pytest.raises(ServiceUnavailable):
        desk.check()


# ---------------------------------------------------------------- several at once


def test_a_batch_is_decided_in_order_each_for_itself() -> None:
    desk = Desk(policy(limit_value=3))
    batch = RateLimitBatchRequest(checks=[request(2), request(2), request(1)])
    answer = desk.limiter.check_batch(batch, [TENANT] * 3, NOON)
    assert [one.allowed for one in answer.results] == [True, False, True]
    assert not answer.allowed


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


# ---------------------------------------------------------------- usage


class Usage:
    """A `UsageStore` that keeps rows, or cannot be reached."""

    def __init__(self) -> None:
        self.rows: list[UsageRow] = []
        self.unreachable = False

    def add(self, rows: list[UsageRow]) -> None:
        if self.unreachable:
            raise ServiceUnavailable("The store cannot be reached")
        self.rows += rows


def test_usage_is_counted_per_policy_scope_and_window() -> None:
    usage = Usage()
    desk = Desk(
        policy("a", limit_value=3),
        policy("s", limit_value=1, shadow=True, scope_type="user", scope_id="*"),
        usage=usage,
    )
    for _ in range(4):
        desk.check(user_id="u")
    desk.clock.advance(seconds=60)
    desk.check(2, user_id="u")
    desk.limiter.flush_usage()
    seen = {(row.policy_id, row.window.window_start): row.window for row in usage.rows}
    minute = timedelta(minutes=1)
    assert seen["a", NOON] == UsageWindow(
        scope_id=TENANT,
        window_start=NOON,
        window_end=NOON + minute,
        checks=4,
        admitted=3,
        denied=1,
        shadow_denied=0,
    )
    assert seen["s", NOON].shadow_denied == 3
    assert seen["s", NOON].admitted == 3
    assert seen["a", NOON + minute].admitted == 2


def test_what_can_never_pass_is_no_load() -> None:
    usage = Usage()
    desk = Desk(policy("a", limit_value=3), policy("s", limit_value=2, shadow=True), usage=usage)
    assert desk.check(10**12).retry_after is None
    desk.check(1)
    desk.check(3)
    desk.limiter.flush_usage()
    counted = {row.policy_id: row.window for row in usage.rows}
    assert (counted["a"].checks, counted["a"].admitted, counted["a"].denied) == (3, 1, 3)
    assert counted["s"].shadow_denied == 0


def without_counters(*states: PolicyState, usage: Any = None) -> Limiter:
    """A limiter whose counters cannot be reached."""
    return Limiter(
        Policies(*states),
        RedisCounters(f"redis://127.0.0.1:{free_port()}"),
        ManualClock(NOON),
        stand_in=open_counters(None),
        usage=usage,
    )


def test_what_can_never_pass_can_not_pass_without_counters_either() -> None:
    usage = Usage()
    limiter = without_counters(policy("a", limit_value=3, on_store_failure="deny"), usage=usage)
    denied = limiter.check(request(3), TENANT, NOON)
    assert (denied.allowed, denied.degraded, denied.retry_after) == (False, True, 1)
    assert denied.message == "Denied: the counters cannot be reached; try again in 1 s"
    never = limiter.check(request(10**12), TENANT, NOON)
    assert (never.allowed, never.degraded, never.retry_after) == (False, True, None)
    assert never.message.startswith("Denied: 1000000000000 at once can never pass a limit of 3")
    limiter.close()
    assert [row.window.denied for row in usage.rows] == [3]


def test_a_denial_without_counters_says_what_each_policy_would() -> None:
    limiter = without_counters(
        policy("a", on_store_failure="deny", resource_type="other"),
        policy("l", limit_value=5, resource_type="*"),
        policy("u", limit_value=8, on_store_failure="allow", resource_type="*"),
    )

    def check(count: int, resource: str) -> tuple[bool, list[tuple[str, str, int, int | None]]]:
        answer = limiter.check(request(count, resource_type=resource), TENANT, NOON)
        return answer.allowed, [
            (one.policy_id, one.decision, one.remaining_requests, one.retry_after)
            for one in answer.policies
        ]

    for _ in range(2):  # nothing is taken of what is denied
        assert check(3, "other") == (
            False,
            [("a", "deny", 0, 1), ("l", "allow", 5, 0), ("u", "allow", 8, 0)],
        )
        assert check(6, "other")[1][1] == ("l", "deny", 5, None)
        assert check(0, "other")[0] is False
    assert check(4, "api") == (True, [("l", "allow", 1, 0), ("u", "allow", 4, 0)])
    assert check(2, "api") == (False, [("l", "deny", 1, 12), ("u", "allow", 8, 0)])
    limiter.close()


def test_a_shadow_policy_that_denies_without_counters_denies_nobody() -> None:
    limiter = without_counters(
        policy("l", limit_value=5),
        policy("s", on_store_failure="deny", shadow=True),
        policy("u", on_store_failure="allow", limit_value=1),
    )
    for left in (3, 1):  # what counts goes on counting
        answer = limiter.check(request(2), TENANT, NOON)
        assert answer.allowed
        assert [
            (one.policy_id, one.decision, one.remaining_requests) for one in answer.policies
        ] == [("l", "allow", left), ("s", "shadow_deny", 0), ("u", "allow", 0)]
    limiter.close()


def test_of_usage_that_cannot_be_written_the_latest_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter, "MAX_ROWS", 2)
    usage = Usage()
    desk = Desk(policy(scope_type="user", scope_id="*"), usage=usage)
    usage.unreachable = True
    for user in "abc":
        desk.check(user_id=user)
        with pytest.raises(ServiceUnavailable):
            desk.limiter.flush_usage()
    usage.unreachable = False
    desk.limiter.flush_usage()
    assert [row.window.scope_id for row in usage.rows] == ["b", "c"]


def test_usage_that_could_not_be_written_is_written_later() -> None:
    usage = Usage()
    desk = Desk(policy(), usage=usage)
    usage.unreachable = True
    desk.check()
    with pytest.raises(ServiceUnavailable):
        desk.limiter.flush_usage()
    desk.check()
    usage.unreachable = False
    desk.limiter.flush_usage()
    desk.limiter.flush_usage()
    assert sum(row.window.checks for row in usage.rows) == 2


def test_usage_is_written_although_the_policies_cannot_be_refreshed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter, "_REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(limiter, "_FLUSH_EVERY", 1)
    usage = Usage()
    desk = Desk(policy(), usage=usage)
    desk.check()
    desk.policies.unreachable = True
    desk.limiter.start()
    wait_until(lambda: bool(usage.rows))
    desk.limiter.close()


def test_counters_that_nobody_asks_for_any_more_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter, "_REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(limiter, "_SWEEP_EVERY", 1)
    counters = MemoryCounters()
    clock = ManualClock(NOON)
    sweeping = Limiter(Policies(policy()), counters, clock)
    sweeping.check(request(), TENANT, NOON)
    assert len(counters) == 1
    clock.advance(hours=1)
    sweeping.start()
    wait_until(lambda: len(counters) == 0)
    sweeping.close()


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

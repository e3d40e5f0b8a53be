"""Limits in this process."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus import RateLimitViolated, ValidationError
from fiscus.limits import Limit, LimitResult, limit
from fiscus.limits.strings import parse_limits
from fiscus.ratelimits.port import Take
from fiscus.stores.counters.memory import MemoryCounters
from tests.limits.clock import START_US, Microseconds

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def now() -> Microseconds:
    return Microseconds()


def test_a_limit_admits_its_count_and_says_when_to_come_back(now: Microseconds) -> None:
    api = limit("5/minute", now_us=now)
    assert [api.hit("a").remaining for _ in range(5)] == [4, 3, 2, 1, 0]
    denied = api.hit("a")
    assert not denied
    assert denied.allowed is False
    assert denied.retry_after_seconds == 12
    assert denied.retry_after_ms == 12_000
    assert denied.reset_time == START + timedelta(minutes=1)
    assert denied.reset_after_seconds == 60
    assert (denied.limit, denied.name, denied.degraded) == (5, "5/minute", False)
    assert denied.message == "Denied by 5/minute: 0 left, try again in 12 s"
    now.advance(11.999_999)
    assert not api.hit("a")
    now.advance(0.000_001)
    allowed = api.hit("a")
    assert allowed
    assert allowed.retry_after_seconds == 0
    assert allowed.message == "Allowed"


def test_keys_have_counters_of_their_own(now: Microseconds) -> None:
    api = limit("1/minute", now_us=now)
    assert api.hit("a")
    assert api.hit("b")
    assert api.hit()
    assert api.hit("x" * 10_000)
    assert not api.hit("a")
    assert not api.hit("")
    assert not api.hit("x" * 10_000)


def test_limits_have_counters_of_their_own(now: Microseconds) -> None:
    one, other = limit("1/minute", now_us=now), limit("1/minute", now_us=now)
    assert one.hit("a")
    assert other.hit("a")


def test_several_limits_are_decided_together_all_or_nothing(now: Microseconds) -> None:
    api = limit("100/minute; 10/second burst 20; 3/hour fixed_window", now_us=now)
    assert [api.hit("a").remaining for _ in range(3)] == [2, 1, 0]
    for _ in range(5):
        denied = api.hit("a")
        assert not denied
        assert denied.name == "3/hour fixed_window"
    # what the others had room for was not taken from them
    assert [verdict.remaining for verdict in denied.verdicts] == [97, 27, 0]


def test_the_longest_wait_decides_a_denial(now: Microseconds) -> None:
    api = limit("2/second; 2/minute; 2/hour", now_us=now)
    api.hit("a", 2)
    denied = api.hit("a")
    assert (denied.name, denied.retry_after_seconds) == ("2/hour", 1800)


def test_more_than_a_limit_can_hold_is_never_allowed(now: Microseconds) -> None:
    api = limit("5/minute burst 5; 100/hour", now_us=now)
    denied = api.hit("a", 11)
    assert not denied
    assert denied.retry_after_seconds is None
    assert denied.retry_after_ms is None
    assert denied.message == "Denied by 5/minute burst 5: more at once than can ever pass"
    assert "Retry-After" not in dict(denied.headers())
    assert not denied.violation().retriable
    assert api.hit("a", 10)


def test_looking_takes_nothing(now: Microseconds) -> None:
    api = limit("5/minute; 7/hour", now_us=now)
    api.hit("a", 2)
    assert [api.look("a").remaining for _ in range(3)] == [3, 3, 3]
    assert api.look("b").remaining == 5


def test_a_charge_is_corrected_and_never_below_zero_use(now: Microseconds) -> None:
    tokens = limit("1000/minute; 5000/hour", now_us=now)
    tokens.hit("a", 800)
    assert tokens.adjust("a", -500).remaining == 700
    assert tokens.adjust("a", 900).remaining == 0
    assert not tokens.hit("a")
    assert tokens.adjust("a", -100_000).remaining == 1000
    assert tokens.adjust("b", 100).remaining == 900


def test_a_key_is_reset(now: Microseconds) -> None:
    api = limit("1/minute; 1/hour", now_us=now)
    api.hit("a")
    api.hit("b")
    api.reset("a")
    assert api.hit("a")
    assert not api.hit("b")


def test_a_leaky_bucket_tells_how_long_to_wait(now: Microseconds) -> None:
    mail = limit("60/minute leaky_bucket", now_us=now)
    assert [mail.hit("a").delay_ms for _ in range(3)] == [0, 1000, 2000]
    assert mail.hit("a", 100).delay_ms == 0


@pytest.mark.parametrize("count", [-1, 1.0, True, "1", 10**13])
def test_a_count_is_a_whole_number_of_hits(count: object) -> None:
    api = limit("5/minute")
    with pytest.raises(ValidationError, match="count must be a whole number from 0"):
        api.hit("a", count)  # type: ignore[arg-type]
    assert api.look("a").remaining == 5


def test_the_clock_is_the_one_of_the_system_by_default() -> None:
    before = datetime.now(UTC)
    reset_time = limit("60/minute").hit().reset_time
    assert reset_time is not None
    assert timedelta() < reset_time - before < timedelta(seconds=60)


@pytest.mark.parametrize("algorithm", ["token_bucket", "fixed_window", "sliding_window_log"])
def test_a_hundred_threads_on_five_a_minute_admit_five(algorithm: str, now: Microseconds) -> None:
    for text in (f"5/minute {algorithm}", f"5/minute {algorithm}; 1000/hour"):
        api = limit(text, now_us=now)
        start = threading.Barrier(100)
        admitted: list[LimitResult] = []

        def call(api: Limit = api, start: threading.Barrier = start) -> None:
            start.wait()
            result = api.hit("a")
            if result:
                admitted.append(result)  # noqa: B023 - read before the next round

        threads = [threading.Thread(target=call) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(admitted) == 5


def test_unused_keys_are_forgotten(now: Microseconds) -> None:
    api = limit("1/second; 2/minute", now_us=now)
    for index in range(5000):
        api.hit(f"client-{index}")
    now.advance(200)
    for _ in range(20_000):
        api.hit("one")
        now.advance(0.01)
    assert len(api._counters) < 5  # type: ignore[attr-defined]


def test_an_event_loop_is_not_made_to_wait(now: Microseconds) -> None:
    api = limit("2/minute; 9/hour", now_us=now)
    call = api.hit_async("a")
    with pytest.raises(StopIteration) as done:
        call.send(None)
    assert done.value.value.remaining == 1

    async def rest() -> None:
        assert (await api.adjust_async("a", -1)).remaining == 2
        assert (await api.look_async("a")).remaining == 2
        await api.hit_async("a", 2)
        await api.reset_async("a")
        assert (await api.look_async("a")).remaining == 2

    asyncio.run(rest())


def test_a_violation_carries_the_result(now: Microseconds) -> None:
    with limit("1/minute", now_us=now) as api:
        api.hit("a")
        denied = api.hit("a")
    violation = denied.violation()
    assert isinstance(violation, RateLimitViolated)
    assert violation.answer is denied
    assert violation.retry_after_seconds == 60
    assert violation.retriable
    assert violation.details == {
        "limit": "1/minute",
        "limit_value": 1,
        "remaining_requests": 0,
        "retry_after": 60,
    }
    assert repr(denied) == (
        "LimitResult(allowed=False, remaining=0, name='1/minute', "
        "retry_after_seconds=60, degraded=False)"
    )


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_limit_says_that_it_cannot_be_copied(copied: Callable[[Limit], object]) -> None:
    """As when it is given to a process of a pool that is spawned: that would count by itself."""
    with pytest.raises(TypeError, match="make another where you need one"):
        copied(limit("1/hour"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_counts_on_when_another_thread_was_counting() -> None:
    api = limit("1/hour")
    api.hit("a")
    with api._counters._lock:  # type: ignore[attr-defined]
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            counts_on = False
            try:
                counts_on = api.hit("b").allowed and not api.hit("a").allowed
            finally:
                os._exit(0 if counts_on else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "api"}, "counters"),
        ({"on_store_failure": "deny"}, "counters"),
        ({"counters": "redis://127.0.0.1"}, "name"),
        ({"counters": "http://127.0.0.1", "name": "api"}, "counters"),
        ({"counters": 5, "name": "api"}, "counters"),
        ({"now_us": 5}, "now_us"),
        ({"counters": "redis://127.0.0.1", "name": "api", "on_store_failure": "x"}, "on_store"),
        ({"counters": "redis://127.0.0.1", "name": "api", "timeout_seconds": 0}, "timeout"),
        ({"counters": "redis://127.0.0.1", "name": "api", "timeout_seconds": "1"}, "timeout"),
        ({"counters": "redis://127.0.0.1", "name": "api", "now_us": Microseconds()}, "now_us"),
        ({"resource": "api"}, "client"),
        ({"project": "search"}, "client"),
        ({"key": "user"}, "key"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments: dict, field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        limit("5/minute", **arguments)
    assert field in raised.value.field


def test_a_client_that_is_none_is_told() -> None:
    with pytest.raises(ValidationError, match="not str") as raised:
        limit(resource="api", client="http://127.0.0.1:3472")  # type: ignore[call-overload]
    assert raised.value.field == "client"


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.one_of(st.integers(0, 6), st.sampled_from((-3, -1))),
        st.sampled_from((0, 0.001, 0.5, 1, 7, 61, 4000, -2)),
    ),
    max_size=40,
)
TEXTS = (
    "5/minute",
    "5/minute burst 3; 3/2 seconds; 20/hour leaky_bucket",
    "4/10 seconds sliding_window_log; 7/minute fixed_window",
    "3/second fixed_window",
)


@given(st.sampled_from(TEXTS), OPERATIONS)
def test_it_decides_as_the_store_of_the_server_does(text: str, operations) -> None:
    now = Microseconds()
    api = limit(text, now_us=now)
    store = MemoryCounters()
    rules = tuple(rule for _, rule in parse_limits(text))
    for key, count, seconds in operations:
        now.advance(seconds)
        keys = tuple(f"{index}{key}" for index in range(len(rules)))
        take = Take("t", keys, rules, count, 2)
        if count < 0:
            assert list(api.adjust(key, count).verdicts) == store.adjust(take, now.now_us)
        else:
            taken = store.decide(take, now.now_us)
            result = api.hit(key, count)
            assert (result.allowed, list(result.verdicts)) == (taken.admitted, taken.verdicts)
    assert now.now_us >= START_US - 80_000_000

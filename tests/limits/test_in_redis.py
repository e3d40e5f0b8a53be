"""Limits whose counters are in a real Valkey."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import ServiceUnavailable, ValidationError
from fiscus.ids import uuid7
from fiscus.limits import Limit, LimitResult, in_redis, limit
from fiscus.ratelimits.counter_loop import CounterLoop
from tests.valkey import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fiscus.ratelimits.counter_loop import LoopTakes
    from tests.valkey import Servers

PATIENT = 5.0
"""Seconds to wait for an answer where the test is about what it says."""


def _hit(api: Limit, key: str) -> LimitResult:
    return api.hit(key)


def _hit_in_a_loop(api: Limit, key: str) -> LimitResult:
    return asyncio.run(api.hit_async(key))


EITHER_WAY = pytest.mark.parametrize("hit", [_hit, _hit_in_a_loop])


@pytest.fixture
def name() -> str:
    """A limit that no other test uses."""
    return f"limits-{uuid7()}"


@pytest.fixture
def api(valkey_url: str, name: str) -> Iterator[Limit]:
    with limit(
        "5/hour; 6/day fixed_window", counters=valkey_url, name=name, timeout_seconds=PATIENT
    ) as api:
        yield api


def test_hits_are_counted_together_by_all_who_use_the_name(
    api: Limit, valkey_url: str, name: str
) -> None:
    with limit(
        "5/hour; 6/day fixed_window", counters=valkey_url, name=name, timeout_seconds=PATIENT
    ) as other:
        assert [one.hit("a").remaining for one in (api, other, api, other, api)] == [4, 3, 2, 1, 0]
        denied = other.hit("a")
    assert not denied
    assert denied.name == "5/hour"
    assert 700 < (denied.retry_after_seconds or 0) <= 720
    assert not denied.degraded
    # the other's end has left this one its connection
    assert not api.hit("b").degraded


def test_a_name_of_an_enum_is_its_text(api: Limit, valkey_url: str, name: str) -> None:
    given = Enum("Given", {"NAME": name}, type=str)
    api.hit("a", 3)
    with limit("5/hour", counters=valkey_url, name=given.NAME, timeout_seconds=PATIENT) as other:
        assert other.look("a").remaining == 2


def test_a_changed_count_keeps_what_was_used(api: Limit, valkey_url: str, name: str) -> None:
    api.hit("a", 3)
    with limit("10/hour", counters=valkey_url, name=name, timeout_seconds=PATIENT) as raised:
        assert raised.look("a").remaining == 7


def test_a_charge_is_corrected_and_a_key_reset(api: Limit) -> None:
    api.hit("a", 5)
    assert api.adjust("a", -2).remaining == 2
    api.reset("a")
    assert api.look("a").remaining == 5


def test_two_limits_of_one_window_have_counters_of_their_own(valkey_url: str, name: str) -> None:
    with limit("5/hour; 3/hour", counters=valkey_url, name=name, timeout_seconds=PATIENT) as api:
        api.hit("a", 2)
        assert [one.remaining for one in api.look("a").verdicts] == [3, 1]


def test_coroutines_wait_without_blocking_their_loop(api: Limit) -> None:
    async def run() -> list[int | None]:
        results = await asyncio.gather(*(api.hit_async("a") for _ in range(20)))
        assert not (await api.look_async("a")).remaining
        assert (await api.adjust_async("a", -1)).remaining == 1
        await api.reset_async("a")
        return [one.remaining for one in results if one]

    assert sorted(asyncio.run(run())) == [0, 1, 2, 3, 4]


def test_a_hundred_threads_on_five_an_hour_admit_five(api: Limit) -> None:
    admitted: list[bool] = []
    start = threading.Barrier(100)

    def call() -> None:
        start.wait()
        admitted.append(api.hit("a").allowed)

    threads = [threading.Thread(target=call) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted)[-6:] == [False, True, True, True, True, True]


def _hit_often(url: str, name: str, admitted: multiprocessing.Queue[int]) -> None:
    with limit("50/hour", counters=url, name=name, timeout_seconds=30) as api:
        admitted.put(sum(api.hit("a").allowed for _ in range(100)))


def test_four_processes_admit_the_limit_together(valkey_url: str, name: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    admitted = spawn.Queue()
    processes = [
        spawn.Process(target=_hit_often, args=(valkey_url, name, admitted)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    total = sum(admitted.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(30)
    assert total == 50


# that is how servers which load the application first make their workers
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@EITHER_WAY
def test_a_child_of_a_fork_has_connections_of_its_own(
    api: Limit, hit: Callable[[Limit, str], LimitResult]
) -> None:
    hit(api, "a")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 7 if hit(api, "a").remaining == 3 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert api.look("a").remaining == 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_connects_when_another_thread_was_connecting(api: Limit) -> None:
    with in_redis._CONNECTIONS._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            status = 1
            try:
                status = 7 if not api.hit("a").degraded else 2
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_limit_that_is_closed_while_a_thread_connects_it_connects_anew(
    api: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.close()
    take = in_redis._CONNECTIONS.take

    def others_come_first(*given: Any) -> Any:
        connection = take(*given)
        monkeypatch.undo()
        api.hit("a")
        api.close()
        return connection

    monkeypatch.setattr(in_redis._CONNECTIONS, "take", others_come_first)
    api.hit("a")
    assert not api.hit("a").degraded


def test_a_limit_that_is_closed_while_an_event_loop_connects_it_connects_anew(
    api: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = CounterLoop.for_running_loop

    def another_closes(counters: CounterLoop) -> LoopTakes:
        takes = here(counters)
        monkeypatch.undo()
        api.close()
        return takes

    async def hits() -> list[LimitResult]:
        return [await api.hit_async("a") for _ in range(2)]

    monkeypatch.setattr(CounterLoop, "for_running_loop", another_closes)
    assert not asyncio.run(hits())[1].degraded


def test_half_a_character_is_refused_before_it_is_sent(api: Limit) -> None:
    with pytest.raises(ValidationError, match="half a character"):
        api.hit("\ud800")


def test_a_url_that_is_none_is_told_by_its_argument_and_not_by_a_setting(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        limit("5/minute", counters="nosuch://127.0.0.1", name=name)
    assert caught.value.field == "counters"
    assert caught.value.message.startswith("counters is not a URL")


def test_a_name_of_half_a_character_is_refused(valkey_url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        limit("5/minute", counters=valkey_url, name="\ud800")
    assert caught.value.field == "name"


@pytest.mark.parametrize("key", [5, None, b"a"])
@pytest.mark.parametrize("in_process", [True, False])
def test_a_key_that_is_no_text_is_refused(api: Limit, key: Any, *, in_process: bool) -> None:
    asked = limit("5/minute") if in_process else api
    calls: list[Callable[[], object]] = [
        lambda: asked.hit(key),
        lambda: asyncio.run(asked.hit_async(key)),
        lambda: asked.adjust(key, 1),
        lambda: asked.reset(key),
    ]
    for call in calls:
        with pytest.raises(ValidationError) as caught:
            call()
        assert caught.value.field == "key"


def test_limits_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        limit(5)  # type: ignore[call-overload]
    assert caught.value.field == "limits"


@EITHER_WAY
@pytest.mark.parametrize(
    ("policy", "allowed"),
    [("local", [True, True, False]), ("allow", [True] * 3), ("deny", [False] * 3)],
)
def test_without_the_server_the_policy_decides(
    valkey_servers: Servers,
    name: str,
    policy: str,
    allowed: list[bool],
    hit: Callable[[Limit, str], LimitResult],
) -> None:
    server = valkey_servers.start()
    with limit("2/hour", counters=server.url, name=name, on_store_failure=policy) as api:
        server.stop()
        began = time.perf_counter()
        results = [hit(api, "a") for _ in range(3)]
        assert time.perf_counter() - began < 2
        assert [one.allowed for one in results] == allowed
        assert all(one.degraded for one in results)
        if policy == "deny":
            assert results[0].retry_after_seconds == 1
        with pytest.raises(ServiceUnavailable) as caught:
            api.adjust("a", 1)
        assert caught.value.retriable
        with pytest.raises(ServiceUnavailable):
            api.reset("a")


@EITHER_WAY
def test_a_server_that_hangs_holds_up_nobody(
    valkey_servers: Servers, name: str, hit: Callable[[Limit, str], LimitResult]
) -> None:
    server = valkey_servers.start()
    with limit("2/hour", counters=server.url, name=name, timeout_seconds=0.05) as api:
        server.pause()
        try:
            began = time.perf_counter()
            assert hit(api, "a").degraded
            assert time.perf_counter() - began < 1
            with pytest.raises(ServiceUnavailable, match="may have been made") as caught:
                api.adjust("a", -1)
            assert not caught.value.retriable
        finally:
            server.resume()


def test_what_was_counted_without_the_server_is_forgotten_when_it_is_back(
    valkey_servers: Servers, name: str
) -> None:
    server = valkey_servers.start()
    with limit("5/second", counters=server.url, name=name) as api:
        server.stop()
        assert api.hit("a").degraded
        stood_in = api._stand_in
        assert len(stood_in) == 1
        server.start()
        wait_until(lambda: not api.hit("a").degraded and api._stand_in is not stood_in)
        assert len(api._stand_in) == 0


def test_what_was_counted_without_the_server_holds_when_it_goes_again_until_it_is_reset(
    valkey_servers: Servers, name: str
) -> None:
    server = valkey_servers.start()
    with limit("2/hour", counters=server.url, name=name) as api:
        server.stop()
        assert api.hit("a", 2).degraded
        server.start()
        wait_until(lambda: not api.hit("b").degraded)
        server.stop()
        assert not api.hit("a").allowed
        with pytest.raises(ServiceUnavailable):
            api.reset("a")
        assert api.hit("a").allowed


def test_an_event_loop_that_is_gone_stops_nobody(valkey_servers: Servers, name: str) -> None:
    server = valkey_servers.start()
    with limit("9/hour", counters=server.url, name=name, timeout_seconds=0.05) as api:

        async def degraded() -> bool:
            return (await api.hit_async("a")).degraded

        server.pause()
        try:
            assert asyncio.run(degraded())
        finally:
            server.resume()
        wait_until(lambda: not api.hit("b").degraded)
        wait_until(lambda: not asyncio.run(degraded()))

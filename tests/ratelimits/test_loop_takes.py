"""Takes of coroutines, whose counters are in a real Valkey that an event loop asks itself."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from fiscus import ServiceUnavailable
from fiscus.batching.thread_batcher import GroupLimits
from fiscus.clock import SystemClock
from fiscus.ids import uuid7
from fiscus.priorities import PRIORITIES, Priority
from fiscus.ratelimits.counter_loop import MAX_GROUP, CounterLoop, Outcome
from fiscus.ratelimits.port import Take
from fiscus.ratelimits.rules import Algorithm, make_rule
from fiscus.wiring.counters import open_counters
from tests.valkey import Servers, Valkey, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

LIMIT = 10_000
DAY = make_rule(Algorithm.FIXED_WINDOW, LIMIT, 86_400_000_000)
NORMAL = PRIORITIES.index(Priority.NORMAL)
PATIENT_SECONDS = 600.0
"""After a twentieth of it nothing more is sent while a group is on its way: far longer than what is
asked for at once takes to be sent, also on a busy machine."""
pytestmark = pytest.mark.anyio

IN_FLIGHT = 4 * MAX_GROUP
"""So many callers are sent for; more wait for an answer."""


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def valkey(valkey_servers: Servers) -> Valkey:
    return valkey_servers.start()


@pytest.fixture
def client(valkey: Valkey) -> Iterator[Redis]:
    with closing(valkey.client()) as client:
        yield client


@pytest.fixture
def open_loop() -> Iterator[Callable[..., CounterLoop]]:
    opened: list[CounterLoop] = []
    counters = []

    def open_(url: str, timeout_seconds: float = PATIENT_SECONDS) -> CounterLoop:
        counters.append(open_counters(url, timeout_seconds=timeout_seconds))
        opened.append(CounterLoop(counters[-1], SystemClock(), timeout_seconds))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()
    for one in counters:
        one.close()


@pytest.fixture
def loop(open_loop: Callable[..., CounterLoop], valkey: Valkey) -> CounterLoop:
    return open_loop(valkey.url)


def takes(tenant_id: str, key: str = "key", count: int = 1) -> tuple[Take, ...]:
    return (Take(tenant_id, (key,), (DAY,), count, NORMAL),)


def remaining(outcome: Outcome) -> int | None:
    if outcome is None or outcome[0] is None:
        return None
    return outcome[0].verdicts[0].remaining


async def used(loop: CounterLoop, tenant_id: str) -> int:
    left = remaining(await loop.for_running_loop().execute(takes(tenant_id, count=0)))
    assert left is not None
    return LIMIT - left


async def turns(how_many: int = 3) -> None:
    """Let what is to be sent be sent."""
    for _ in range(how_many):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, is_so)


class Groups:
    """A `thread_batcher.GroupObserver`."""

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.failed: list[int] = []

    def group_committed(self, size: int, seconds: float) -> None:
        assert seconds > 0
        self.committed.append(size)

    def group_failed(self, size: int) -> None:
        self.failed.append(size)


async def test_groups_on_their_way_together_are_answered_each_with_its_own(
    loop: CounterLoop, valkey: Valkey
) -> None:
    tenant_id = str(uuid7())
    loop.observer = groups = Groups()
    await used(loop, tenant_id)
    valkey.pause()
    try:
        asked = [
            loop.for_running_loop().execute(takes(tenant_id, key=str(count), count=count))
            for count in range(IN_FLIGHT + 10)
        ]
        await turns()
        assert loop.queue_depth == 10
    finally:
        valkey.resume()
    outcomes = await asyncio.gather(*asked)
    assert [remaining(one) for one in outcomes] == [LIMIT - count for count in range(len(asked))]
    assert groups.committed == [1, *[32] * (IN_FLIGHT // 32), 10]


async def test_a_connection_that_dies_answers_all_who_wait_and_nothing_is_sent_again(
    loop: CounterLoop, valkey: Valkey, client: Redis
) -> None:
    tenant_id = str(uuid7())
    loop.observer = groups = Groups()
    await used(loop, tenant_id)
    client.client_pause(60_000, all=False)
    asked = [loop.for_running_loop().execute(takes(tenant_id)) for _ in range(100)]
    await until(lambda: any(int(one["argv-mem"]) > 100 for one in client.client_list()))
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await asyncio.gather(*asked) == [None] * 100
    assert groups.failed == [32, 32, 32, 4]
    client.client_unpause()
    client.config_resetstat()
    assert await until_used(loop, tenant_id) == 0
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


async def until_used(loop: CounterLoop, tenant_id: str) -> int:
    """How much is used, once the breaker lets that be asked."""
    while True:
        outcome = await loop.for_running_loop().execute(takes(tenant_id, count=0))
        if outcome is not None:
            left = remaining(outcome)
            assert left is not None
            return LIMIT - left
        await asyncio.to_thread(threading.Event().wait, 0.01)


async def test_who_is_not_sent_for_by_the_deadline_never_is(
    open_loop: Callable[..., CounterLoop], valkey: Valkey
) -> None:
    tenant_id = str(uuid7())
    loop = open_loop(valkey.url, 0.3)
    await until_used(loop, tenant_id)
    valkey.pause()
    try:
        asked = [loop.for_running_loop().execute(takes(tenant_id)) for _ in range(IN_FLIGHT + 50)]
        assert await asyncio.gather(*asked) == [None] * len(asked)
        assert loop.queue_depth == 0
    finally:
        valkey.resume()
    # what was on its way may have been decided since, at most once
    assert await until_used(loop, tenant_id) <= IN_FLIGHT


async def test_a_loop_that_is_held_up_does_not_take_the_server_for_late(
    open_loop: Callable[..., CounterLoop], valkey: Valkey
) -> None:
    tenant_id = str(uuid7())
    loop = open_loop(valkey.url, 0.2)
    await until_used(loop, tenant_id)
    loop.observer = groups = Groups()
    asked = loop.for_running_loop().execute(takes(tenant_id))
    await turns()
    threading.Event().wait(0.5)
    await asked  # answered or not: the caller's deadline has passed
    await until(lambda: bool(groups.committed or groups.failed))
    assert (groups.committed, groups.failed) == ([1], [])


async def test_scripts_forgotten_under_load_are_sent_again_and_decide_once(
    loop: CounterLoop, client: Redis
) -> None:
    tenant_id = str(uuid7())

    async def caller() -> None:
        for _ in range(10):
            assert await loop.for_running_loop().execute(takes(tenant_id)) is not None

    callers = asyncio.gather(*(caller() for _ in range(100)))
    while not callers.done():
        await asyncio.to_thread(client.script_flush)
    await callers
    assert await used(loop, tenant_id) == 1000


async def test_a_caller_that_hangs_up_is_not_sent_for_and_disturbs_nobody(
    loop: CounterLoop,
) -> None:
    tenant_id = str(uuid7())
    asked = [loop.for_running_loop().execute(takes(tenant_id)) for _ in range(3)]
    asked[1].cancel()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in outcomes] == [False, True, False]
    assert await used(loop, tenant_id) == 2


async def test_closing_answers_those_who_wait_then_disconnects(
    loop: CounterLoop, valkey: Valkey, client: Redis
) -> None:
    tenant_id = str(uuid7())
    await used(loop, tenant_id)
    here = loop.for_running_loop()
    valkey.pause()
    try:
        asked = [here.execute(takes(tenant_id)) for _ in range(IN_FLIGHT + 10)]
        await turns()
        loop.close()
        with pytest.raises(ServiceUnavailable):
            await here.execute(takes(tenant_id))
    finally:
        valkey.resume()
    assert None not in await asyncio.gather(*asked)
    await until(lambda: len(client.client_list()) == 1)


async def test_too_many_who_wait_are_refused(
    loop: CounterLoop, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "limits", GroupLimits(max_queue=5, deadline_seconds=PATIENT_SECONDS))
    valkey.pause()
    try:
        asked = [loop.for_running_loop().execute(takes("t")) for _ in range(5)]
        with pytest.raises(ServiceUnavailable, match="Too many"):
            await loop.for_running_loop().execute(takes("t"))
    finally:
        valkey.resume()
    assert None not in await asyncio.gather(*asked)


def test_event_loops_have_connections_of_their_own(loop: CounterLoop, client: Redis) -> None:
    tenant_id = str(uuid7())
    admitted: list[bool] = []
    start = threading.Barrier(3)

    async def run() -> None:
        outcomes = await asyncio.gather(
            *(
                loop.for_running_loop().execute(takes(tenant_id, count=LIMIT // 100))
                for _ in range(50)
            )
        )
        admitted.extend(bool(one and one[0] and one[0].admitted) for one in outcomes)

    def call() -> None:
        start.wait()
        asyncio.run(run())

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted.count(True) == 100
    # those of loops that are gone are closed when another one begins
    asyncio.run(run())
    wait_until(lambda: len(client.client_list()) == 2)

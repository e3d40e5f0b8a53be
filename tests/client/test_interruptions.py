"""Cancelled tasks and Ctrl-C leave nothing held, and no cost unrecorded."""

from __future__ import annotations

import asyncio
import signal
import threading
from datetime import timedelta
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from fiscus import AsyncClient, Client, Forbidden
from fiscus.client import holds, retries, transports
from tests.client.apis import BUDGET, OPERATION, Bench, RunningServer, open_async
from tests.client.faulty import DROP, Faulty, Seen, faulty_server, problem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def faulty(server: RunningServer) -> Iterator[Faulty]:
    """Of each test alone: what another left on its way would be taken for its own."""
    with faulty_server(server.url) as faulty:
        yield faulty


@pytest.fixture
async def slow(server: RunningServer, faulty: Faulty, tenant: str) -> AsyncGenerator[Bench]:
    """An `AsyncClient` whose server can be held up."""
    through = RunningServer(faulty.url, server.key, server.engine, server.clock)
    async with open_async(through, tenant) as client:
        yield Bench(client, tenant, server.clock)
    faulty.before_answering = _nothing


def _nothing(_seen: Seen) -> None:
    pass


class Gate:
    """Holds up the answers to paths that end so, after Fiscus has done what was asked."""

    def __init__(self, faulty: Faulty, *endings: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self._open = threading.Event()
        self._endings = endings
        faulty.before_answering = self._wait

    def _wait(self, seen: Seen) -> None:
        if seen.path.endswith(self._endings) and not self._open.is_set():
            self._loop.call_soon_threadsafe(self.reached.set)
            self._open.wait(30)

    def open(self) -> None:
        self._open.set()


async def cancelled_at(gate: Gate, work: Coroutine[Any, Any, None]) -> None:
    """Cancel `work` when it waits for the answer, which comes then."""
    task = asyncio.create_task(work)
    await gate.reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task


async def reached(faulty: Faulty, ending: str) -> None:
    """Wait until a path that ends so was asked."""
    while not faulty.of(ending):  # noqa: ASYNC110 - a server in a thread sets no event
        await asyncio.sleep(0.01)


async def test_a_cancelled_task_gives_the_money_back(slow: Bench) -> None:
    budget = await slow.budget()
    inside = asyncio.Event()

    async def work() -> None:
        async with slow.api.reserve(**OPERATION, estimate=1):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    assert await slow.use(budget) == (0, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await slow.use(budget) == (0, 0)


async def test_a_task_cancelled_while_it_gives_back_still_gives_back(
    slow: Bench, faulty: Faulty
) -> None:
    budget = await slow.budget()
    gate = Gate(faulty, "/release")

    async def work() -> None:
        async with slow.api.reserve(**OPERATION, estimate=1):
            pass

    task = asyncio.create_task(work())
    await gate.reached.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await slow.use(budget) == (0, 0)


async def test_a_task_cancelled_while_it_settles_still_settles(slow: Bench, faulty: Faulty) -> None:
    budget = await slow.budget()
    gate = Gate(faulty, "/settle")

    async def work() -> None:
        async with slow.api.reserve(**OPERATION, estimate=1) as r:
            await r.settle("0.25")

    await cancelled_at(gate, work())
    assert await slow.use(budget) == (Decimal("0.25"), 0)
    assert not faulty.of("/release")


async def test_a_task_cancelled_while_its_settle_is_refused_loses_no_nested_cost(
    slow: Bench, faulty: Faulty
) -> None:
    budget = await slow.budget()
    gate = Gate(faulty, "/settle")
    ahead = slow.clock.now() + timedelta(days=3)

    async def work() -> None:
        async with slow.api.reserve(**OPERATION, estimate=1) as r:
            async with slow.api.reserve(**OPERATION, estimate="0.5") as inner:
                await inner.settle("0.25")
            await r.settle("0.5", timestamp=ahead)

    await cancelled_at(gate, work())
    assert await slow.use(budget) == (Decimal("0.25"), 0)


async def test_a_settle_refused_beside_another_that_gets_through_loses_no_nested_cost(
    slow: Bench, faulty: Faulty
) -> None:
    budget = await slow.budget()
    gate = Gate(faulty, "/settle")
    async with slow.api.reserve(**OPERATION, estimate=1) as r:
        inner = slow.api.reserve(**OPERATION, estimate="0.5")
        await inner.__aenter__()
        first = asyncio.create_task(r.settle("0.5"))
        await gate.reached.wait()
        faulty.steps.append(problem(403, "FORBIDDEN"))
        with pytest.raises(Forbidden):
            await r.settle("0.5")
        await inner.settle("0.25")
        await inner.__aexit__(None, None, None)
        gate.open()
        assert (await first).charged == Decimal("0.5")
    assert await slow.use(budget) == (Decimal("0.75"), 0)


async def test_a_task_cancelled_while_it_reserves_leaves_nothing_held(
    slow: Bench, faulty: Faulty
) -> None:
    budget = await slow.budget()
    gate = Gate(faulty, "/check")

    async def work() -> None:
        async with slow.api.reserve(**OPERATION, estimate=1):
            raise AssertionError("the block ran")

    task = asyncio.create_task(work())
    await gate.reached.wait()
    assert await slow.use(budget) == (0, 1)
    gate.open()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await slow.use(budget) == (0, 0)
    assert len({one.key for one in faulty.of("/check")}) == 1


async def test_nested_costs_of_a_cancelled_task_are_settled(slow: Bench) -> None:
    budget = await slow.budget()
    inside = asyncio.Event()

    async def work() -> None:
        async with slow.api.reserve(**OPERATION, estimate=1):
            async with slow.api.reserve(**OPERATION, estimate="0.5") as inner:
                await inner.settle("0.25")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await slow.use(budget) == (Decimal("0.25"), 0)


async def test_a_time_out_around_a_block_stays_a_time_out(slow: Bench) -> None:
    budget = await slow.budget()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), slow.api.reserve(**OPERATION, estimate=1):
            await asyncio.Event().wait()
    assert await slow.use(budget) == (0, 0)


async def test_a_cancel_scope_around_a_block_gives_the_money_back(slow: Bench) -> None:
    budget = await slow.budget()
    with anyio.CancelScope() as scope:
        async with slow.api.reserve(**OPERATION, estimate=1):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await slow.use(budget) == (0, 0)


async def test_a_failing_sibling_in_a_task_group_gives_the_money_back(slow: Bench) -> None:
    budget = await slow.budget()
    inside = asyncio.Event()

    async def work() -> None:
        async with slow.api.reserve(**OPERATION, estimate=1):
            inside.set()
            await asyncio.Event().wait()

    async def fail() -> None:
        await inside.wait()
        raise LookupError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await both()
    assert await slow.use(budget) == (0, 0)


async def test_a_server_that_hangs_holds_up_a_cancelled_task_within_bounds(
    slow: Bench, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(holds, "CLEAN_UP_SECONDS", 0.2)
    gate = Gate(faulty, "/release")

    async def work() -> None:
        async with slow.api.reserve(**OPERATION, estimate=1):
            inside.set()
            await asyncio.Event().wait()

    inside = asyncio.Event()
    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    started = asyncio.get_running_loop().time()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - started < 5
    gate.open()


def test_ending_a_program_gives_the_money_back(server: RunningServer, tenant: str) -> None:
    """As Ctrl-C does: `asyncio.run` cancels the main task, and then all others."""

    async def background(inside: asyncio.Event) -> None:
        async with (
            AsyncClient(server.url, server.key, tenant=tenant) as client,
            client.reserve(**OPERATION, estimate=1),
        ):
            inside.set()
            await asyncio.Event().wait()

    async def main() -> None:
        inside = asyncio.Event()
        left_behind.append(asyncio.create_task(background(inside)))
        await inside.wait()

    left_behind: list[asyncio.Task[None]] = []
    with Client(server.url, server.key, tenant=tenant) as client:
        budget = client.create_budget(**BUDGET)
        asyncio.run(main())
        assert client.utilization(budget.budget_id).periods[0].reserved == 0


@pytest.mark.parametrize(("ending", "spent"), [("settle", "0.5"), ("nested", "0.25"), ("", "0")])
def test_ending_a_program_between_two_tries_loses_no_cost_and_leaves_nothing_held(
    server: RunningServer,
    faulty: Faulty,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    spent: str,
) -> None:
    """`asyncio.run` cancels all tasks, so those that must not be interrupted, too."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.5)

    async def background() -> None:
        async with (
            AsyncClient(faulty.url, server.key, tenant=tenant) as client,
            client.reserve(**OPERATION, estimate=1) as r,
        ):
            if ending == "nested":
                async with client.reserve(**OPERATION, estimate="0.5") as inner:
                    await inner.settle("0.25")
            faulty.steps.append(problem(503, "SERVICE_UNAVAILABLE"))
            if ending == "settle":
                await r.settle("0.5")

    async def main() -> None:
        left_behind.append(asyncio.create_task(background()))
        await reached(faulty, "/release" if not ending else "/settle")

    left_behind: list[asyncio.Task[None]] = []
    with Client(server.url, server.key, tenant=tenant) as client:
        budget = client.create_budget(**BUDGET)
        asyncio.run(main())
        period = client.utilization(budget.budget_id).periods[0]
        assert (period.spent, period.reserved) == (Decimal(spent), 0)


def test_a_cost_that_a_program_ends_without_is_told_of(
    server: RunningServer,
    faulty: Faulty,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(transports, "GRACE_SECONDS", 0.2)
    left_behind: list[asyncio.Task[None]] = []

    async def background() -> None:
        async with (
            AsyncClient(faulty.url, server.key, tenant=tenant) as client,
            client.reserve(**OPERATION, estimate=1) as r,
        ):
            await r.settle("0.5")

    async def main() -> Gate:
        gate = Gate(faulty, "/settle")
        left_behind.append(asyncio.create_task(background()))
        await gate.reached.wait()
        return gate

    started = monotonic()
    gate = asyncio.run(main())
    assert monotonic() - started < 10
    gate.open()
    faulty.before_answering = _nothing
    assert "the event loop ended first: a cost may not be recorded" in caplog.text


async def test_closing_a_client_waits_for_what_cancelled_tasks_have_begun(
    server: RunningServer, faulty: Faulty, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = AsyncClient(faulty.url, server.key, tenant=tenant)
    budget = await client.create_budget(**BUDGET)
    monkeypatch.setattr(transports, "GRACE_SECONDS", 0.1)

    async def work() -> None:
        async with client.reserve(**OPERATION, estimate=1) as r:
            faulty.steps.append(problem(503, "SERVICE_UNAVAILABLE"))
            await r.settle("0.5")

    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.5)
    task = asyncio.create_task(work())
    await reached(faulty, "/settle")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.setattr(transports, "GRACE_SECONDS", 5.0)
    await client.close()
    with Client(server.url, server.key, tenant=tenant) as looking:
        period = looking.utilization(budget.budget_id).periods[0]
    assert (period.spent, period.reserved) == (Decimal("0.5"), 0)


# -- Ctrl-C in a blocking program


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_in_a_block_gives_the_money_back(server: RunningServer, tenant: str) -> None:
    with Client(server.url, server.key, tenant=tenant) as client:
        budget = client.create_budget(**BUDGET)
        with pytest.raises(KeyboardInterrupt), client.reserve(**OPERATION, estimate=1):
            signal.raise_signal(signal.SIGINT)
        assert client.utilization(budget.budget_id).periods[0].reserved == 0


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_while_reserving_leaves_nothing_held(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    with Client(faulty.url, server.key, tenant=tenant) as client:
        budget = client.create_budget(**BUDGET)
        faulty.before_answering = _once("/check", _press_ctrl_c)
        try:
            with pytest.raises(KeyboardInterrupt), client.reserve(**OPERATION, estimate=1):
                raise AssertionError("the block ran")
        finally:
            faulty.before_answering = _nothing
        assert client.utilization(budget.budget_id).periods[0].reserved == 0
        assert len({one.key for one in faulty.of("/check")}) == 1


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_an_interrupted_reserve_that_cannot_be_undone_says_so(
    server: RunningServer, faulty: Faulty, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        faulty.before_answering = _once("/check", _press_ctrl_c)
        faulty.steps.extend(["pass", DROP])
        try:
            with pytest.raises(KeyboardInterrupt), client.reserve(**OPERATION, estimate=1):
                raise AssertionError("the block ran")
        finally:
            faulty.before_answering = _nothing
    assert "may be held until it expires" in caplog.text


def _once(ending: str, act: Callable[[], Any]) -> Callable[[Seen], None]:
    done = threading.Event()

    def before_answering(seen: Seen) -> None:
        if seen.path.endswith(ending) and not done.is_set():
            done.set()
            act()

    return before_answering


def _press_ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)
    # the answer must not overtake the signal
    threading.Event().wait(0.2)

"""Quotas mean the same in process and against a server; and as blocks and decorators."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import (
    Client,
    Conflict,
    Fiscus,
    IdempotencyConflict,
    NotFound,
    QuotaExhausted,
    Refused,
    ServiceUnavailable,
    ValidationError,
)
from fiscus.client import consuming, transports
from fiscus.quotas.calls import (
    ConsumptionView,
    DistributeAnswer,
    QuotaCheckAnswer,
    QuotaCheckBatchAnswer,
    QuotaHistory,
    QuotaView,
)
from tests.client.apis import RunningServer, open_async
from tests.client.faulty import CUT, DROP, Faulty, faulty_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.client.apis import Bench

pytestmark = pytest.mark.anyio

QUOTA: dict[str, Any] = {
    "scope_type": "project",
    "scope_id": "search",
    "resource_type": "gpu_hours",
    "allocated_amount": 10,
}
CALL: dict[str, Any] = {"resource_type": "gpu_hours", "project": "search"}


async def used(bench: Bench, quota: Any) -> Decimal:
    now = await bench.api.get_quota(quota.quota_id)
    return now.used_amount + now.burst_used


# -- the calls


async def test_an_amount_is_taken_until_nothing_is_left_and_a_denial_is_an_answer(
    bench: Bench,
) -> None:
    quota = await bench.api.allocate_quota(**QUOTA, max_burst_amount="1")
    assert type(quota) is QuotaView
    assert (quota.tenant_id, quota.remaining_amount) == (bench.tenant, 11)
    answers = [await bench.api.check_quota(**CALL, required_amount=5) for _ in range(3)]
    assert type(answers[0]) is QuotaCheckAnswer
    assert [one.allowed for one in answers] == [True, True, False]
    assert answers[2].max_allowed_amount == 1
    assert answers[2].consumption_id is None
    looked = await bench.api.check_quota(**CALL, required_amount=1, consume=False)
    assert (looked.allowed, looked.consumption_id) == (True, None)
    assert await used(bench, quota) == 10


async def test_checks_of_a_batch_are_decided_in_order(bench: Bench) -> None:
    await bench.api.allocate_quota(**QUOTA)
    answer = await bench.api.check_quotas(
        [
            {**CALL, "required_amount": 8},
            {**CALL, "required_amount": 8},
            {**CALL, "required_amount": 2},
        ]
    )
    assert type(answer) is QuotaCheckBatchAnswer
    assert not answer.allowed
    assert [one.allowed for one in answer.results] == [True, False, True]


async def test_a_consumption_is_given_back_in_part_and_whole(bench: Bench) -> None:
    quota = await bench.api.allocate_quota(**QUOTA)
    taken = await bench.api.check_quota(**CALL, required_amount=5)
    view = await bench.api.release_consumption(taken.consumption_id, "1.5")
    assert type(view) is ConsumptionView
    assert (view.amount, view.released_amount) == (5, Decimal("1.5"))
    assert await used(bench, quota) == Decimal("3.5")
    with pytest.raises((Conflict, ValidationError)):
        await bench.api.release_consumption(taken.consumption_id, 4)
    view = await bench.api.release_consumption(taken.consumption_id)
    assert view.released_amount == 5
    assert await used(bench, quota) == 0
    with pytest.raises(NotFound):
        await bench.api.release_consumption("01890000-0000-7000-8000-000000000000")


async def test_giving_back_twice_with_one_key_gives_back_once(bench: Bench) -> None:
    quota = await bench.api.allocate_quota(**QUOTA)
    taken = await bench.api.check_quota(**CALL, required_amount=5)
    for _ in range(2):
        await bench.api.release_consumption(taken.consumption_id, 1, idempotency_key="once")
    assert await used(bench, quota) == 4


async def test_allocating_twice_with_one_key_makes_one_quota(bench: Bench) -> None:
    one = await bench.api.allocate_quota(**QUOTA, idempotency_key="once")
    again = await bench.api.allocate_quota(**QUOTA, idempotency_key="once")
    assert one.quota_id == again.quota_id
    with pytest.raises(IdempotencyConflict):
        await bench.api.allocate_quota(**{**QUOTA, "scope_id": "ads"}, idempotency_key="once")
    with pytest.raises(Conflict):
        await bench.api.allocate_quota(**QUOTA)


async def test_a_quota_is_changed_and_ended(bench: Bench) -> None:
    made = await bench.api.allocate_quota(
        **QUOTA, max_burst_amount=2, burst_premium_rate="0.5", auto_renew=True
    )
    await bench.api.check_quota(**CALL, required_amount=6)
    changed = await bench.api.update_quota(made.quota_id, allocated_amount=8, auto_renew=False)
    assert type(changed) is QuotaView
    assert (changed.version, changed.allocated_amount, changed.auto_renew) == (2, 8, False)
    assert (changed.max_burst_amount, changed.burst_premium_rate) == (2, Decimal("0.5"))
    assert (changed.period_start, changed.period_end) == (made.period_start, made.period_end)
    assert (changed.used_amount, changed.remaining_amount) == (6, 4)
    unpriced = await bench.api.update_quota(made.quota_id, burst_premium_rate=None)
    assert unpriced.burst_premium_rate is None

    with pytest.raises(Conflict):
        await bench.api.update_quota(made.quota_id, version=1, allocated_amount=9)
    with pytest.raises(Conflict):
        await bench.api.update_quota(made.quota_id, scope_id="ads")
    with pytest.raises(Conflict):
        await bench.api.update_quota(made.quota_id, allocated_amount=1)
    less = await bench.api.update_quota(made.quota_id, allocated_amount=1, force=True)
    assert (less.version, less.allocated_amount) == (4, 1)

    with pytest.raises(Conflict):
        await bench.api.delete_quota(made.quota_id)
    await bench.api.delete_quota(made.quota_id, force=True)
    with pytest.raises(NotFound):
        await bench.api.get_quota(made.quota_id)
    assert (await bench.api.check_quota(**CALL, required_amount=99)).consumption_id is None


async def test_a_quota_of_another_tenant_is_reached_by_naming_it(bench: Bench) -> None:
    other = f"{bench.tenant}-2"
    quota_id = (await bench.api.allocate_quota(**QUOTA, tenant=other)).quota_id
    with pytest.raises(NotFound):
        await bench.api.update_quota(quota_id, allocated_amount=3)
    changed = await bench.api.update_quota(quota_id, tenant=other, allocated_amount=3)
    assert (changed.tenant_id, changed.allocated_amount) == (other, 3)
    with pytest.raises(NotFound):
        await bench.api.delete_quota(quota_id)
    await bench.api.delete_quota(quota_id, tenant=other)


async def test_a_total_is_shared_out_over_entities(bench: Bench) -> None:
    wanted: dict[str, Any] = {
        "resource_type": "gpu_hours",
        "total_amount": 100,
        "strategy": "priority",
        "entities": [
            {"scope_type": "project", "scope_id": "search", "tier": 1},
            {"scope_type": "project", "scope_id": "ads", "tier": 2},
        ],
    }
    preview = await bench.api.distribute_quota(**wanted, dry_run=True)
    assert type(preview) is DistributeAnswer
    assert [one.quota_id for one in preview.parts] == [None, None]
    assert type(preview.total_amount) is Decimal
    made = await bench.api.distribute_quota(**wanted, idempotency_key="once")
    again = await bench.api.distribute_quota(**wanted, idempotency_key="once")
    assert [one.allocated_amount for one in made.parts] == [63, 37]
    assert [one.quota_id for one in again.parts] == [one.quota_id for one in made.parts]
    listed = await bench.api.quotas(resource_type="gpu_hours", active_only=True)
    assert {one.quota_id for one in listed.items} == {one.quota_id for one in made.parts}


async def test_history_has_every_row_and_the_days_totals(bench: Bench) -> None:
    quota = await bench.api.allocate_quota(**QUOTA)
    taken = await bench.api.check_quota(**CALL, required_amount=5, user="ada")
    await bench.api.release_consumption(taken.consumption_id, 2)
    history = await bench.api.quota_history(quota.quota_id)
    assert type(history) is QuotaHistory
    assert [(one.kind, one.amount, one.used_after) for one in history.rows] == [
        ("release", 2, 3),
        ("consume", 5, 5),
    ]
    assert history.rows[1].user_id == "ada"
    (day,) = history.days
    assert (day.day, day.consumed, day.released) == (bench.clock.now().date(), 5, 2)
    page = await bench.api.quota_history(quota.quota_id, page_size=1)
    assert len(page.rows) == 1


@pytest.mark.parametrize("amount", [2.5, float("nan"), "NaN", "lots", -1, True, "1e40"])
async def test_a_wrong_amount_is_named(bench: Bench, amount: Any) -> None:
    with pytest.raises(ValidationError, match="required_amount"):
        await bench.api.check_quota(**CALL, required_amount=amount)


# -- blocks


async def test_a_block_keeps_what_it_took(bench: Bench) -> None:
    quota = await bench.api.allocate_quota(**QUOTA)
    async with bench.api.quota("gpu_hours", 2.5, project="search", operation_id="op") as taken:
        assert taken.answer.remaining_amount == Decimal("7.5")
        assert taken.consumption_id is not None
    assert await used(bench, quota) == Decimal("2.5")


class Hours(float):
    """As a number of numpy's, which shows itself with its name."""

    def __repr__(self) -> str:
        return f"Hours({float(self)})"


async def test_a_float_is_taken_by_its_shortest_text(bench: Bench) -> None:
    quota = await bench.api.allocate_quota(**QUOTA)
    async with bench.api.quota("gpu_hours", Hours(0.1), project="search"):
        pass
    async with bench.api.quota("gpu_hours", 0.7, project="search") as taken:
        await taken.release(0.1)
    assert await used(bench, quota) == Decimal("0.7")


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -0.5, "x", True, None])
async def test_a_block_with_a_wrong_amount_does_not_begin(bench: Bench, amount: Any) -> None:
    with pytest.raises(ValidationError, match="amount"):
        async with bench.api.quota("gpu_hours", amount):
            raise AssertionError("the block ran")


async def test_a_refusal_is_raised_and_the_block_does_not_run(bench: Bench) -> None:
    quota = await bench.api.allocate_quota(**QUOTA)
    with pytest.raises(QuotaExhausted) as raised:
        async with bench.api.quota("gpu_hours", 11, project="search"):
            raise AssertionError("the block ran")
    assert isinstance(raised.value, Refused)
    assert raised.value.code == "QUOTA_EXHAUSTED"
    assert (raised.value.answer.quota_id, raised.value.answer.max_allowed_amount) == (
        quota.quota_id,
        10,
    )
    assert await used(bench, quota) == 0


@pytest.mark.parametrize(("give_back", "left_used"), [(False, 2), (True, 0)])
async def test_a_failing_block_gives_back_if_asked(
    bench: Bench, give_back: bool, left_used: int
) -> None:
    quota = await bench.api.allocate_quota(**QUOTA)
    with pytest.raises(LookupError):
        async with bench.api.quota("gpu_hours", 2, project="search", give_back_on_error=give_back):
            raise LookupError
    assert await used(bench, quota) == left_used


@pytest.mark.parametrize(("given_back", "rows"), [((1,), 3), ((), 2)])
async def test_a_failing_block_gives_back_what_is_left_of_it(
    bench: Bench, given_back: tuple[int, ...], rows: int
) -> None:
    """Nothing, when it gave all back itself."""
    quota = await bench.api.allocate_quota(**QUOTA)

    async def work() -> None:
        async with bench.api.quota("gpu_hours", 3, project="search", give_back_on_error=True) as c:
            await c.release(*given_back)
            raise LookupError

    with pytest.raises(LookupError):
        await work()
    assert await used(bench, quota) == 0
    assert len((await bench.api.quota_history(quota.quota_id)).rows) == rows


async def test_without_a_quota_a_block_runs_and_has_nothing_to_give_back(bench: Bench) -> None:
    async with bench.api.quota("other", 2, give_back_on_error=True) as taken:
        assert (taken.answer.matched, taken.consumption_id) == (0, None)
        await taken.release()


async def test_blocks_in_one_another_take_their_own_amounts(bench: Bench) -> None:
    quota = await bench.api.allocate_quota(**QUOTA)
    async with (
        bench.api.quota("gpu_hours", 2, project="search"),
        bench.api.quota("gpu_hours", 3, project="search"),
    ):
        assert await used(bench, quota) == 5


# -- blocking forms


@pytest.fixture
def engine(embedded: tuple[Fiscus, Any], tenant: str) -> Fiscus:
    return Fiscus(embedded[0]._backend, tenant)


def test_a_block_is_entered_once(engine: Fiscus) -> None:
    block = engine.quota("gpu_hours")
    for look in (lambda: block.answer, lambda: block.consumption_id, block.release):
        with pytest.raises(RuntimeError, match="before its block"):
            look()
    with block:
        pass
    with pytest.raises(RuntimeError, match="entered once"), block:
        pass


def test_every_call_of_a_function_takes_the_amount(engine: Fiscus) -> None:
    quota = engine.allocate_quota(**QUOTA)

    @engine.quota("gpu_hours", 4, project="search", give_back_on_error=True)
    def work(fail: bool = False) -> str:
        """Works."""
        if fail:
            raise LookupError
        return "done"

    assert (work.__name__, work.__doc__) == ("work", "Works.")
    assert [work(), work()] == ["done", "done"]
    with pytest.raises(QuotaExhausted):
        work()
    assert engine.get_quota(quota.quota_id).used_amount == 8
    engine.release_consumption(_latest(engine, quota))
    with pytest.raises(LookupError):
        work(fail=True)
    assert engine.get_quota(quota.quota_id).used_amount == 4


async def test_a_coroutine_function_takes_in_a_thread(engine: Fiscus) -> None:
    quota = engine.allocate_quota(**QUOTA)

    @engine.quota("gpu_hours", 4, project="search", give_back_on_error=True)
    async def work(fail: bool = False) -> str:
        if fail:
            raise LookupError
        return "done"

    assert await asyncio.gather(work(), work()) == ["done", "done"]
    with pytest.raises(QuotaExhausted):
        await work()
    engine.release_consumption(_latest(engine, quota))
    with pytest.raises(LookupError):
        await work(fail=True)
    assert engine.get_quota(quota.quota_id).used_amount == 4


def test_what_is_no_function_is_not_decorated(engine: Fiscus) -> None:
    def iterate() -> Iterator[int]:
        yield 1

    for wrong in (iterate, Fiscus, staticmethod(len), 5):
        with pytest.raises(TypeError):
            engine.quota("gpu_hours")(wrong)


def _latest(engine: Fiscus, quota: Any) -> str:
    return engine.quota_history(quota.quota_id).rows[0].consumption_id


async def test_an_asynchronous_client_decorates_coroutine_functions(
    server: RunningServer, tenant: str
) -> None:
    async with open_async(server, tenant) as client:
        quota = await client.allocate_quota(**QUOTA)

        @client.quota("gpu_hours", 6, project="search", give_back_on_error=True)
        async def work(fail: bool = False) -> str:
            if fail:
                raise LookupError
            return "done"

        with pytest.raises(LookupError):
            await work(fail=True)
        assert await work() == "done"
        with pytest.raises(QuotaExhausted):
            await work()
        assert (await client.get_quota(quota.quota_id)).used_amount == 6
        with pytest.raises(TypeError, match="coroutine"):
            client.quota("gpu_hours")(len)


# -- when it is interrupted or the server is not there


@pytest.fixture(scope="module")
def faulty(server: RunningServer) -> Iterator[Faulty]:
    with faulty_server(server.url) as faulty:
        yield faulty


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "faulty" in request.fixturenames:
        faulty: Faulty = request.getfixturevalue("faulty")
        faulty.steps.clear()
        faulty.seen.clear()
        faulty.before_answering = lambda _seen: None


def test_a_lost_answer_takes_once(server: RunningServer, faulty: Faulty, tenant: str) -> None:
    with Client(faulty.url, server.key, tenant=tenant) as client:
        quota = client.allocate_quota(**QUOTA)
        faulty.steps.extend([CUT, CUT])
        with client.quota("gpu_hours", 2, project="search") as taken:
            faulty.steps.extend([CUT])
            taken.release(1)
        assert client.get_quota(quota.quota_id).used_amount == 1


def test_without_the_server_the_block_does_not_run() -> None:
    with (
        Client("http://127.0.0.1:9", "key", total_seconds=0.2) as client,
        pytest.raises(ServiceUnavailable),
        client.quota("gpu_hours"),
    ):
        raise AssertionError("the block ran")


def test_giving_back_that_fails_does_not_hide_the_error(
    server: RunningServer, faulty: Faulty, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        client.allocate_quota(**QUOTA)
        faulty.steps.extend(["pass", DROP])
        with (
            pytest.raises(LookupError),
            client.quota("gpu_hours", 2, project="search", give_back_on_error=True),
        ):
            raise LookupError
    assert "stays taken" in caplog.text


async def test_a_task_cancelled_in_its_block_gives_back_if_asked(
    server: RunningServer, tenant: str
) -> None:
    async with open_async(server, tenant) as client:
        quota = await client.allocate_quota(**QUOTA)
        inside = asyncio.Event()

        async def work() -> None:
            async with client.quota("gpu_hours", 2, project="search", give_back_on_error=True):
                inside.set()
                await asyncio.Event().wait()

        await _cancelled_at(asyncio.create_task(work()), inside)
        assert (await client.get_quota(quota.quota_id)).used_amount == 0


async def test_a_task_cancelled_while_it_takes_takes_nothing(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    through = RunningServer(faulty.url, server.key, server.engine, server.clock)
    async with open_async(through, tenant) as client:
        quota = await client.allocate_quota(**QUOTA)
        gate, reached = _gate(faulty, "/quotas/check")

        async def work() -> None:
            async with client.quota("gpu_hours", 2, project="search"):
                raise AssertionError("the block ran")

        task = asyncio.create_task(work())
        await reached.wait()
        assert server.engine.quotas.balances(tenant, [quota.quota_id])[quota.quota_id].used == 2
        gate.set()
        await _cancelled_at(task, reached)
        assert (await client.get_quota(quota.quota_id)).used_amount == 0
        assert len({one.key for one in faulty.of("/quotas/check")}) == 1


async def test_a_task_cancelled_while_a_thread_takes_for_it_takes_nothing(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    with Client(faulty.url, server.key, tenant=tenant) as client:
        quota = client.allocate_quota(**QUOTA)
        gate, reached = _gate(faulty, "/quotas/check")

        @client.quota("gpu_hours", 2, project="search")
        async def work() -> None:
            raise AssertionError("the function ran")

        task = asyncio.create_task(work())
        await reached.wait()
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        await _cancelled_at(task, reached)
        assert client.get_quota(quota.quota_id).used_amount == 0


async def test_a_thread_that_takes_too_late_gives_back_by_itself(
    server: RunningServer, faulty: Faulty, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "GRACE_SECONDS", 0.05)
    with Client(faulty.url, server.key, tenant=tenant) as client:
        quota = client.allocate_quota(**QUOTA)
        gate, reached = _gate(faulty, "/quotas/check")

        @client.quota("gpu_hours", 2, project="search")
        async def work() -> None:
            raise AssertionError("the function ran")

        await _cancelled_at(asyncio.create_task(work()), reached)
        gate.set()
        await asyncio.wait(set(consuming._unfinished), timeout=30)
        assert client.get_quota(quota.quota_id).used_amount == 0


def _gate(faulty: Faulty, ending: str) -> tuple[threading.Event, asyncio.Event]:
    """Holds answers to a path up until the first is set; the second tells that one waits."""
    loop, reached, gate = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def wait(seen: Any) -> None:
        if seen.path.endswith(ending) and not gate.is_set():
            loop.call_soon_threadsafe(reached.set)
            gate.wait(30)

    faulty.before_answering = wait
    return gate, reached


async def _cancelled_at(task: asyncio.Task[None], moment: asyncio.Event) -> None:
    await moment.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

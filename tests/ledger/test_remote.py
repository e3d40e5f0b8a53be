"""The ledger in a process of its own: asked by threads and by an event loop, killed, held up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from fiscus.batching.thread_batcher import FutureSink
from fiscus.budgets.calls import CheckAnswer
from fiscus.costs.calls import RecordAnswer
from fiscus.engine import Engine
from fiscus.errors import FiscusError, ServiceUnavailable
from fiscus.ids import uuid7
from fiscus.ledger.answers import to_answer
from fiscus.ledger.commands import Check, Outcome
from fiscus.ledger.remote import client
from fiscus.ledger.remote.client import RemoteLedger
from fiscus.ledger.remote.results import EncodedAnswer
from fiscus.runtime.breaker import BreakerState
from fiscus.runtime.processes import STEADY_SECONDS
from fiscus.settings import Settings
from fiscus.wire.decoding import decode
from fiscus.wiring.engine import open_engine
from tests.fiscus_process import has_ended
from tests.ledger.books import read_books
from tests.ledger.desk import Desk, check_request
from tests.log_lines import Told, told
from tests.valkey import wait_until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.name != "posix", reason="descriptors are handed on to a process"),
]
DEADLINE_SECONDS = 2.0
MAX_IN_FLIGHT = 4
"""Groups of one, when none is larger."""


@pytest.fixture
def anyio_backend(store_url: str) -> tuple[str, dict[str, bool]]:
    """One loop with each database: who asks knows nothing of what is stored where."""
    return "asyncio", {"use_uvloop": store_url.startswith("sqlite")}


@pytest.fixture
def open_remote(store_url: str, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    opened: list[Engine] = []

    def open_(**settings: Any) -> Engine:
        given = Settings(
            data_dir=tmp_path, database_url=store_url, sqlite_synchronous="NORMAL", **settings
        )
        opened.append(open_engine(given, ledger_apart=True))
        opened[-1].ledger.wait_until_ready()
        return opened[-1]

    yield open_
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_remote: Callable[..., Engine]) -> Engine:
    return open_remote(ledger_deadline_seconds=30)


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine, f"acme-{uuid7()}")


def pid(engine: Engine) -> int:
    assert isinstance(engine.ledger, RemoteLedger)
    return engine.ledger.pid


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """As when this process had as many open as it may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def answer(outcome: object) -> CheckAnswer:
    assert isinstance(outcome, CheckAnswer), outcome
    return outcome


async def check(desk: Desk, cost: object, key: str | None = None) -> Any:
    """The answer or the error."""
    command = desk.check_command(cost, key)
    outcome = await desk.engine.ledger.for_running_loop().execute(command)
    if isinstance(outcome, EncodedAnswer):
        return decode(outcome.answer, CheckAnswer)
    return to_answer(command, outcome)


async def until(is_so: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, is_so)


async def is_there_again(engine: Engine, ended: int) -> None:
    await until(lambda: pid(engine) != ended)
    await asyncio.to_thread(engine.ledger.wait_until_ready)


async def test_threads_and_the_event_loop_share_one_ledger(desk: Desk) -> None:
    budget = desk.budget("10")
    held = await asyncio.to_thread(desk.reserve, "4")
    assert answer(await check(desk, "6")).allowed
    assert not answer(await check(desk, "0.01")).allowed
    settled = await asyncio.to_thread(desk.settle, held, "3.5", usage={"tokens": 1})
    assert str(settled.charged) == "3.5"
    assert desk.used(budget) == ("3.5", "6")


def test_what_stops_a_server_does_not_end_a_ledger_that_begins(
    store_url: str, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, database_url=store_url)
    with contextlib.closing(open_engine(settings, ledger_apart=True)) as engine:
        began = pid(engine)
        for number in (signal.SIGINT, signal.SIGTERM):  # as a terminal and systemd send them to all
            os.kill(began, number)
        engine.ledger.wait_until_ready()
        assert pid(engine) == began


def test_rates_of_ones_own_hold_in_both_processes(open_remote: Callable[..., Engine]) -> None:
    engine = open_remote(ledger_deadline_seconds=30, exchange_rates="AED/USD=0.25")
    desk = Desk(engine, f"acme-{uuid7()}")
    budget = desk.budget("10")
    desk.reserve("4", currency="AED")
    assert desk.used(budget) == ("0", "1")
    rate = engine.rates.rate("AED", "USD", engine.clock.now().date())
    assert rate is not None
    assert str(rate.value) == "0.25"


async def test_the_group_that_was_asked_for_first_is_decided_first(desk: Desk) -> None:
    desk.budget("50")
    outcomes = await asyncio.gather(*(check(desk, "1") for _ in range(200)))
    assert [answer(one).allowed for one in outcomes] == [True] * 50 + [False] * 150


async def test_errors_of_the_ledger_are_the_same_errors(desk: Desk) -> None:
    with pytest.raises(FiscusError) as caught:
        await asyncio.to_thread(desk.release, str(uuid7()))
    assert caught.value.code == "NOT_FOUND"


async def test_a_batch_with_wrong_records_says_which(desk: Desk) -> None:
    batch = await asyncio.to_thread(
        desk.record_batch,
        [{"resource_type": "llm", "cost_amount": 1}, {"resource_type": "llm", "cost_amount": -1}],
    )
    assert (batch.recorded, batch.failed) == (1, 1)
    assert batch.results[1].error is not None
    assert batch.results[1].error.details == {"field": "cost_amount"}


async def test_a_killed_process_is_replaced_and_no_retry_is_charged_twice(
    desk: Desk, store_url: str
) -> None:
    desk.budget("1000000")
    ended = pid(desk.engine)
    keys = [f"key-{number}" for number in range(300)]

    async def caller(key: str) -> CheckAnswer:
        while True:
            try:
                outcome = await check(desk, "1", key)
            except ServiceUnavailable as error:
                outcome = error
            if isinstance(outcome, CheckAnswer):
                return outcome
            assert isinstance(outcome, ServiceUnavailable)
            await asyncio.to_thread(threading.Event().wait, 0.02)

    callers = asyncio.gather(*map(caller, keys))
    await asyncio.sleep(0)
    os.kill(ended, signal.SIGKILL)
    answers = await callers
    assert pid(desk.engine) != ended
    assert len({one.reservation_id for one in answers}) == len(keys)
    books = read_books(store_url, desk.tenant_id)
    assert len(books.reservations) == len(keys)
    assert books.faults() == []
    assert await asyncio.to_thread(desk.reserve, "1")


async def test_a_process_that_dies_idle_is_replaced_and_told_of(engine: Engine, desk: Desk) -> None:
    assert engine.ledger.trouble is None
    for _ in range(2):
        ended = pid(engine)
        os.kill(ended, signal.SIGKILL)
        await is_there_again(engine, ended)
    assert answer(await check(desk, "1")).allowed
    assert engine.ledger.trouble is None


async def test_news_of_a_broken_line_do_not_end_the_one_that_took_its_place(desk: Desk) -> None:
    await check(desk, "1")
    assert isinstance(desk.engine.ledger, RemoteLedger)
    line = desk.engine.ledger._loop_line
    assert line is not None
    broken = line._socket
    assert broken is not None
    line._end(BrokenPipeError())
    line._open()  # as when another process has begun
    line._broke(broken, BrokenPipeError())
    assert answer(await check(desk, "1")).allowed


async def test_who_asks_anew_when_a_line_ends_opens_the_only_one_that_follows(
    open_remote: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_remote(ledger_deadline_seconds=30, ledger_max_group=1)
    desk = Desk(engine, f"acme-{uuid7()}")
    await check(desk, "1")
    assert isinstance(engine.ledger, RemoteLedger)
    process, line, ended = engine.ledger._process, engine.ledger._loop_line, pid(engine)
    assert line is not None
    lines: list[Any] = []
    loop_line = process.loop_line

    def counted() -> Any:
        lines.append(loop_line())
        return lines[-1]

    monkeypatch.setattr(process, "loop_line", counted)
    os.kill(ended, signal.SIGSTOP)
    sent = [asyncio.ensure_future(check(desk, "1")) for _ in range(MAX_IN_FLIGHT)]
    waiting = [asyncio.ensure_future(check(desk, "1")) for _ in range(2)]
    await until(lambda: engine.ledger.queue_depth == len(waiting))
    os.kill(ended, signal.SIGKILL)
    wait_until(lambda: pid(engine) != ended)  # and this event loop has not seen the line's end
    line._another_began()
    assert all(isinstance(one, ServiceUnavailable) for one in await asyncio.gather(*sent))
    assert all(answer(one).allowed for one in await asyncio.gather(*waiting))
    assert len(lines) == 1


async def test_a_line_belongs_to_the_process_that_it_leads_to(
    engine: Engine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.budget("10")
    assert isinstance(engine.ledger, RemoteLedger)
    process = engine.ledger._process
    thread_line = process.thread_line

    def another_process() -> None:
        ended = pid(engine)
        os.kill(ended, signal.SIGKILL)
        wait_until(lambda: pid(engine) != ended)

    def line_of_the_next() -> Any:
        monkeypatch.undo()
        another_process()
        return thread_line()

    another_process()
    monkeypatch.setattr(process, "thread_line", line_of_the_next)
    for _ in range(2):  # what operations meet is told once on each line
        assert desk.check_batch([check_request("1")]).allowed


async def test_descriptors_that_are_short_for_a_moment_are_tried_again(
    engine: Engine, desk: Desk
) -> None:
    assert answer(await check(desk, "1")).allowed
    assert desk.check("1").allowed
    ended = pid(engine)
    os.kill(ended, signal.SIGKILL)
    wait_until(lambda: pid(engine) != ended)  # and this event loop has not heard of it
    begun = pid(engine)
    with no_descriptors_left():
        assert isinstance(await check(desk, "1"), ServiceUnavailable)
        with pytest.raises(ServiceUnavailable):
            desk.check("1")
    assert answer(await check(desk, "1")).allowed
    assert desk.check("1").allowed
    assert pid(engine) == begun


async def test_a_process_that_cannot_be_started_again_is_tried_ever_more_rarely(
    engine: Engine, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(engine.ledger, RemoteLedger)
    keeper = engine.ledger._process
    keeper._began_at -= STEADY_SECONDS  # it has lived for long
    ended, lines = pid(engine), list[Told]()

    def failures() -> list[Told]:
        lines.extend(told(caplog))
        return [one for one in lines if one.event == "ledger_process_not_started"]

    with no_descriptors_left():
        os.kill(ended, signal.SIGKILL)
        wait_until(lambda: len(failures()) >= 3)
    await is_there_again(engine, ended)
    assert desk.check("1").allowed
    waits = [
        one.fields["starts_again_in_seconds"]
        for one in lines
        if one.event == "ledger_process_ended"
    ]
    assert waits[:3] == [0, 0.2, 0.4]
    assert "Too many open files" in failures()[0].fields["reason"]


async def test_what_budgets_say_holds_while_the_process_does_not_answer(
    open_remote: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = open_remote(ledger_deadline_seconds=DEADLINE_SECONDS, ledger_max_group=1)
    open_, closed = (Desk(engine, f"{name}-{uuid7()}") for name in ("open", "closed"))
    open_.budget("10", on_store_failure="allow")
    closed.budget("10")
    for one in (open_, closed):
        assert not answer(await check(one, "1")).degraded
    os.kill(pid(engine), signal.SIGSTOP)
    try:
        # these groups are on their way, and nobody knows whether they are done
        sent = [asyncio.ensure_future(check(open_, "1")) for _ in range(MAX_IN_FLIGHT)]
        waiting = [asyncio.ensure_future(check(one, "1")) for one in (open_, closed)]
        assert all(isinstance(one, ServiceUnavailable) for one in await asyncio.gather(*sent))
        allowed, refused = await asyncio.gather(*waiting)
        assert isinstance(allowed, CheckAnswer)
        assert allowed.degraded
        assert isinstance(refused, ServiceUnavailable)
        assert "nothing was decided" in refused.message
    finally:
        os.kill(pid(engine), signal.SIGCONT)
    (entry,) = map(json.loads, (tmp_path / "degraded.jsonl").read_text().splitlines())
    assert entry["tenant_id"] == open_.tenant_id


async def test_a_budget_that_no_longer_allows_is_known_to_the_other_side(
    open_remote: Callable[..., Engine],
) -> None:
    engine = open_remote(ledger_deadline_seconds=30)
    desk = Desk(engine, f"acme-{uuid7()}")
    command: Check = desk.check_command("1")
    budget = desk.budget("10", on_store_failure="allow")
    await check(desk, "1")
    assert isinstance(engine.ledger.without_store(command), CheckAnswer)
    desk.replace(budget, "10", on_store_failure="deny")
    await check(desk, "1")
    assert isinstance(engine.ledger.without_store(command), ServiceUnavailable)


async def test_what_an_event_loop_hears_late_of_budgets_does_not_replace_what_a_thread_has_heard(
    engine: Engine, desk: Desk
) -> None:
    command: Check = desk.check_command("1")
    budget = desk.budget("10", on_store_failure="allow")
    heard = asyncio.ensure_future(check(desk, "1"))
    for _ in range(2):  # turns of the event loop until it is sent
        await asyncio.sleep(0)
    assert isinstance(engine.ledger, RemoteLedger)
    line = engine.ledger._loop_line
    assert line is not None
    assert line._socket is not None
    assert select.select([line._socket], [], [], 30)[0]  # and this event loop does not read it yet
    desk.replace(budget, "10", on_store_failure="deny")
    assert desk.check("1").allowed
    assert not heard.done()
    await heard
    assert isinstance(engine.ledger.without_store(command), ServiceUnavailable)


async def test_a_process_that_answers_late_opens_the_breaker(
    open_remote: Callable[..., Engine],
) -> None:
    engine = open_remote(ledger_deadline_seconds=0.3)
    desk = Desk(engine, f"acme-{uuid7()}")
    os.kill(pid(engine), signal.SIGSTOP)
    try:
        while engine.ledger.breaker_state is BreakerState.CLOSED:
            assert isinstance(await check(desk, "1"), ServiceUnavailable)
        assert engine.ledger.trouble is not None
    finally:
        os.kill(pid(engine), signal.SIGCONT)
    # what came too late is answered to nobody, and the next ones to whom they belong
    while isinstance(outcome := await check(desk, "2"), FiscusError):
        await asyncio.to_thread(threading.Event().wait, 0.05)
    assert answer(outcome).message


async def test_closing_does_what_waits_and_ends_the_process(
    open_remote: Callable[..., Engine], store_url: str
) -> None:
    engine = open_remote(ledger_deadline_seconds=30)
    desk = Desk(engine, f"acme-{uuid7()}")
    number = pid(engine)
    await check(desk, "1")
    os.kill(number, signal.SIGSTOP)
    waiting: list[Future[Outcome]] = [Future() for _ in range(20)]
    for future in waiting:
        engine.ledger.submit(desk.record_command("1"), FutureSink(), future)
    engine.ledger.wake()
    closing = asyncio.create_task(asyncio.to_thread(engine.ledger.close))
    await until(lambda: engine.ledger.is_closing)
    os.kill(number, signal.SIGCONT)
    await closing
    assert has_ended(number)
    assert all(isinstance(future.result(0), RecordAnswer) for future in waiting)
    assert len(read_books(store_url, desk.tenant_id).records) == 20
    with pytest.raises(ServiceUnavailable):
        await check(desk, "1")


def test_closing_does_not_wait_for_ever_for_a_process_that_hangs(
    open_remote: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_CLOSE_SECONDS", 0.2)
    engine = open_remote(ledger_deadline_seconds=30)
    number = pid(engine)
    command = Desk(engine, f"acme-{uuid7()}").record_command("1")
    os.kill(number, signal.SIGSTOP)
    outcomes: list[object] = []
    caller = threading.Thread(target=lambda: outcomes.append(engine.ledger.execute(command)))
    caller.start()
    wait_until(lambda: engine.ledger.queue_depth == 0)
    engine.ledger.close()
    assert has_ended(number)
    caller.join()
    assert isinstance(outcomes[0], ServiceUnavailable)


def test_the_process_ends_with_the_one_that_started_it(store_url: str, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
settings = Settings(data_dir=Path({str(tmp_path)!r}), database_url={store_url!r})
engine = open_engine(settings, ledger_apart=True)
engine.ledger.wait_until_ready()
print(engine.ledger.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    wait_until(lambda: has_ended(int(done.stdout)))


def test_a_process_that_cannot_begin_is_an_error_at_once(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiscus.wiring.ledger_process.__name__", "fiscus.no_such_module")
    engine = open_engine(Settings(data_dir=tmp_path, database_url=store_url), ledger_apart=True)
    try:
        with pytest.raises(ServiceUnavailable, match="ended as it began"):
            engine.ledger.wait_until_ready()
    finally:
        engine.close()


async def test_look_ups_of_definitions_are_known_to_who_asks(desk: Desk) -> None:
    lookups = desk.engine.ledger.lookups
    desk.budget("50")
    before = lookups.count, lookups.misses
    await asyncio.to_thread(desk.check, "1")
    for _ in range(2):
        await check(desk, "1")
    assert (lookups.count - before[0], lookups.misses - before[1]) == (3, 1)

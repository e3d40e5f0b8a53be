"""Groups: one bad command fails no other, a full queue says so, closing drains."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import fiscus.ledger.group
import fiscus.ledger.handling
from fiscus.batching.thread_batcher import FutureSink
from fiscus.budgets.calls import CheckAnswer, SettleRequest
from fiscus.clock import ManualClock
from fiscus.costs.calls import RecordAnswer
from fiscus.engine import Engine
from fiscus.errors import InternalError, NotFound, ServiceUnavailable
from fiscus.ledger.commands import Answer, Command, Expire, Outcome, Record
from fiscus.ledger.loop import Ledger
from fiscus.ledger.requests.budgets import settle_command
from fiscus.ledger.workspace import Workspace
from fiscus.runtime.breaker import BreakerState
from fiscus.wire.converting import convert
from tests.ledger.books import read_books
from tests.ledger.desk import NEVER, WAIT_SECONDS, Desk, Gate, open_at
from tests.log_lines import told

POISON = "poison"


@pytest.fixture
def narrow(store_url: str, tmp_path: Path, clock: ManualClock) -> Iterator[Engine]:
    """An engine whose queue takes three commands and whose callers wait a quarter of a second."""
    engine = open_at(store_url, tmp_path, clock, ledger_max_queue=3, ledger_deadline_seconds=0.25)
    yield engine
    engine.close()


class Busy:
    """A ledger whose thread is kept busy until `release`."""

    def __init__(self, ledger: Ledger) -> None:
        self._gate = Gate()
        ledger.submit(Expire(tenant_id="gate", now=NEVER), self._gate, None)
        ledger.wake()
        assert self._gate.entered.wait(WAIT_SECONDS)

    def release(self) -> None:
        self._gate.open()


def submit(ledger: Ledger, command: Command) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    ledger.submit(command, FutureSink(), future)
    ledger.wake()
    return future


def test_a_command_in_error_does_not_fail_its_neighbours(desk: Desk) -> None:
    budget = desk.budget("10")
    missing = settle_command(
        "018f0000-0000-7000-8000-000000000000",
        convert({"actual_cost": "1"}, SettleRequest),
        desk.tenant_id,
        desk.engine.clock.now(),
    )
    before, wrong, after = desk.outcomes(
        [desk.record_command("1"), missing, desk.record_command("2")]
    )
    assert isinstance(before, RecordAnswer)
    assert isinstance(wrong, NotFound)
    assert isinstance(after, RecordAnswer)
    assert desk.used(budget) == ("3", "0")


def test_a_command_that_breaks_half_way_has_changed_nothing(
    desk: Desk, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = desk.budget("10")
    handlers = fiscus.ledger.handling.HANDLERS
    apply = handlers[Record].apply

    def breaks_after_charging(workspace: Workspace, command: Record) -> Answer:
        answer = apply(workspace, command)
        if command.cost.resource_id == POISON:
            raise ZeroDivisionError
        return answer

    monkeypatch.setitem(handlers, Record, handlers[Record]._replace(apply=breaks_after_charging))
    before, wrong, after = desk.outcomes(
        [
            desk.record_command("1"),
            desk.record_command("4", "key", resource_id=POISON, operation_id="op"),
            desk.record_command("2"),
        ]
    )
    assert isinstance(wrong, InternalError)
    assert isinstance(before, RecordAnswer)
    assert isinstance(after, RecordAnswer)
    assert desk.used(budget) == ("3", "0")
    monkeypatch.undo()
    assert desk.record("5", "key", operation_id="op").cost_amount == 5
    assert read_books(store_url, desk.tenant_id).faults() == []


def test_a_value_the_store_refuses_fails_its_own_command_only(desk: Desk, store_url: str) -> None:
    budget = desk.budget("10")
    good = [desk.record_command("1"), desk.record_command("4")]
    other = desk.record_command("1")
    # no request can carry a NUL this far; PostgreSQL refuses it, SQLite does not
    operation = replace(other.cost.operation, resource_type="\x00")
    bad = replace(other, cost=replace(other.cost, operation=operation))
    first, refused, last = desk.outcomes([good[0], bad, good[1]])
    assert isinstance(first, RecordAnswer)
    assert isinstance(last, RecordAnswer)
    if store_url.startswith("sqlite"):
        assert desk.used(budget) == ("6", "0")
    else:
        assert isinstance(refused, InternalError)
        assert desk.used(budget) == ("5", "0")
    assert read_books(store_url, desk.tenant_id).faults() == []


def test_what_cannot_be_written_at_all_fails_its_own_command_only(
    desk: Desk, store_url: str
) -> None:
    budget = desk.budget("10")
    for _ in range(6):  # as often as would open the breaker
        other = desk.record_command("1")
        # no request can carry an object this far
        bad = replace(other, cost=replace(other.cost, usage={"tokens": object()}))
        refused, recorded = desk.outcomes([bad, desk.record_command("1")])
        assert isinstance(refused, InternalError)
        assert isinstance(recorded, RecordAnswer)
    assert desk.used(budget) == ("6", "0")
    assert desk.engine.ledger.breaker_state is BreakerState.CLOSED
    assert read_books(store_url, desk.tenant_id).faults() == []


def test_a_row_that_is_there_already_undoes_its_group_and_no_other(
    desk: Desk, store_url: str
) -> None:
    budget = desk.budget("10")
    held = desk.reserve("4")
    again = replace(desk.check_command("1"), reservation_id=held)
    beside = desk.record_command("2")
    refused, recorded = desk.outcomes([again, beside])
    assert isinstance(refused, ServiceUnavailable)
    assert isinstance(recorded, RecordAnswer)
    desk.settle(held, "3")
    assert desk.used(budget) == ("5", "0")
    assert read_books(store_url, desk.tenant_id).faults() == []


def test_outcomes_of_a_group_are_in_the_order_of_its_commands(desk: Desk) -> None:
    desk.budget("10")
    outcomes = desk.outcomes([desk.check_command("4") for _ in range(5)])
    assert [isinstance(one, CheckAnswer) and one.allowed for one in outcomes] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_full_queue_is_unavailable_and_says_when_to_come_back(narrow: Engine) -> None:
    desk = Desk(narrow, "full")
    busy = Busy(narrow.ledger)
    waiting = [submit(narrow.ledger, desk.record_command("1")) for _ in range(3)]
    with pytest.raises(ServiceUnavailable) as caught:
        narrow.ledger.execute(desk.record_command("1"))
    assert caught.value.retriable
    assert caught.value.retry_after_seconds == 1
    busy.release()
    assert all(isinstance(one.result(WAIT_SECONDS), RecordAnswer) for one in waiting)
    assert desk.record("1").cost_amount == 1


def test_a_caller_that_gave_up_before_its_command_began_is_not_charged(
    narrow: Engine, store_url: str
) -> None:
    desk = Desk(narrow, "gave-up")
    busy = Busy(narrow.ledger)
    outcome = narrow.ledger.execute(desk.record_command("1"))
    assert isinstance(outcome, ServiceUnavailable)
    assert outcome.retry_after_seconds == 1
    busy.release()
    assert desk.record("2").cost_amount == 2
    assert [one.cost_amount for one in read_books(store_url, "gave-up").records.values()] == [2]


def test_closing_commits_what_waits_and_takes_nothing_more(
    store_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    engine = open_at(store_url, tmp_path, clock)
    desk = Desk(engine, "closing")
    busy = Busy(engine.ledger)
    waiting = [submit(engine.ledger, desk.record_command("1")) for _ in range(600)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    busy.release()
    closing.join(WAIT_SECONDS)
    assert not closing.is_alive()
    assert all(isinstance(one.result(0), RecordAnswer) for one in waiting)
    assert len(read_books(store_url, "closing").records) == 600
    with pytest.raises(ServiceUnavailable):
        engine.ledger.execute(desk.record_command("1"))
    engine.ledger.close()


def test_outcomes_for_an_event_loop_that_was_closed_are_nobody_s(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    busy = Busy(desk.engine.ledger)

    async def ask_and_leave() -> None:
        desk.engine.ledger.for_running_loop().execute(desk.record_command("1"))
        await asyncio.sleep(0)

    asyncio.run(ask_and_leave())
    busy.release()
    assert desk.record("2").cost_amount == 2
    assert not told(caplog)


def test_a_sink_that_fails_does_not_stop_the_ledger(desk: Desk) -> None:
    class Gone:
        def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> None:
            raise RuntimeError(f"nobody takes {len(outcomes)}")

        def is_waiting(self, token: Any) -> bool:
            return token is None

    desk.engine.ledger.submit(desk.record_command("1"), Gone(), None)
    assert desk.record("2").cost_amount == 2

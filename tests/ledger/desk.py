"""One tenant's calls to an engine, made the way an edge makes them.

Amounts are given as text or integers. `Desk` answers or raises; `Desk.outcomes` runs commands as
one group of the ledger and gives what became of each.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fiscus.batching.thread_batcher import FutureSink
from fiscus.budgets.calls import (
    CheckAnswer,
    CheckBatchAnswer,
    CheckBatchRequest,
    CheckRequest,
    ReservationView,
    SettleAnswer,
    SettleRequest,
)
from fiscus.budgets.model import Budget, BudgetSpec
from fiscus.clock import Clock
from fiscus.costs.calls import (
    RecordAnswer,
    RecordBatchAnswer,
    RecordBatchRequest,
    RecordRequest,
)
from fiscus.engine import Engine
from fiscus.ledger.commands import Check, Command, Expire, Expired, Outcome, Record
from fiscus.ledger.loop import answer_or_raise
from fiscus.ledger.requests.budgets import (
    check_batch_command,
    check_command,
    extend_command,
    release_command,
    settle_command,
)
from fiscus.ledger.requests.costs import record_batch_command, record_command
from fiscus.paging import PageRequest
from fiscus.settings import Settings
from fiscus.tenants import TenantSpec
from fiscus.wire.converting import convert
from fiscus.wiring.engine import open_engine

T = TypeVar("T")

WAIT_SECONDS = 30
BY = "tester"
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def open_at(url: str, folder: Path, clock: Clock | None = None, **settings: Any) -> Engine:
    """An engine on the database at `url`, with its files in `folder`; the caller closes it."""
    given = {"ledger_deadline_seconds": 30, "sqlite_synchronous": "NORMAL", **settings}
    return open_engine(Settings(data_dir=folder, database_url=url, **given), clock=clock)


class Gate:
    """A sink that keeps the ledger's thread busy until it is opened, so that a group gathers."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> None:
        del outcomes
        self.entered.set()
        assert self._open.wait(WAIT_SECONDS)

    def is_waiting(self, token: Any) -> bool:
        del token
        return True

    def open(self) -> None:
        self._open.set()


@dataclass
class Desk:
    """The calls of `tenant_id`."""

    engine: Engine
    tenant_id: str

    # -- definitions

    def budget(self, amount: object, **fields: Any) -> Budget:
        """A budget; of the project `p`, monthly and a hard stop unless told otherwise."""
        return self.engine.budgets.create(
            self.tenant_id, _spec(amount, fields), by=BY, now=self.engine.clock.now()
        )

    def replace(self, budget: Budget, amount: object, **fields: Any) -> Budget:
        return self.engine.budgets.replace(
            self.tenant_id,
            budget.budget_id,
            _spec(amount, fields),
            expected_version=budget.version,
            by=BY,
            now=self.engine.clock.now(),
        )

    def delete(self, budget: Budget) -> None:
        self.engine.budgets.delete(
            self.tenant_id, budget.budget_id, force=True, by=BY, now=self.engine.clock.now()
        )

    def settings(self, **fields: Any) -> None:
        self.engine.tenants.put(
            self.tenant_id,
            convert(fields, TenantSpec),
            expected_version=None,
            now=self.engine.clock.now(),
        )

    # -- commands

    def check_command(self, cost: object, key: str | None = None, **fields: Any) -> Check:
        return check_command(_check(cost, fields), self.tenant_id, self.engine.clock.now(), key)

    def record_command(self, cost: object, key: str | None = None, **fields: Any) -> Record:
        return record_command(_record(cost, fields), self.tenant_id, self.engine.clock.now(), key)

    # -- calls

    def run(self, command: Command, kind: type[T]) -> T:
        """The answer to a command, which is a `kind`; an error is raised."""
        answer = answer_or_raise(self.engine.ledger.execute(command))
        assert isinstance(answer, kind)
        return answer

    def check(self, cost: object, key: str | None = None, **fields: Any) -> CheckAnswer:
        return self.run(self.check_command(cost, key, **fields), CheckAnswer)

    def reserve(self, cost: object, key: str | None = None, **fields: Any) -> str:
        """The id of a reservation that must be granted."""
        answer = self.check(cost, key, **fields)
        assert answer.allowed, answer.message
        assert answer.reservation_id is not None
        return answer.reservation_id

    def check_batch(
        self, checks: list[CheckRequest], key: str | None = None, *, all_or_nothing: bool = False
    ) -> CheckBatchAnswer:
        request = CheckBatchRequest(checks=checks, all_or_nothing=all_or_nothing)
        now = self.engine.clock.now()
        command = check_batch_command(request, self.tenant_id, now, key)
        return self.run(command, CheckBatchAnswer)

    def settle(
        self, reservation_id: str, cost: object, key: str | None = None, **fields: Any
    ) -> SettleAnswer:
        request = convert({"actual_cost": cost, **fields}, SettleRequest)
        now = self.engine.clock.now()
        command = settle_command(reservation_id, request, self.tenant_id, now, key)
        return self.run(command, SettleAnswer)

    def release(self, reservation_id: str, key: str | None = None) -> ReservationView:
        now = self.engine.clock.now()
        command = release_command(reservation_id, self.tenant_id, now, key)
        return self.run(command, ReservationView)

    def extend(self, reservation_id: str, seconds: int, key: str | None = None) -> ReservationView:
        now = self.engine.clock.now()
        command = extend_command(reservation_id, seconds, self.tenant_id, now, key)
        return self.run(command, ReservationView)

    def record(self, cost: object, key: str | None = None, **fields: Any) -> RecordAnswer:
        return self.run(self.record_command(cost, key, **fields), RecordAnswer)

    def record_batch(
        self, records: list[dict[str, Any]], key: str | None = None
    ) -> RecordBatchAnswer:
        request = RecordBatchRequest(
            records=[msgspec.Raw(msgspec.json.encode(record)) for record in records]
        )
        now = self.engine.clock.now()
        command = record_batch_command(request, self.tenant_id, now, key)
        return self.run(command, RecordBatchAnswer)

    def expire(self) -> int:
        command = Expire(tenant_id=self.tenant_id, now=self.engine.clock.now())
        return self.run(command, Expired).count

    def outcomes(self, commands: list[Command]) -> list[Outcome]:
        """What became of each of `commands`, decided as one group in this order."""
        ledger = self.engine.ledger
        gate, sink = Gate(), FutureSink()
        ledger.submit(Expire(tenant_id=f"{self.tenant_id}-gate", now=NEVER), gate, None)
        ledger.wake()
        try:
            assert gate.entered.wait(WAIT_SECONDS)
            waiting: list[Future[Outcome]] = []
            for command in commands:
                future: Future[Outcome] = Future()
                ledger.submit(command, sink, future)
                waiting.append(future)
        finally:
            gate.open()
        return [future.result(WAIT_SECONDS) for future in waiting]

    # -- what is used

    def used(self, budget: Budget, scope_id: str | None = None) -> tuple[str, str]:
        """`(spent, reserved)` of the current period, as text."""
        view = self.engine.budgets.utilization(
            self.tenant_id,
            budget.budget_id,
            PageRequest(),
            scope_id=scope_id,
            now=self.engine.clock.now(),
        )
        current = [one for one in view.periods if one.current]
        assert len(current) == 1, view.periods
        return str(current[0].spent), str(current[0].reserved)


def check_request(cost: object, **fields: Any) -> CheckRequest:
    """A check of the project `p` unless told otherwise, for batches."""
    return _check(cost, fields)


def _check(cost: object, fields: dict[str, Any]) -> CheckRequest:
    given = {"resource_type": "llm", "estimated_cost": cost, "project_id": "p", **fields}
    return convert(given, CheckRequest)


def _record(cost: object, fields: dict[str, Any]) -> RecordRequest:
    given = {"resource_type": "llm", "cost_amount": cost, "project_id": "p", **fields}
    return convert(given, RecordRequest)


def _spec(amount: object, fields: dict[str, Any]) -> BudgetSpec:
    given = {
        "budget_name": "B",
        "budget_amount": amount,
        "period_type": "monthly",
        "allocated_to_type": "project",
        "allocated_to_id": "p",
        **fields,
    }
    return convert(given, BudgetSpec)

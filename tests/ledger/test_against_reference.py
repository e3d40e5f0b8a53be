"""Generated histories: the ledger on a real store answers and keeps what the reference does.

Commands run one by one or several as one group, with the clock moving between them and definitions
changing. After each step the balances of the store must be the reference's, and the books in order.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fiscus.budgets.calls import (
    CheckAnswer,
    CheckBatchAnswer,
    CheckBatchRequest,
    CheckRequest,
    ReservationView,
    SettleAnswer,
    SettleRequest,
)
from fiscus.budgets.model import Budget
from fiscus.clock import ManualClock
from fiscus.costs.calls import RecordAnswer, RecordRequest
from fiscus.engine import Engine
from fiscus.errors import FiscusError
from fiscus.ledger.commands import Command, Expire, Outcome
from fiscus.ledger.requests.budgets import (
    check_batch_command,
    check_command,
    extend_command,
    release_command,
    settle_command,
)
from fiscus.ledger.requests.costs import record_command
from fiscus.stores.sql.database import Database
from fiscus.wire.converting import convert
from tests.ledger.books import books_in
from tests.ledger.desk import Desk, check_request, open_at
from tests.ledger.reference import Expected, Operation, RefBudget, Reference, RefReservation
from tests.profile import LONG
from tests.servers import PostgresServer, drop_database, fresh_database

# To explain a failure hypothesis traces every line, which takes longer than all the rest.
PHASES = (Phase.generate, Phase.shrink)
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
CURRENCIES = ["USD", "USD", "USD", "EUR"]
SCOPES = [("tenant", None), ("project", "p"), ("project", "*"), ("user", "u"), ("user", "*")]
DAY = timedelta(hours=24)

costs = st.sampled_from(
    ["0", "0.000000000001", "0.5", "1", "1.000000000001", "2.5", "4", "7", "30"]
)
maybe_key = st.sampled_from([None, None, None, "k1", "k2"])
ids = st.fixed_dictionaries(
    {
        "project_id": st.sampled_from(["p", "p", "q"]),
        "user_id": st.sampled_from([None, "u", "v"]),
        "resource_type": st.sampled_from(["llm", "gpu"]),
    }
)
checks = st.fixed_dictionaries(
    {
        "kind": st.just("check"),
        "ids": ids,
        "cost": costs,
        "currency": st.sampled_from(CURRENCIES),
        "reserve": st.sampled_from([True, True, True, False]),
        "ttl": st.sampled_from([1, 60, 300, 86_400]),
        "operation_id": st.sampled_from([None, None, "o1", "o2"]),
        "key": maybe_key,
    }
)
steps = st.one_of(
    checks,
    checks,
    st.fixed_dictionaries(
        {
            "kind": st.just("settle"),
            "which": st.integers(0, 50),
            "cost": costs,
            "currency": st.sampled_from([None, "USD", "EUR"]),
            "days_ago": st.sampled_from([0, 0, 0, 1, 31]),
            "key": maybe_key,
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("record"),
            "ids": ids,
            "cost": costs,
            "currency": st.sampled_from(CURRENCIES),
            "days_ago": st.sampled_from([0, 0, 1, 4]),
            "operation_id": st.sampled_from([None, "o1", "o2", "o3"]),
            "key": maybe_key,
        }
    ),
    st.fixed_dictionaries(
        {"kind": st.just("release"), "which": st.integers(0, 50), "key": maybe_key}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("extend"),
            "which": st.integers(0, 50),
            "ttl": st.sampled_from([1, 600]),
            "key": maybe_key,
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("batch"),
            "checks": st.lists(checks, min_size=1, max_size=4),
            "all_or_nothing": st.booleans(),
        }
    ),
    st.just({"kind": "expire"}),
)
budgets = st.fixed_dictionaries(
    {
        "amount": st.sampled_from(["1", "5", "8", "20"]),
        "action": st.sampled_from(
            ["hard_stop", "hard_stop", "soft_limit", "throttle", "throttle", "escalate"]
        ),
        "scope": st.sampled_from(SCOPES),
        "period": st.sampled_from(["daily", "monthly", "rolling"]),
        "currency": st.sampled_from(CURRENCIES),
        "resource_type": st.sampled_from([None, None, "llm"]),
        "shadow": st.sampled_from([False, False, False, True]),
    }
)

Apply = Callable[[], Expected | list[Expected]]


class LedgerMachine(RuleBasedStateMachine):
    engine: ClassVar[Engine]
    clock: ClassVar[ManualClock]
    database: ClassVar[Database]

    @initialize(first=st.lists(budgets, min_size=1, max_size=4))
    def begin(self, first: list[dict[str, Any]]) -> None:
        self.clock.set(NOON)
        self.desk = Desk(self.engine, f"t-{secrets.token_hex(6)}")
        self.reference = Reference(self.desk.tenant_id, self._rate)
        self.real: dict[str, Budget] = {}
        for one in first:
            self.add_budget(one)

    def _rate(self, source: str, target: str, at: datetime) -> Fraction:
        rate = self.engine.rates.rate(source, target, at.date())
        assert rate is not None
        return Fraction(rate.value)

    # -- definitions

    @rule(one=budgets)
    @precondition(lambda self: len(self.real) < 6)
    def add_budget(self, one: dict[str, Any]) -> None:
        budget = self.desk.budget(**self._fields(one))
        self.real[budget.budget_id] = budget
        kind, scope_id = one["scope"]
        self.reference.budgets[budget.budget_id] = RefBudget(
            budget.budget_id,
            Fraction(one["amount"]),
            one["action"],
            kind,
            scope_id or self.desk.tenant_id,
            one["period"],
            one["currency"],
            one["resource_type"],
            one["shadow"],
            frozen=False,
        )

    @rule(which=st.integers(0, 9), amount=st.sampled_from(["1", "3", "50"]), frozen=st.booleans())
    @precondition(lambda self: self.real)
    def change_budget(self, which: int, amount: str, frozen: bool) -> None:
        budget_id = sorted(self.real)[which % len(self.real)]
        known = self.reference.budgets[budget_id]
        known.amount, known.frozen = Fraction(amount), frozen
        fields = self._fields(
            {
                "amount": amount,
                "action": known.action,
                "scope": (known.scope_type, known.scope_id),
                "period": known.period,
                "currency": known.currency,
                "resource_type": known.resource_type,
                "shadow": known.shadow,
            }
        )
        self.real[budget_id] = self.desk.replace(self.real[budget_id], frozen=frozen, **fields)

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: len(self.real) > 2)
    def delete_budget(self, which: int) -> None:
        budget_id = sorted(self.real)[which % len(self.real)]
        self.desk.delete(self.real.pop(budget_id))
        del self.reference.budgets[budget_id]

    def _fields(self, one: dict[str, Any]) -> dict[str, Any]:
        kind, scope_id = one["scope"]
        fields: dict[str, Any] = {
            "amount": one["amount"],
            "allocated_to_type": kind,
            "allocated_to_id": scope_id or self.desk.tenant_id,
            "enforcement_action": one["action"],
            "period_type": one["period"],
            "rolling_days": 3,
            "currency": one["currency"],
            "shadow": one["shadow"],
            "throttle": {"start_ratio": "0.5", "floor": "0.2"},
        }
        if one["resource_type"] is not None:
            fields["filters"] = {"resource_types": [one["resource_type"]]}
        return fields

    # -- time

    @rule(seconds=st.sampled_from([1, 59, 300, 3_600, 43_200, 86_400, 86_400 * 3, 86_400 * 25]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    # -- commands

    @rule(one=steps)
    def one_alone(self, one: dict[str, Any]) -> None:
        self._run([one], [0])

    @rule(several=st.lists(steps, min_size=2, max_size=6), data=st.data())
    def several_as_one_group(self, several: list[dict[str, Any]], data: st.DataObject) -> None:
        pauses = data.draw(
            st.lists(st.sampled_from([0, 0, 1]), min_size=len(several), max_size=len(several))
        )
        self._run(several, pauses)

    def _run(self, several: list[dict[str, Any]], pauses: list[int]) -> None:
        commands: list[Command] = []
        applies: list[Apply] = []
        for one, pause in zip(several, pauses, strict=True):
            self.clock.advance(seconds=pause)
            made = self._command(one)
            if made is not None:
                commands.append(made[0])
                applies.append(made[1])
        for command, outcome, apply in zip(
            commands, self.desk.outcomes(commands), applies, strict=True
        ):
            _compare(command, outcome, apply())

    def _command(self, one: dict[str, Any]) -> tuple[Command, Apply] | None:
        now = self.clock.now()
        match one["kind"]:
            case "check":
                request = self._check_request(one)
                command = check_command(request, self.desk.tenant_id, now, one["key"])
                return command, lambda: self._expect_check(one, now)
            case "batch":
                return self._batch(one, now)
            case "record":
                return self._record(one, now)
            case "expire":
                command = Expire(tenant_id=self.desk.tenant_id, now=now)
                return command, lambda: self._expect_expire(now)
            case _:
                known = [one for one in self.reference.reservations if one.real_id]
                if not known:
                    return None
                return self._on_reservation(one, known[one["which"] % len(known)], now)

    def _check_request(self, one: dict[str, Any]) -> CheckRequest:
        return check_request(
            one["cost"],
            currency=one["currency"],
            reserve=one["reserve"],
            ttl_seconds=one["ttl"],
            operation_id=one["operation_id"],
            **one["ids"],
        )

    def _batch(self, one: dict[str, Any], now: datetime) -> tuple[Command, Apply]:
        command = check_batch_command(
            CheckBatchRequest(
                checks=[self._check_request(check) for check in one["checks"]],
                all_or_nothing=one["all_or_nothing"],
            ),
            self.desk.tenant_id,
            now,
        )

        def decide() -> list[Expected]:
            return [self._expect_check(check | {"key": None}, now) for check in one["checks"]]

        def look(index: int) -> Expected:
            check = one["checks"][index]
            return self._expect_check(check | {"key": None, "reserve": False}, now)

        if one["all_or_nothing"]:
            return command, lambda: self.reference.all_or_nothing(decide, look)
        return command, decide

    def _record(self, one: dict[str, Any], now: datetime) -> tuple[Command, Apply]:
        at = now - timedelta(days=one["days_ago"])
        request = convert(
            {
                "cost_amount": one["cost"],
                "currency": one["currency"],
                "operation_id": one["operation_id"],
                "timestamp": at,
                **one["ids"],
            },
            RecordRequest,
        )
        command = record_command(request, self.desk.tenant_id, now, one["key"])
        body = (one["cost"], one["currency"], one["operation_id"], at, one["ids"])

        def apply() -> Expected:
            return self.reference.once(
                "record",
                one["key"],
                body,
                now,
                DAY,
                lambda: self.reference.record(
                    self._operation(one["ids"]),
                    one["operation_id"],
                    Fraction(one["cost"]),
                    one["currency"],
                    at,
                ),
            )

        return command, apply

    def _on_reservation(
        self, one: dict[str, Any], target: RefReservation, now: datetime
    ) -> tuple[Command, Apply]:
        reservation_id, tenant_id, key = str(target.real_id), self.desk.tenant_id, one["key"]
        reference = self.reference
        if one["kind"] == "release":
            command: Command = release_command(reservation_id, tenant_id, now, key)
            body: object = reservation_id

            def act() -> Expected:
                return reference.release(target, now)

        elif one["kind"] == "extend":
            command = extend_command(reservation_id, one["ttl"], tenant_id, now, key)
            body = (reservation_id, one["ttl"])

            def act() -> Expected:
                return reference.extend(target, one["ttl"], now)

        else:
            at = now - timedelta(days=one["days_ago"])
            request = convert(
                {"actual_cost": one["cost"], "currency": one["currency"], "timestamp": at},
                SettleRequest,
            )
            command = settle_command(reservation_id, request, tenant_id, now, key)
            body = (reservation_id, one["cost"], one["currency"], at)

            def act() -> Expected:
                return reference.settle(target, Fraction(one["cost"]), one["currency"], at, now)

        return command, lambda: reference.once(one["kind"], key, body, now, DAY, act)

    def _operation(self, given: dict[str, Any]) -> Operation:
        return Operation(
            {
                "tenant": self.desk.tenant_id,
                "project": given["project_id"],
                "user": given["user_id"],
                "feature": None,
            },
            given["resource_type"],
        )

    def _expect_check(self, one: dict[str, Any], now: datetime) -> Expected:
        body = {name: value for name, value in one.items() if name != "key"}
        return self.reference.once(
            "check",
            one["key"],
            body,
            now,
            timedelta(seconds=max(300, one["ttl"])),
            lambda: self.reference.check(
                self._operation(one["ids"]),
                one["operation_id"],
                Fraction(one["cost"]),
                one["currency"],
                reserve=one["reserve"],
                ttl=one["ttl"],
                now=now,
            ),
        )

    def _expect_expire(self, now: datetime) -> Expected:
        self.reference.free_due(now)
        return Expected()

    # -- the books

    @invariant()
    def the_store_holds_what_the_reference_does(self) -> None:
        if not hasattr(self, "desk"):
            return
        books = books_in(self.database, self.desk.tenant_id)
        assert books.faults(charges=False) == []
        stored = {
            key: (Fraction(one.spent), Fraction(one.reserved), Fraction(one.throttle_credit))
            for key, one in books.balances.items()
        }
        expected = {
            key: (use.spent, use.reserved, use.credit) for key, use in self.reference.uses.items()
        }
        nothing = (Fraction(0), Fraction(0), Fraction(0))
        assert {key: use for key, use in stored.items() if use != nothing} == {
            key: use for key, use in expected.items() if use != nothing
        }
        assert len(books.records) == self.reference.record_count
        statuses = {one.real_id: one.status for one in self.reference.reservations}
        kept = {key: one.status for key, one in books.reservations.items()}
        assert kept == statuses, kept.items() ^ statuses.items()


def _compare(command: Command, outcome: Outcome, expected: Expected | list[Expected]) -> None:
    if isinstance(expected, list):
        assert isinstance(outcome, CheckBatchAnswer), outcome
        for answer, one in zip(outcome.results, expected, strict=True):
            _compare_one(command, answer, one)
    else:
        _compare_one(command, outcome, expected)


def _compare_one(command: Command, outcome: Any, expected: Expected) -> None:
    if isinstance(outcome, FiscusError):
        assert outcome.code == expected.error, (command, outcome, expected)
        return
    assert expected.error is None, (command, outcome, expected)
    first = expected.repeats
    while first is not None and first.repeats is not None:
        first = first.repeats
    if isinstance(outcome, RecordAnswer | SettleAnswer):
        if first is not None and first.real_id is not None:
            assert outcome.record_id == first.real_id, (command, outcome, expected)
        expected.real_id = outcome.record_id
        if first is None:
            assert outcome.flags == expected.flags, (command, outcome, expected)
            assert {one.budget_id: Fraction(one.charged) for one in outcome.budgets} == (
                expected.charged
            )
    if isinstance(outcome, CheckAnswer):
        _compare_check(command, outcome, expected)
    elif isinstance(outcome, SettleAnswer) and expected.status is not None:
        assert outcome.reservation_status == expected.status, (command, outcome, expected)
    elif isinstance(outcome, ReservationView) and expected.status is not None:
        assert outcome.status == expected.status, (command, outcome, expected)


def _compare_check(command: Command, outcome: CheckAnswer, expected: Expected) -> None:
    context = (command, outcome, expected)
    reservation = expected.reservation
    assert (outcome.reservation_id is None) == (reservation is None), context
    if reservation is not None:
        if expected.repeats is None:
            reservation.real_id = outcome.reservation_id
        assert outcome.reservation_id == reservation.real_id, context
        is_due = reservation.status == "pending" and reservation.expires_at <= command.now
        assert outcome.reservation_status == ("expired" if is_due else reservation.status), context
        assert outcome.expires_at == reservation.expires_at, context
    first = expected.repeats or expected
    assert outcome.allowed == first.allowed, context
    if first.decisions:
        assert {one.budget_id: one.decision for one in outcome.budgets} == first.decisions, context
        assert outcome.budget_id == first.deciding, context
    for line in outcome.budgets:
        hard = line.enforcement_action == "hard_stop" and line.decision == "allow"
        if hard and outcome.reservation_id is not None and not expected.repeats:
            assert line.spent + line.reserved <= line.amount, context
    assert outcome.max_allowed_cost is None or outcome.max_allowed_cost >= Decimal(0)


def _run(url: str, *, examples: int) -> None:
    clock = ManualClock(NOON)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_at(url, Path(folder), clock)) as engine,
        closing(Database(url)) as database,
    ):
        machine = type("Machine", (LedgerMachine,), {})
        machine.engine, machine.clock, machine.database = engine, clock, database
        run_state_machine_as_test(
            machine,
            settings=settings(max_examples=examples, stateful_step_count=25, phases=PHASES),
        )


def test_histories_on_sqlite_are_those_of_the_reference(tmp_path: Path) -> None:
    _run(f"sqlite:///{tmp_path / 'fiscus.db'}", examples=3000 if LONG else 60)


@pytest.mark.postgres
def test_histories_on_postgresql_are_those_of_the_reference(
    postgres_server: PostgresServer,
) -> None:
    url = fresh_database(postgres_server)
    try:
        _run(url, examples=300 if LONG else 8)
    finally:
        drop_database(postgres_server, url)

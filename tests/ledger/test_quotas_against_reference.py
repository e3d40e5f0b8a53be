"""Generated histories of quotas: a real store answers and keeps what the reference does.

As `test_against_reference` for budgets. After each step the balances, the lines of consumptions,
the history and the premiums' cost records must add up to the same.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
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

from fiscus.clock import ManualClock
from fiscus.engine import Engine
from fiscus.errors import Conflict, FiscusError
from fiscus.ledger.commands import Command, Outcome
from fiscus.ledger.requests.quotas import quota_check_batch_command, quota_check_command
from fiscus.quotas.calls import (
    ConsumptionView,
    QuotaCheckAnswer,
    QuotaCheckBatchAnswer,
    QuotaCheckBatchRequest,
    QuotaCheckRequest,
)
from fiscus.quotas.model import Quota
from fiscus.stores.sql.database import Database
from tests.ledger.desk import open_at
from tests.ledger.quota_books import quota_books_in
from tests.ledger.quota_desk import QuotaDesk, quota_check
from tests.ledger.quota_reference import Expected, QuotaReference, RefConsumption, RefQuota
from tests.profile import LONG
from tests.servers import PostgresServer, drop_database, fresh_database

# To explain a failure hypothesis traces every line, which takes longer than all the rest.
PHASES = (Phase.generate, Phase.shrink)
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
SCOPES = [("tenant", None), ("project", "p"), ("project", "*"), ("user", "u"), ("user", "*")]

amounts = st.sampled_from(["0", "0.000000000001", "0.5", "1", "2", "2.5", "4"])
maybe_key = st.sampled_from([None, None, None, "k1", "k2"])
checks = st.fixed_dictionaries(
    {
        "kind": st.just("check"),
        "amount": amounts,
        "consume": st.sampled_from([True, True, True, False]),
        "project_id": st.sampled_from(["p", "p", "q"]),
        "user_id": st.sampled_from([None, "u", "v"]),
        "resource_type": st.sampled_from(["llm", "llm", "gpu"]),
        "key": maybe_key,
    }
)
give_backs = st.fixed_dictionaries(
    {
        "kind": st.just("give back"),
        "which": st.integers(0, 50),
        "amount": st.one_of(st.none(), amounts),
        "key": maybe_key,
    }
)
steps = st.one_of(
    checks,
    checks,
    give_backs,
    give_backs,
    st.fixed_dictionaries(
        {"kind": st.just("batch"), "checks": st.lists(checks, min_size=1, max_size=4)}
    ),
)
quotas = st.fixed_dictionaries(
    {
        "amount": st.sampled_from(["1", "3", "8"]),
        "burst": st.sampled_from(["0", "2.5", "20"]),
        "rate": st.sampled_from([None, "0", "0.333333333333"]),
        "scope": st.sampled_from(SCOPES),
        "resource_type": st.sampled_from(["llm", "llm", "gpu"]),
        "period_type": st.sampled_from(["daily", "monthly"]),
    }
)

Apply = Callable[[], Expected | list[Expected]]


class QuotaMachine(RuleBasedStateMachine):
    """One tenant's history of quotas."""

    engine: ClassVar[Engine]
    clock: ClassVar[ManualClock]
    database: ClassVar[Database]

    @initialize(first=st.lists(quotas, min_size=2, max_size=4))
    def begin(self, first: list[dict[str, Any]]) -> None:
        self.clock.set(NOON)
        self.desk = QuotaDesk(self.engine, f"t-{secrets.token_hex(6)}")
        self.desk.budget("1000", filters={"tags": {"charge": "burst"}})
        self.reference = QuotaReference()
        self.real: dict[str, Quota] = {}
        self.fields: dict[str, dict[str, Any]] = {}
        for one in first:
            self.allocate(one)

    @rule(one=quotas)
    @precondition(lambda self: len(self.running()) < 4)
    def allocate(self, one: dict[str, Any]) -> None:
        kind, scope_id = one["scope"]
        fields = {
            "scope_type": kind,
            "scope_id": scope_id or self.desk.tenant_id,
            "resource_type": one["resource_type"],
            "max_burst_amount": one["burst"],
            "burst_premium_rate": one["rate"],
            "period_type": one["period_type"],
        }
        try:
            quota = self.desk.quota(one["amount"], **fields)
        except Conflict:  # one for this place is there
            return
        self.real[quota.quota_id] = quota
        self.fields[quota.quota_id] = fields
        self.reference.quotas[quota.quota_id] = RefQuota(
            quota.quota_id,
            kind,
            quota.scope_id,
            quota.resource_type,
            Fraction(one["amount"]),
            Fraction(one["burst"]),
            quota.period_start,
            quota.period_end,
        )

    @rule(which=st.integers(0, 9), amount=st.sampled_from(["1", "2", "20"]))
    @precondition(lambda self: self.running())
    def change(self, which: int, amount: str) -> None:
        running = self.running()
        quota_id = running[which % len(running)]
        fields = {**self.fields[quota_id], "period_start": self.real[quota_id].period_start}
        self.real[quota_id] = self.desk.replace_quota(self.real[quota_id], amount, **fields)
        self.reference.quotas[quota_id].amount = Fraction(amount)

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: len(self.running()) > 2)
    def delete(self, which: int) -> None:
        running = self.running()
        quota_id = running[which % len(running)]
        self.desk.delete_quota(self.real.pop(quota_id))
        self.reference.deleted.append(self.reference.quotas.pop(quota_id))

    def running(self) -> list[str]:
        now = self.clock.now()
        return sorted(key for key, one in self.real.items() if one.period_end > now)

    @rule(seconds=st.sampled_from([1, 60, 3_600, 43_200, 86_400 * 25]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(one=steps)
    def one_alone(self, one: dict[str, Any]) -> None:
        self._run([one])

    @rule(several=st.lists(steps, min_size=2, max_size=8))
    def several_as_one_group(self, several: list[dict[str, Any]]) -> None:
        self._run(several)

    def _run(self, several: list[dict[str, Any]]) -> None:
        made = [command for one in several if (command := self._command(one)) is not None]
        outcomes = self.desk.outcomes([command for command, _ in made])
        for (command, apply), outcome in zip(made, outcomes, strict=True):
            expected = apply()
            if isinstance(expected, list):
                if isinstance(outcome, FiscusError):  # an item used a key for another body
                    assert outcome.code in [one.error for one in expected]
                    continue
                assert isinstance(outcome, QuotaCheckBatchAnswer)
                for answer, one in zip(outcome.results, expected, strict=True):
                    _compare(command, answer, one)
            else:
                _compare(command, outcome, expected)

    def _command(self, one: dict[str, Any]) -> tuple[Command, Apply] | None:
        now, tenant_id = self.clock.now(), self.desk.tenant_id
        if one["kind"] == "check":
            command = quota_check_command(_request(one), tenant_id, now, one["key"])
            return command, lambda: self._expect(one, now)
        if one["kind"] == "batch":
            checks = [check | {"key": None} for check in one["checks"]]
            batch = QuotaCheckBatchRequest(checks=[_request(check) for check in checks])
            command = quota_check_batch_command(batch, tenant_id, now)
            return command, lambda: [self._expect(check, now) for check in checks]
        known = [one for one in self.reference.consumptions if one.real_id is not None]
        if not known:
            return None
        consumption = known[one["which"] % len(known)]
        amount = one["amount"]
        command = self.desk.give_back_command(consumption.real_id, amount, one["key"])
        body = (consumption.real_id, amount)

        def act() -> Expected:
            wanted = None if amount is None else Fraction(amount)
            return self.reference.give_back(consumption, wanted)

        return command, lambda: self.reference.once("release", one["key"], body, now, act)

    def _expect(self, one: dict[str, Any], now: datetime) -> Expected:
        body = {name: value for name, value in one.items() if name != "key"}
        given = {
            "tenant": self.desk.tenant_id,
            "project": one["project_id"],
            "user": one["user_id"],
        }
        return self.reference.once(
            "check",
            one["key"],
            body,
            now,
            lambda: self.reference.consume(
                given, one["resource_type"], Fraction(one["amount"]), take=one["consume"], now=now
            ),
        )

    @invariant()
    def the_store_holds_what_the_reference_does(self) -> None:
        if not hasattr(self, "desk"):
            return
        books = quota_books_in(self.database, self.desk.tenant_id)
        assert books.faults() == []
        stored = {
            key: (Fraction(one.used), Fraction(one.burst_used))
            for key, one in books.balances.items()
        }
        expected = {
            (quota.quota_id, scope_id): use
            for quota in (*self.reference.quotas.values(), *self.reference.deleted)
            for scope_id, use in quota.used.items()
        }
        assert {key: use for key, use in stored.items() if any(use)} == {
            key: use for key, use in expected.items() if any(use)
        }
        assert len(books.consumptions) == len(self.reference.consumptions)


def _request(one: dict[str, Any]) -> QuotaCheckRequest:
    return quota_check(
        one["amount"],
        **{name: one[name] for name in ("consume", "project_id", "user_id", "resource_type")},
    )


def _compare(command: Command, outcome: Outcome, expected: Expected) -> None:
    context = (command, outcome, expected)
    if isinstance(outcome, FiscusError):
        assert outcome.code == expected.error, context
        return
    assert expected.error is None, context
    first = expected.repeats or expected
    if isinstance(outcome, ConsumptionView):
        assert Fraction(outcome.amount) - Fraction(outcome.released_amount) == first.left, context
        return
    assert isinstance(outcome, QuotaCheckAnswer)
    assert (outcome.allowed, outcome.quota_id) == (first.allowed, first.deciding), context
    rooms = {line.quota_id: Fraction(line.remaining_amount) for line in outcome.quotas}
    assert (outcome.matched, rooms) == (len(first.rooms), first.rooms), context
    if rooms:
        assert outcome.max_allowed_amount == max(0, min(rooms.values())), context
    bursts = {line.quota_id: Fraction(line.from_burst) for line in outcome.quotas}
    assert bursts == {**dict.fromkeys(rooms, 0), **first.from_burst}, context
    _compare_consumption(context, outcome.consumption_id, first.consumption)


def _compare_consumption(
    context: object, real_id: str | None, consumption: RefConsumption | None
) -> None:
    if consumption is not None and consumption.real_id is None:
        consumption.real_id = real_id
    assert real_id == (consumption.real_id if consumption else None), context


def _run(url: str, *, examples: int) -> None:
    clock = ManualClock(NOON)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_at(url, Path(folder), clock)) as engine,
        closing(Database(url)) as database,
    ):
        machine = type("Machine", (QuotaMachine,), {})
        machine.engine, machine.clock, machine.database = engine, clock, database
        run_state_machine_as_test(
            machine,
            settings=settings(max_examples=examples, stateful_step_count=20, phases=PHASES),
        )


def test_histories_on_sqlite_are_those_of_the_reference(tmp_path: Path) -> None:
    _run(f"sqlite:///{tmp_path / 'fiscus.db'}", examples=2000 if LONG else 20)


@pytest.mark.postgres
def test_histories_on_postgresql_are_those_of_the_reference(
    postgres_server: PostgresServer,
) -> None:
    url = fresh_database(postgres_server)
    try:
        _run(url, examples=200 if LONG else 4)
    finally:
        drop_database(postgres_server, url)

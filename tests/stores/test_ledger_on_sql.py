"""The ledger end to end on both databases: what was decided is what the stores then say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import reduce

import pytest
import sqlalchemy as sa

from fiscus.budgets.calls import CheckAnswer, CheckRequest, PeriodUse
from fiscus.budgets.model import Budget, ReservationStatus
from fiscus.budgets.port import ReservationFilter
from fiscus.clock import ManualClock
from fiscus.costs.port import CostFilter
from fiscus.engine import Engine
from fiscus.errors import Conflict, IdempotencyConflict, NotFound
from fiscus.ledger.commands import CheckBatch, Expire
from fiscus.ledger.definitions import DefinitionCache
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.port import Changes, LedgerTransaction, Needs
from fiscus.ledger.requests.budgets import check_command, extend_command, release_command
from fiscus.money import add
from fiscus.paging import PageRequest
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.ledger.store import SqlLedgerStore
from fiscus.stores.sql.sqlite.driver import SqliteDriver
from fiscus.tenants import TenantSpec
from fiscus.wire.converting import convert
from fiscus.wiring.ledger_process import open_rates
from tests.ledger.books import read_books
from tests.stores.conftest import Tenant


def periods(acme: Tenant, budget: Budget, scope_id: str | None = None) -> list[PeriodUse]:
    return acme.engine.budgets.utilization(
        acme.tenant_id, budget.budget_id, PageRequest(), scope_id=scope_id, now=acme.now
    ).periods


def use(acme: Tenant, budget: Budget, scope_id: str | None = None) -> tuple[str, str]:
    """(spent, reserved) of the newest period."""
    first = periods(acme, budget, scope_id)[0]
    return str(first.spent), str(first.reserved)


def hold(acme: Tenant, cost: str, **fields: object) -> str:
    answer = acme.check(cost, **fields)  # type: ignore[arg-type]
    assert answer.reservation_id is not None
    return answer.reservation_id


def test_a_reservation_holds_and_settling_charges(acme: Tenant) -> None:
    budget = acme.budget()
    reservation_id = hold(acme, "30.000000000001", project_id="p", tags={"team": "a"})
    assert use(acme, budget) == ("0", "30.000000000001")
    settled = acme.settle(reservation_id, "12.5")
    assert use(acme, budget) == ("12.5", "0")
    view = acme.engine.reservations.get(acme.tenant_id, reservation_id, acme.now)
    assert (view.status, view.actual_cost) == (ReservationStatus.SETTLED, Decimal("12.5"))
    assert (view.project_id, view.tags) == ("p", {"team": "a"})
    assert [(line.budget_id, str(line.amount)) for line in view.budgets] == [
        (budget.budget_id, "30.000000000001")
    ]
    record = acme.engine.costs.get(acme.tenant_id, settled.record_id)
    assert (record.cost_amount, record.project_id) == (Decimal("12.5"), "p")
    assert record.reservation_id == reservation_id


def test_settling_again_answers_the_same_and_another_amount_is_a_conflict(acme: Tenant) -> None:
    budget = acme.budget()
    reservation_id = hold(acme, "1")
    first = acme.settle(reservation_id, "1")
    assert acme.settle(reservation_id, "1") == first
    with pytest.raises(Conflict):
        acme.settle(reservation_id, "2")
    assert use(acme, budget) == ("1", "0")


def test_a_released_reservation_holds_nothing(acme: Tenant) -> None:
    budget = acme.budget()
    reservation_id = hold(acme, "30")
    view = acme.run(release_command(reservation_id, acme.tenant_id, acme.now))
    assert use(acme, budget) == ("0", "0")
    assert acme.engine.reservations.get(acme.tenant_id, reservation_id, acme.now) == view


def test_a_denied_reservation_leaves_every_budget_unchanged(acme: Tenant) -> None:
    wide = acme.budget(budget_amount="1000")
    narrow = acme.budget(budget_amount="10", allocated_to_type="project", allocated_to_id="p")
    answer = acme.check("11", project_id="p")
    assert (answer.allowed, answer.budget_id) == (False, narrow.budget_id)
    assert [use(acme, budget) for budget in (wide, narrow)] == [("0", "0"), ("0", "0")]
    page = acme.engine.reservations.list(
        acme.tenant_id, ReservationFilter(), PageRequest(), acme.now
    )
    assert page.items == []


def test_a_due_hold_is_freed_before_anything_is_denied(acme: Tenant, clock: ManualClock) -> None:
    budget = acme.budget(budget_amount="10")
    first = hold(acme, "10", ttl_seconds=60)
    assert not acme.check("10").allowed
    clock.advance(seconds=60)
    assert acme.check("10").allowed
    assert use(acme, budget) == ("0", "10")
    view = acme.engine.reservations.get(acme.tenant_id, first, acme.now)
    assert view.status is ReservationStatus.EXPIRED


def test_of_very_many_due_holds_no_group_frees_more_than_2000(
    acme: Tenant, clock: ManualClock, database_url: str
) -> None:
    """PostgreSQL ends a session that decides for too long, and all that the group did is lost."""
    acme.budget(budget_amount="2500")
    for _ in range(5):
        held = [acme.check_command("1", ttl_seconds=60) for _ in range(500)]
        batch = CheckBatch(
            tenant_id=acme.tenant_id, checks=held, all_or_nothing=False, now=acme.now
        )
        assert acme.run(batch).allowed
    clock.advance(seconds=60)
    freed: list[int] = []
    with closing(Database(database_url)) as database:
        store = database.ledger_store()
        begin = store.begin

        def begin_watched(tenants: Collection[str], *, patient: bool = True) -> LedgerTransaction:
            transaction = begin(tenants, patient=patient)
            write = transaction.write

            def write_watched(changes: Changes) -> None:
                freed.append(len(changes.changed_reservations))
                write(changes)

            transaction.write = write_watched  # type: ignore[method-assign]
            return transaction

        store.begin = begin_watched  # type: ignore[method-assign]
        with closing(store):
            runner = GroupRunner(store, open_rates(None, None), DefinitionCache())
            (outcome,) = runner.run([acme.check_command("2500")])
    assert isinstance(outcome, CheckAnswer)
    assert outcome.allowed
    assert freed == [2000, 500]


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_group_waits_for_its_first_tenant_before_it_has_any_other(database: Database) -> None:
    """Two groups that each had what a change waits for would wait for each other's changes."""
    tenants = [f"order-{number}" for number in range(20)]
    locks = sa.text(
        "SELECT count(*) FILTER (WHERE NOT granted), count(*) FILTER (WHERE mode = 'ShareLock') "
        "FROM pg_locks JOIN pg_database d ON d.oid = database "
        "WHERE locktype = 'advisory' AND datname = current_database()"
    )
    with (
        closing(database.ledger_store(deadline_seconds=20)) as store,
        database.engine.connect() as change,
        ThreadPoolExecutor(1) as pool,
    ):
        database.without_groups(change, tenants[0])
        group = store.begin(tenants)
        loading = pool.submit(group.load, Needs(tenants=set(tenants)))
        while (found := change.execute(locks).one())[0] == 0:
            assert not loading.done()
        change.rollback()
        assert loading.result().versions == dict.fromkeys(tenants, 0)
        group.rollback()
    assert tuple(found) == (1, 1)


def test_a_hold_that_is_due_is_shown_as_over_before_it_is_freed(
    acme: Tenant, clock: ManualClock
) -> None:
    acme.budget()
    due = hold(acme, "10", ttl_seconds=60)
    kept = hold(acme, "5", ttl_seconds=61)
    clock.advance(seconds=60)

    def ids(status: ReservationStatus) -> list[str]:
        wanted = ReservationFilter(status=status)
        page = acme.engine.reservations.list(acme.tenant_id, wanted, PageRequest(), acme.now)
        assert all(view.status is status for view in page.items)
        return [view.reservation_id for view in page.items]

    assert ids(ReservationStatus.PENDING) == [kept]
    assert ids(ReservationStatus.EXPIRED) == [due]
    view = acme.engine.reservations.get(acme.tenant_id, due, acme.now)
    assert view.status is ReservationStatus.EXPIRED
    acme.run(Expire(tenant_id=acme.tenant_id, now=acme.now))
    assert ids(ReservationStatus.EXPIRED) == [due]


def test_the_worker_finds_and_expires_what_is_due(acme: Tenant, clock: ManualClock) -> None:
    budget = acme.budget()
    hold(acme, "10", ttl_seconds=60)
    kept = hold(acme, "5", ttl_seconds=60)
    acme.run(extend_command(kept, 600, acme.tenant_id, acme.now))
    assert acme.tenant_id not in acme.engine.reservations.tenants_with_due(acme.now)
    clock.advance(seconds=60)
    assert acme.tenant_id in acme.engine.reservations.tenants_with_due(acme.now)
    assert acme.run(Expire(tenant_id=acme.tenant_id, now=acme.now)).count == 1
    assert use(acme, budget) == ("0", "5")
    assert acme.tenant_id not in acme.engine.reservations.tenants_with_due(acme.now)


def test_settled_after_expiry_is_recorded_once_and_late(acme: Tenant, clock: ManualClock) -> None:
    budget = acme.budget()
    reservation_id = hold(acme, "10", ttl_seconds=60)
    clock.advance(seconds=61)
    assert acme.settle(reservation_id, "11").flags == ["late", "excess"]
    assert use(acme, budget) == ("11", "0")
    view = acme.engine.reservations.get(acme.tenant_id, reservation_id, acme.now)
    assert view.status is ReservationStatus.EXPIRED


def test_a_recorded_cost_charges_the_period_of_its_own_time(acme: Tenant) -> None:
    budget = acme.budget()
    acme.record("3", timestamp=datetime(2026, 1, 31, 23, tzinfo=UTC))
    acme.record("4")
    shown = [(one.period_start.month, str(one.spent)) for one in periods(acme, budget)]
    assert shown == [(3, "4"), (1, "3")]


def test_the_current_period_is_shown_before_it_is_used(acme: Tenant, clock: ManualClock) -> None:
    budget = acme.budget()
    acme.record("3")
    clock.advance(days=31)
    now, before = periods(acme, budget)
    assert (now.current, now.spent, now.remaining) == (True, Decimal(0), Decimal(100))
    assert (before.current, before.spent) == (False, Decimal(3))
    assert now.period_start == before.period_end


def test_a_period_without_end_says_so(acme: Tenant) -> None:
    budget = acme.budget(period_type="project")
    acme.record("3")
    assert [(one.period_end, one.current) for one in periods(acme, budget)] == [(None, True)]


def test_a_repeated_check_with_its_key_holds_once(acme: Tenant) -> None:
    budget = acme.budget()
    first = acme.check("10", key="k")
    again = acme.check("10", key="k")
    assert again.reservation_id == first.reservation_id
    assert use(acme, budget) == ("0", "10")
    with pytest.raises(IdempotencyConflict):
        acme.check("11", key="k")
    assert first.reservation_id is not None
    acme.settle(first.reservation_id, "9")
    assert acme.check("10", key="k").reservation_status is ReservationStatus.SETTLED


def test_a_key_may_be_used_anew_after_its_window(acme: Tenant, clock: ManualClock) -> None:
    acme.budget()
    first = acme.check("10", key="k")
    clock.advance(minutes=5)
    second = acme.check("11", key="k")
    assert second.reservation_id != first.reservation_id


def test_a_repeated_operation_is_the_same_record(acme: Tenant) -> None:
    budget = acme.budget()
    first = acme.record("3", operation_id="op")
    assert acme.record("3", operation_id="op").record_id == first.record_id
    with pytest.raises(Conflict):
        acme.record("4", operation_id="op")
    assert use(acme, budget) == ("3", "0")


def test_a_template_gives_every_user_a_budget_of_their_own(acme: Tenant) -> None:
    budget = acme.budget(budget_amount="10", allocated_to_type="user", allocated_to_id="*")
    assert acme.check("10", user_id="ann").allowed
    assert not acme.check("1", user_id="ann").allowed
    assert acme.check("10", user_id="bob").allowed
    assert acme.check("10").budget_id is None
    assert use(acme, budget, "ann") == ("0", "10")
    assert use(acme, budget, "eve") == ("0", "0")
    assert {one.scope_id for one in periods(acme, budget)} == {"ann", "bob"}


def test_a_scope_that_a_budget_is_not_for_has_no_periods(acme: Tenant) -> None:
    budget = acme.budget()
    assert periods(acme, budget, "somebody") == []


def test_rolling_windows_count_from_the_local_day_of_the_first_charge(
    acme: Tenant, clock: ManualClock, open_on: Callable[..., Engine], database_url: str
) -> None:
    budget = acme.budget(
        period_type="rolling",
        rolling_days=7,
        timezone="Asia/Tokyo",
        allocated_to_type="user",
        allocated_to_id="*",
    )
    clock.set(datetime(2026, 3, 10, 20, tzinfo=UTC))  # 11 March in Tokyo
    acme.record("1", user_id="ann")
    clock.advance(days=10)
    other = Tenant(open_on(database_url), acme.tenant_id)
    for one in (other, acme):
        one.record("1", user_id="ann")
    newest, first = periods(acme, budget, "ann")
    tokyo = timedelta(hours=9)
    assert (first.period_start + tokyo).date() == date(2026, 3, 11)
    assert (newest.period_start + tokyo).date() == date(2026, 3, 18)
    assert (first.spent, newest.spent) == (Decimal(1), Decimal(2))


def test_another_tenants_reservation_is_not_found(acme: Tenant) -> None:
    reservation_id = hold(acme, "1")
    stranger = Tenant(acme.engine, f"{acme.tenant_id}-not")
    with pytest.raises(NotFound):
        stranger.settle(reservation_id, "1")
    with pytest.raises(NotFound):
        stranger.engine.reservations.get(stranger.tenant_id, reservation_id, stranger.now)


@pytest.mark.parametrize("name", ["x", "A" * 36, "01900000-0000-7000-8000-00000000000Z"])
def test_an_id_that_is_no_reservations_is_not_found(acme: Tenant, name: str) -> None:
    with pytest.raises(NotFound):
        acme.engine.reservations.get(acme.tenant_id, name, acme.now)
    with pytest.raises(NotFound):
        acme.settle(name, "1")


def test_reservations_are_listed_by_what_is_asked_for(acme: Tenant) -> None:
    budget = acme.budget(allocated_to_type="project", allocated_to_id="p")
    held = hold(acme, "1", project_id="p", operation_id="op")
    free = hold(acme, "1", user_id="u", feature_id="f")
    acme.run(release_command(free, acme.tenant_id, acme.now))

    def ids(**wanted: object) -> list[str]:
        page = acme.engine.reservations.list(
            acme.tenant_id,
            ReservationFilter(**wanted),  # type: ignore[arg-type]
            PageRequest(),
            acme.now,
        )
        return [view.reservation_id for view in page.items]

    assert ids() == [free, held]
    assert ids(status=ReservationStatus.PENDING) == [held]
    assert ids(status=ReservationStatus.RELEASED) == [free]
    assert ids(budget_id=budget.budget_id) == [held]
    assert ids(budget_id="x") == []
    assert (ids(project_id="p"), ids(operation_id="op")) == ([held], [held])
    assert (ids(user_id="u"), ids(feature_id="f")) == ([free], [free])
    assert ids(user_id="nobody") == []


def test_a_scope_named_as_a_budget_is_not_taken_for_it(acme: Tenant) -> None:
    named = acme.budget(allocated_to_type="project", allocated_to_id="p")
    users = acme.budget(allocated_to_type="user", allocated_to_id="*")
    held = hold(acme, "1", user_id=named.budget_id)

    def held_of(budget: Budget) -> list[str]:
        wanted = ReservationFilter(budget_id=budget.budget_id)
        page = acme.engine.reservations.list(acme.tenant_id, wanted, PageRequest(), acme.now)
        return [view.reservation_id for view in page.items]

    assert (held_of(users), held_of(named)) == ([held], [])


def test_tenant_settings_bind_from_the_next_group_on(acme: Tenant) -> None:
    assert acme.check("1").allowed
    acme.engine.tenants.put(
        acme.tenant_id, TenantSpec(require_budget=True), expected_version=None, now=acme.now
    )
    assert not acme.check("1").allowed


def test_two_processes_never_admit_past_one_hard_budget(
    acme: Tenant, open_on: Callable[..., Engine], database_url: str
) -> None:
    """As 8 threads on two ledgers: 100 fits ten times ten, and no more, and no less."""
    budget = acme.budget()
    other = Tenant(open_on(database_url), acme.tenant_id)
    allowed: list[bool] = []

    def work(one: Tenant) -> None:
        allowed.extend(one.check("10").allowed for _ in range(5))

    threads = [threading.Thread(target=work, args=(one,)) for one in (acme, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(allowed) == 40
    assert sum(allowed) == 10
    assert use(acme, budget) == ("0", "100")


def test_spent_is_the_sum_of_the_records_to_the_last_digit(acme: Tenant) -> None:
    budget = acme.budget(budget_amount="1000000")
    amounts = [Decimal(number) / 7 for number in range(1, 60)]
    for amount in amounts:
        acme.record(str(amount.quantize(Decimal("1e-12"))))
    page = acme.engine.costs.list(acme.tenant_id, CostFilter(), PageRequest(page_size=1000))
    recorded = [one.cost_amount for one in page.items]
    assert reduce(add, recorded) == periods(acme, budget)[0].spent
    assert len(recorded) == len(amounts)


def test_two_ledgers_in_turns_see_what_the_other_stored(
    acme: Tenant, open_on: Callable[..., Engine], database_url: str
) -> None:
    budget = acme.budget(budget_amount="100")
    other = Tenant(open_on(database_url), acme.tenant_id)
    for _ in range(3):
        for one in (acme, other, other):
            one.record("3.1")
            hold(one, "1", project_id="p")
    assert use(acme, budget) == ("27.9", "9")
    assert not acme.check("63.2").allowed
    assert other.check("63.1").allowed
    assert read_books(database_url, acme.tenant_id).faults() == []


def test_a_change_of_definitions_binds_the_next_check(acme: Tenant) -> None:
    acme.budget(budget_amount="100")
    assert acme.check("8").allowed
    acme.budget(budget_amount="1", allocated_to_type="project", allocated_to_id="p")
    assert acme.check("2", project_id="q").allowed
    assert not acme.check("2", project_id="p").allowed


def version_for(store: SqlLedgerStore, tenant_id: str) -> int:
    """That of the tenant's definitions, as a group of the store would find it."""
    group = store.begin({tenant_id})
    found = group.load(Needs(tenants={tenant_id}))
    group.rollback()
    return found.versions[tenant_id]


def test_versions_of_definitions_are_those_of_now_whoever_changed_them(
    acme: Tenant, database: Database
) -> None:
    with closing(database.ledger_store()) as store:
        assert version_for(store, "nobody") == 0
        before = version_for(store, acme.tenant_id)
        for number in (1, 2):
            acme.budget()
            assert version_for(store, acme.tenant_id) == before + number
            assert version_for(store, acme.tenant_id) == before + number
        store.close()  # as after a failure; the next group opens it anew
        acme.budget()
        assert version_for(store, acme.tenant_id) == before + 3


def test_sqlite_is_asked_for_versions_again_only_when_another_has_written(
    acme: Tenant, database: Database
) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL does not tell who has written")
    asked: list[str] = []
    with closing(database.ledger_store()) as store:
        version_for(store, acme.tenant_id)
        driver = store._driver
        assert isinstance(driver, SqliteDriver)
        assert driver._connection is not None
        driver._connection.set_trace_callback(asked.append)

        def reads_versions(tenant_id: str) -> bool:
            asked.clear()
            version_for(store, tenant_id)
            return any("definitions_version" in one for one in asked)

        assert not reads_versions(acme.tenant_id)
        assert reads_versions("somebody new")
        acme.check("1")
        assert reads_versions(acme.tenant_id)
        assert not reads_versions(acme.tenant_id)


def test_budgets_deleted_before_a_tenant_is_known_are_not_read(
    acme: Tenant, database: Database
) -> None:
    deleted, kept = acme.budget(), acme.budget()
    acme.engine.budgets.delete(
        acme.tenant_id, deleted.budget_id, force=True, by="tester", now=acme.now
    )
    with closing(database.ledger_store()) as store:
        group = store.begin([acme.tenant_id])
        unknown, known = (group.definitions(acme.tenant_id, after, acme.now) for after in (0, 1))
        group.rollback()
    assert ([one.budget_id for one in unknown.budgets], unknown.deleted) == ([kept.budget_id], [])
    assert known.deleted == [deleted.budget_id]


def test_rows_with_and_without_optional_values_are_stored_together(acme: Tenant) -> None:
    acme.budget()
    plain, full = (
        check_command(convert(fields, CheckRequest), acme.tenant_id, acme.now)
        for fields in (
            {"resource_type": "llm", "estimated_cost": "1"},
            {
                "resource_type": "llm",
                "estimated_cost": "1",
                "feature_id": "f",
                "service_name": "s",
                "tags": {"a": "b"},
                "operation_id": "op",
            },
        )
    )
    answer = acme.run(
        CheckBatch(
            tenant_id=acme.tenant_id, checks=[plain, full], all_or_nothing=False, now=acme.now
        )
    )
    first, second = (
        acme.engine.reservations.get(acme.tenant_id, one.reservation_id, acme.now)
        for one in answer.results
    )
    assert (first.feature_id, first.service_name, first.tags, first.operation_id) == (
        None,
        None,
        {},
        None,
    )
    assert (second.feature_id, second.service_name, second.tags, second.operation_id) == (
        "f",
        "s",
        {"a": "b"},
        "op",
    )

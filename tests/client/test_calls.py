"""Every call means the same in process and against a server."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING

import pytest

from fiscus import Client, Conflict, Fiscus, IdempotencyConflict, NotFound, ValidationError
from fiscus.budgets.calls import BudgetView, CheckAnswer, SettleAnswer, Utilization
from fiscus.budgets.model import Budget, EnforcementAction, Filters, ReservationStatus
from fiscus.costs.calls import RecordAnswer
from fiscus.costs.model import CostFlag, CostRecord
from fiscus.costs.report_model import Report
from fiscus.ids import uuid7
from tests.client.apis import BUDGET, OPERATION

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.apis import Bench, RunningServer

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


async def test_a_check_reserves_and_a_settle_charges_exactly(bench: Bench) -> None:
    budget = await bench.budget()
    answer = await bench.api.check(**OPERATION, user="u-17", estimate="0.02")
    assert type(answer) is CheckAnswer
    assert answer.allowed
    assert answer.budget_id == budget.budget_id
    assert await bench.use(budget) == (0, Decimal("0.02"))
    settled = await bench.api.settle(
        answer.reservation_id, Decimal("0.018700000001"), usage={"output_tokens": 164}
    )
    assert type(settled) is SettleAnswer
    assert settled.charged == Decimal("0.018700000001")
    assert await bench.use(budget) == (Decimal("0.018700000001"), 0)
    record = (await bench.api.records()).items[0]
    assert type(record) is CostRecord
    assert (record.user_id, record.usage) == ("u-17", {"output_tokens": 164})


async def test_settling_again_with_another_amount_is_a_conflict(bench: Bench) -> None:
    answer = await bench.api.check(**OPERATION, estimate=1)
    first = await bench.api.settle(answer.reservation_id, 1)
    again = await bench.api.settle(answer.reservation_id, "1.00")
    assert again.record_id == first.record_id
    with pytest.raises(Conflict):
        await bench.api.settle(answer.reservation_id, 2)


@pytest.mark.parametrize("key", ["", "caf\xe9", "\u043a\u043b\u044e\u0447", " a", "a\n"])
async def test_an_idempotency_key_that_no_header_can_carry_is_refused(
    bench: Bench, key: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        await bench.api.record(resource_type="llm", cost_amount=1, idempotency_key=key)
    assert caught.value.field == "idempotency_key"
    with pytest.raises(ValidationError) as caught:
        await bench.api.check_batch([{**OPERATION, "estimate": 1}], idempotency_key=key)
    assert caught.value.field == "idempotency_key"


async def test_a_denied_check_is_an_answer_that_explains_itself(bench: Bench) -> None:
    await bench.budget(budget_amount="0.5")
    answer = await bench.api.check(**OPERATION, estimate=1)
    assert not answer.allowed
    assert answer.max_allowed_cost == Decimal("0.5")
    assert answer.reservation_id is None


async def test_looking_holds_nothing(bench: Bench) -> None:
    budget = await bench.budget()
    answer = await bench.api.check(**OPERATION, estimate=1, reserve=False)
    assert answer.allowed
    assert await bench.use(budget) == (0, 0)


async def test_a_released_reservation_gives_its_money_back(bench: Bench) -> None:
    budget = await bench.budget()
    answer = await bench.api.check(**OPERATION, estimate=1)
    view = await bench.api.release(answer.reservation_id)
    assert view.status is ReservationStatus.RELEASED
    assert await bench.use(budget) == (0, 0)


async def test_an_extended_reservation_expires_later(bench: Bench) -> None:
    answer = await bench.api.check(**OPERATION, estimate=1, ttl_seconds=10)
    view = await bench.api.extend(answer.reservation_id, ttl_seconds=600)
    assert (view.expires_at - bench.clock.now()).total_seconds() == 600


async def test_checks_of_a_batch_are_decided_in_order(bench: Bench) -> None:
    budget = await bench.budget()
    checks = [{**OPERATION, "estimate": "0.6"}, {**OPERATION, "estimate": "0.6"}]
    answer = await bench.api.check_batch(checks)
    assert [one.allowed for one in answer.results] == [True, False]
    assert await bench.use(budget) == (0, Decimal("0.6"))
    together = await bench.api.check_batch(checks, all_or_nothing=True)
    assert not together.allowed
    assert await bench.use(budget) == (0, Decimal("0.6"))


async def test_a_cost_is_recorded_and_charged(bench: Bench) -> None:
    budget = await bench.budget()
    answer = await bench.api.record(
        **OPERATION,
        cost_amount=2,
        usage_quantity="12.5",
        usage_unit="seconds",
        tags={"team": "a"},
        timestamp=datetime(2026, 3, 9, tzinfo=UTC),
    )
    assert type(answer) is RecordAnswer
    assert answer.flags == [CostFlag.UNRESERVED]
    assert await bench.use(budget) == (2, 0)
    [record] = (await bench.api.records(tags={"team": "a"}, project="search")).items
    assert (record.usage_quantity, record.usage_unit) == (Decimal("12.5"), "seconds")
    assert not (await bench.api.records(tags={"team": "b"})).items
    assert not (await bench.api.records(start=datetime(2026, 3, 10, tzinfo=UTC))).items


async def test_a_moment_keeps_the_seconds_of_its_offset(bench: Bench) -> None:
    odd = timezone(timedelta(hours=1, minutes=23, seconds=45))
    at = datetime(2026, 3, 10, 8, 0, tzinfo=odd)
    known = {"timestamp": at, "usage": {"ended": at}}
    cost = {**OPERATION, "cost_amount": 2, **known}
    await bench.api.record(**cost)
    await bench.api.record_batch([cost])
    held = await bench.api.check(**OPERATION, estimate=1)
    await bench.api.settle(held.reservation_id, 2, **known)
    async with bench.api.reserve(**OPERATION, estimate=1) as r:
        await r.settle(2, **known)
    records = (await bench.api.records(start=at)).items
    assert [one.timestamp for one in records] == [at] * 4
    assert [one.usage for one in records] == [{"ended": "2026-03-10T06:36:15Z"}] * 4
    assert not (await bench.api.records(start=at + timedelta(seconds=1))).items
    assert (await bench.api.report(start_date=at)).record_count == 4
    later = await bench.api.report(start_date=at + timedelta(seconds=1))
    assert later.record_count == 0


class Project(str, Enum):  # noqa: UP042 - unlike a StrEnum's, its members show their names
    SEARCH = "search"


class Text(str):
    """As a template engine's, or numpy's."""

    __slots__ = ()


class Moment(datetime):
    """As that of pandas, and of tests that freeze time."""


class Day(date):
    """As that of tests that freeze time."""


class Count(int): ...


class Seconds(float): ...


async def test_what_is_of_a_subclass_is_taken_as_what_it_is(bench: Bench) -> None:
    """Of text and numbers, as many libraries make them; a member of an enum shows its name."""
    operation = {"project": Project.SEARCH, "resource_type": Text("llm")}
    cost = {
        **operation,
        "cost_amount": Count(2),
        "timestamp": Moment(2026, 3, 10, 8, tzinfo=UTC),
        "tags": {Text("team"): Text("a")},
        "usage": {
            "tokens": Count(7),
            "seconds": Seconds(1.5),
            "model": [Text("m")],
            "day": Day(2026, 3, 10),
        },
    }
    await bench.api.record(**cost)
    await bench.api.record_batch([cost])
    held = await bench.api.check(**operation, estimate=1)
    assert (await bench.api.release(Text(held.reservation_id))).project_id == "search"
    for record in (await bench.api.records(**operation)).items:
        assert type(record.project_id) is str
        assert (record.tags, record.timestamp) == ({"team": "a"}, cost["timestamp"])
        assert record.usage == {
            "tokens": 7,
            "seconds": Decimal("1.5"),
            "model": ["m"],
            "day": "2026-03-10",
        }
    await bench.api.create_rate_limit(
        scope_type="project",
        scope_id=Project.SEARCH,
        resource_type="api",
        limit_value=1,
        time_window_seconds=60,
    )
    asked = [
        await bench.api.check_rate_limit(resource_type="api", project="search", resource_key=key)
        for key in (Project.SEARCH, "search")
    ]
    assert [one.allowed for one in asked] == [True, False]


def test_a_key_and_a_tenant_of_an_enum_are_sent_as_their_text(
    server: RunningServer, tenant: str
) -> None:
    given = Enum("Given", {"KEY": server.key, "TENANT": tenant}, type=str)
    with Client(server.url, given.KEY, tenant=given.TENANT) as client:
        made = client.create_budget(**BUDGET)
        assert client.get_budget(made.budget_id).tenant_id == tenant


async def test_a_budget_begins_on_the_day_of_a_frozen_test(bench: Bench) -> None:
    budget = await bench.api.create_budget(**BUDGET, start_date=Day(2026, 3, 1))
    assert budget.start_date == date(2026, 3, 1)


def test_a_clock_may_give_what_a_test_froze(tmp_path: Path) -> None:
    class Frozen:
        def now(self) -> datetime:
            return Moment(2026, 3, 10, 12, tzinfo=UTC)

    with Fiscus.open(data_dir=tmp_path, tenant="acme", clock=Frozen()) as fiscus:
        budget_id = fiscus.create_budget(**BUDGET).budget_id
        assert fiscus.check(**OPERATION, estimate=1).budget_id == budget_id
        assert fiscus.get_budget(budget_id).created_at == Frozen().now()


@pytest.mark.parametrize("key", [(1, 2), (Text("a"),)], ids=repr)
async def test_a_key_that_no_json_has_is_told_by_its_field(bench: Bench, key: object) -> None:
    cost = {**OPERATION, "cost_amount": 2, "usage": {key: 1}}
    with pytest.raises(ValidationError, match="names that are text") as told:
        await bench.api.record(**cost)
    assert told.value.field == "usage"
    with pytest.raises(ValidationError, match="must not contain a tuple") as told:
        await bench.api.record_batch([cost])
    assert told.value.field == "records[0].usage"


async def test_records_are_found_by_any_tag_key(bench: Bench) -> None:
    tags = {"aws:createdBy": "ann", "{team}": "a", "plain": "a:b"}
    await bench.api.record(**OPERATION, cost_amount=2, tags=tags)
    await bench.api.record(**OPERATION, cost_amount=3, tags={"aws": "createdBy:ann"})
    for wanted in (tags, *({key: value} for key, value in tags.items())):
        [record] = (await bench.api.records(tags=wanted)).items
        assert (record.cost_amount, record.tags) == (2, tags)


async def test_records_of_a_batch_stand_or_fall_alone(bench: Bench) -> None:
    answer = await bench.api.record_batch(
        [
            {"resource_type": "llm", "cost_amount": "0.1", "project": "search"},
            {"resource_type": "llm", "cost_amount": -1},
            {"resource_type": "llm", "cost_amount": 2},
        ]
    )
    assert (answer.recorded, answer.failed) == (2, 1)
    assert answer.results[1].error is not None
    assert sorted(await bench.costs()) == [Decimal("0.1"), 2]


async def test_a_batch_of_records_is_of_the_tenant_that_all_of_them_name(bench: Bench) -> None:
    other = f"{bench.tenant}-other"
    cost = {"resource_type": "llm", "cost_amount": 1}
    answer = await bench.api.record_batch([{**cost, "tenant": other}, {**cost, "tenant_id": other}])
    assert (answer.recorded, answer.failed) == (2, 0)
    assert len((await bench.api.records(tenant=other)).items) == 2
    mixed = await bench.api.record_batch([cost, {**cost, "tenant": other}])
    assert [one.error and one.error.error_code for one in mixed.results] == [None, "FORBIDDEN"]
    assert await bench.costs() == [1]


async def test_a_repeated_key_charges_once(bench: Bench) -> None:
    key = uuid7()
    for _ in range(2):
        await bench.api.record(**OPERATION, cost_amount=1, idempotency_key=key)
        await bench.api.record_batch(
            [{"resource_type": "gpu", "cost_amount": 3}], idempotency_key=key + "b"
        )
    assert sorted(await bench.costs()) == [1, 3]
    with pytest.raises(IdempotencyConflict):
        await bench.api.record(**OPERATION, cost_amount=2, idempotency_key=key)


async def test_a_report_adds_up_and_groups(bench: Bench) -> None:
    for project, cost in (("a", "0.1"), ("b", "0.2"), ("a", "0.3")):
        await bench.api.record(project=project, resource_type="llm", cost_amount=cost)
    report = await bench.api.report(
        group_by=["project"], start_date=datetime(2026, 3, 1, tzinfo=UTC)
    )
    assert type(report) is Report
    assert report.tenant_id == bench.tenant
    assert report.total_cost == Decimal("0.6")
    assert {group.key["project"]: group.cost for group in report.groups} == {
        "a": Decimal("0.4"),
        "b": Decimal("0.2"),
    }
    only = await bench.api.report(project="b", report_type="by_resource")
    assert only.total_cost == Decimal("0.2")


async def test_a_budget_is_made_read_listed_changed_and_ended(bench: Bench) -> None:
    made = await bench.budget(
        thresholds=["0.5"],
        filters=Filters(resource_types=["llm"]),
        end_date=date(2027, 1, 1),
        enforcement_action="throttle",
        throttle={"start_ratio": "0.5"},
    )
    assert type(made) is BudgetView
    assert made.tenant_id == bench.tenant
    read = await bench.api.get_budget(made.budget_id)
    assert _definition(read) == _definition(made)
    page = await bench.api.budgets(allocated_to_type="project", name_contains="sea")
    assert [type(one) for one in page.items] == [Budget]
    assert page.pagination.total_count == 1
    assert not (await bench.api.budgets(currency="EUR")).items

    changed = await bench.api.update_budget(
        made.budget_id, budget_amount=2, enforcement_action="soft_limit", end_date=None
    )
    assert (changed.version, changed.budget_amount, changed.end_date) == (2, 2, None)
    assert changed.enforcement_action is EnforcementAction.SOFT_LIMIT
    assert changed.throttle == made.throttle
    assert changed.filters == made.filters
    with pytest.raises(Conflict):
        await bench.api.update_budget(made.budget_id, version=1, budget_amount=3)

    await bench.api.delete_budget(made.budget_id)
    with pytest.raises(NotFound):
        await bench.api.delete_budget(made.budget_id)


async def test_a_budget_made_again_with_its_key_is_the_same_budget(bench: Bench) -> None:
    key = uuid7()
    first = await bench.budget(idempotency_key=key)
    again = await bench.budget(idempotency_key=key)
    assert again.budget_id == first.budget_id


async def test_a_budget_in_use_is_ended_by_force_only(bench: Bench) -> None:
    budget = await bench.budget()
    await bench.api.record(**OPERATION, cost_amount=1)
    with pytest.raises(Conflict):
        await bench.api.delete_budget(budget.budget_id)
    await bench.api.delete_budget(budget.budget_id, force=True)


async def test_utilization_of_a_template_is_shown_per_scope(bench: Bench) -> None:
    budget = await bench.budget(allocated_to_type="user", allocated_to_id="*")
    for user in ("u-1", "u-2"):
        await bench.api.record(user=user, resource_type="llm", cost_amount="0.25")
    shown = await bench.api.utilization(budget.budget_id, scope_id="u-2")
    assert type(shown) is Utilization
    assert [(one.scope_id, one.spent) for one in shown.periods] == [("u-2", Decimal("0.25"))]


async def test_a_tenants_settings_hold_for_its_calls(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.api.get_tenant(bench.tenant)
    put = await bench.api.put_tenant(bench.tenant, currency="EUR", require_budget=True)
    assert (put.currency, put.require_budget) == ("EUR", True)
    assert (await bench.api.get_tenant(bench.tenant)).version == put.version
    answer = await bench.api.check(**OPERATION, estimate=1)
    assert not answer.allowed
    with pytest.raises(Conflict):
        await bench.api.put_tenant(bench.tenant, version=put.version + 5)


async def test_another_tenant_can_be_named_in_every_call(bench: Bench) -> None:
    other = f"t-{uuid7()}"
    budget = await bench.api.create_budget(**BUDGET, tenant=other)
    assert (await bench.api.get_budget(budget.budget_id, tenant=other)).tenant_id == other
    with pytest.raises(NotFound):
        await bench.api.get_budget(budget.budget_id)
    first = await bench.api.check(**OPERATION, tenant=other, estimate="0.1")
    assert first.budget_id == budget.budget_id
    await bench.api.extend(first.reservation_id, 60, tenant=other)
    with pytest.raises(NotFound):
        await bench.api.settle(first.reservation_id, 1)
    await bench.api.settle(first.reservation_id, "0.1", tenant=other)
    second = await bench.api.check(**OPERATION, tenant=other, estimate="0.1")
    await bench.api.release(second.reservation_id, tenant=other)
    batch = await bench.api.check_batch([{**OPERATION, "tenant": other, "estimate": 5}])
    assert not batch.allowed
    await bench.api.record(**OPERATION, tenant=other, cost_amount=1)
    assert len((await bench.api.records(tenant=other)).items) == 2
    assert (await bench.api.report(tenant=other)).record_count == 2
    assert (await bench.api.utilization(budget.budget_id, tenant=other)).periods[0].spent > 1
    await bench.api.update_budget(budget.budget_id, tenant=other, budget_amount=9)
    await bench.api.delete_budget(budget.budget_id, tenant=other, force=True)
    assert await bench.costs() == []


async def test_following_pages_sees_every_record_once(bench: Bench) -> None:
    for _ in range(5):
        await bench.api.record(**OPERATION, cost_amount=1)
    seen: list[str] = []
    page = await bench.api.records(page_size=2)
    seen += [one.record_id for one in page.items]
    while page.pagination.next_page_token:
        page = await bench.api.records(page_size=2, page_token=page.pagination.next_page_token)
        seen += [one.record_id for one in page.items]
    assert len(seen) == len(set(seen)) == 5


async def test_health_names_what_is_needed(bench: Bench) -> None:
    health = await bench.api.health()
    assert health.status in {"UP", "DEGRADED"}
    assert {one.name for one in health.dependencies} == {
        "store",
        "ledger",
        "counters",
        "disk",
        "exchange_rates",
    }


# -- what is wrong in itself is refused the same way, before anything is sent


@pytest.mark.parametrize(
    ("call", "fields", "field", "says"),
    [
        ("check", {**OPERATION, "estimate": 0.02}, "estimate", "float"),
        ("check", {**OPERATION, "estimate": "NaN"}, "estimate", "not a decimal number"),
        ("check", {**OPERATION}, "estimated_cost", "missing"),
        (
            "check",
            {**OPERATION, "estimate": 1, "estimated_cost": 2},
            "estimated_cost",
            "both are given",
        ),
        ("check", {**OPERATION, "estimate": 1, "projct": "x"}, "projct", "not a field"),
        ("check", {"resource_type": "llm", "estimate": 1, "user": "a@b"}, "user", "letters"),
        ("record", {**OPERATION, "cost_amount": 0.1}, "cost_amount", "float"),
        (
            "record",
            {**OPERATION, "cost_amount": 1, "timestamp": datetime(2026, 1, 1)},  # noqa: DTZ001
            "timestamp",
            "no offset",
        ),
        ("create_budget", {**BUDGET, "budget_amount": 1.5}, "budget_amount", "float"),
        ("create_budget", {**BUDGET, "thresholds": [0.8]}, "thresholds[0]", "float"),
        ("records", {"page_size": 0}, "page_size", "1"),
        ("records", {"start": NOON, "end": NOON}, "start", "not before end"),
        ("report", {"group_by": ["moon"]}, "group_by[0]", "grouped"),
        ("report", {"format": "csv"}, "format", "not a field"),
        ("record_batch", {"records": []}, "records", "empty"),
        ("record_batch", {"records": [{"cost_amount": 0.1}]}, "records[0].cost_amount", "float"),
        ("check_batch", {"checks": []}, "checks", "empty"),
    ],
)
async def test_a_wrong_argument_is_named(
    bench: Bench, call: str, fields: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(ValidationError, match=says) as raised:
        await getattr(bench.api, call)(**fields)
    assert raised.value.field == field


@pytest.mark.parametrize(
    "given",
    [
        "nothing",
        "a/b",
        "../../health",
        "%2e%2e",
        "x" * 500,
        "\xe4/?#",
        "019CD7D8-7C00-7A11-8F00-0123456789AB",
    ],
)
async def test_an_id_that_cannot_be_is_not_found(bench: Bench, given: str) -> None:
    for call, what in (
        (bench.api.get_budget(given), "budget"),
        (bench.api.delete_budget(given), "budget"),
        (bench.api.utilization(given), "budget"),
        (bench.api.update_budget(given, version=0), "budget"),
        (bench.api.get_quota(given), "quota"),
        (bench.api.update_quota(given, version=0), "quota"),
        (bench.api.delete_quota(given), "quota"),
        (bench.api.get_rate_limit(given), "policy"),
        (bench.api.update_rate_limit(given, version=0), "policy"),
        (bench.api.delete_rate_limit(given), "policy"),
        (bench.api.reset_rate_limit(given), "policy"),
        (bench.api.quota_history(given, since=NOON, until=NOON), "quota"),
        (bench.api.release(given), "reservation"),
        (bench.api.settle(given, -1), "reservation"),
        (bench.api.release_consumption(given, idempotency_key=" k"), "consumption"),
    ):
        with pytest.raises(NotFound) as told:
            await call
        assert told.value.message == f"No {what} {given[:64]!r} exists"
        assert told.value.details == {f"{what}_id": given[:64]}
        assert told.value.suggested_action == f"Use the {what}_id as it was answered."


@pytest.mark.parametrize("given", ["", ".", "..", "a/b", "a b", "x" * 129])
async def test_what_can_be_no_tenant_is_told(bench: Bench, given: str) -> None:
    for call in (bench.api.get_tenant(given), bench.api.put_tenant(given)):
        with pytest.raises(ValidationError) as told:
            await call
        assert told.value.field == "tenant"
        is_dots = given in {"", ".", ".."}
        says = f"{given!r} is not an id" if is_dots else "tenant is not a valid id"
        assert told.value.message == says


async def test_of_a_wrong_key_and_a_wrong_field_the_key_is_told(bench: Bench) -> None:
    check = {**OPERATION, "estimate": 1, "allocated_to_type": "project", "allocated_to_id": "x"}
    quota = {"resource_type": "gpu", "required_amount": -1}
    for call in (
        bench.api.check(**check, idempotency_key=" k"),
        bench.api.check_batch([check], idempotency_key=" k"),
        bench.api.check_batch(
            [{**OPERATION, "estimate": 1, "tenant": one} for one in "ab"], idempotency_key=" k"
        ),
        bench.api.record(**OPERATION, cost_amount=-1, idempotency_key=" k"),
        bench.api.check_quota(**quota, idempotency_key=" k"),
        bench.api.check_quotas([quota], idempotency_key=" k"),
        bench.api.release_consumption(uuid7(), -1, idempotency_key=" k"),
    ):
        with pytest.raises(ValidationError) as told:
            await call
        assert told.value.field == "idempotency_key"


async def test_a_float_to_settle_is_refused_and_charges_nothing(bench: Bench) -> None:
    answer = await bench.api.check(**OPERATION, estimate=1)
    with pytest.raises(ValidationError, match="float"):
        await bench.api.settle(answer.reservation_id, 0.5)
    assert await bench.costs() == []


def _definition(budget: BudgetView) -> dict[str, object]:
    return {
        name: getattr(budget, name) for name in Budget.__struct_fields__ if name != "updated_at"
    }

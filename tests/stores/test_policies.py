"""Rate limit policies on both databases: versions, conflicts, emergencies, what limiters read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from fiscus.budgets.model import BudgetSpec
from fiscus.clock import ManualClock
from fiscus.errors import Conflict, Forbidden, NotFound, ValidationError
from fiscus.idempotency import Idempotency, idempotency
from fiscus.ids import uuid7
from fiscus.paging import Cursor, PageRequest, page_request
from fiscus.ratelimits import definitions
from fiscus.ratelimits.calls import EmergencySpec, UsageWindow
from fiscus.ratelimits.limits import effective_limit
from fiscus.ratelimits.model import Emergency, PolicyScope, PolicySpec, PolicyState
from fiscus.ratelimits.policy_port import PolicyFilter, TenantPolicies, UsageRow
from fiscus.ratelimits.rules import MAX_LIMIT, Algorithm
from fiscus.stores.sql.budgets.store import SqlBudgets
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.ratelimits.policies import SqlPolicies
from fiscus.stores.sql.ratelimits.usage import SqlRateLimitUsage
from fiscus.wire.converting import convert
from tests.stores.conftest import in_threads


class Desk:
    """One tenant's policies, changed in short forms."""

    def __init__(self, database: Database, tenant_id: str, clock: ManualClock) -> None:
        self.database = database
        self.policies = SqlPolicies(database)
        self.usage = SqlRateLimitUsage(database)
        self.tenant_id = tenant_id
        self.clock = clock

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def spec(self, **fields: Any) -> PolicySpec:
        defaults = {
            "scope_type": "user",
            "scope_id": "*",
            "resource_type": "llm",
            "limit_value": 100,
            "time_window_seconds": 60,
        }
        return convert(defaults | fields, PolicySpec)

    def make(self, once: Idempotency | None = None, **fields: Any) -> PolicyState:
        return self.policies.create(
            self.tenant_id, self.spec(**fields), by="tester", now=self.now, idempotency=once
        )

    def get(self, state: PolicyState, version: int | None = None) -> PolicyState:
        return self.policies.get(self.tenant_id, state.policy.policy_id, version)

    def replace(
        self, state: PolicyState, expected: int | None = None, **fields: Any
    ) -> PolicyState:
        return self.policies.replace(
            self.tenant_id,
            state.policy.policy_id,
            self.spec(**fields),
            expected_version=expected,
            by="tester",
            now=self.now,
        )

    def delete(self, state: PolicyState, *, force: bool = False) -> None:
        self.policies.delete(
            self.tenant_id, state.policy.policy_id, force=force, by="tester", now=self.now
        )

    def reset(self, state: PolicyState) -> None:
        self.policies.forget_counters(
            self.tenant_id, state.policy.policy_id, by="tester", now=self.now
        )

    def emergency(
        self,
        state: PolicyState,
        minutes: int = 600,
        capacity: int = 50,
        once: Idempotency | None = None,
    ) -> Emergency:
        spec = EmergencySpec(
            additional_capacity=capacity, duration_minutes=minutes, reason="launch"
        )
        return self.policies.add_emergency(
            self.tenant_id, state.policy.policy_id, spec, by="ada", now=self.now, idempotency=once
        )

    def approve(self, emergency: Emergency, by: str = "bob") -> Emergency:
        return self.policies.approve_emergency(
            self.tenant_id, emergency.policy_id, emergency.emergency_id, by=by, now=self.now
        )

    def live(self) -> TenantPolicies:
        return self.policies.live(self.tenant_id, self.now)

    def limit(self) -> int:
        (state,) = self.live().policies
        return effective_limit(state, self.now)

    def seen(self, state: PolicyState, start: datetime, seconds: int = 60, checks: int = 1) -> None:
        """Write one window of use."""
        window = UsageWindow(
            scope_id="u1",
            window_start=start,
            window_end=start + timedelta(seconds=seconds),
            checks=checks,
            admitted=checks,
            denied=0,
            shadow_denied=0,
        )
        self.usage.add([UsageRow(self.tenant_id, state.policy.policy_id, window)])

    def list(self, **wanted: Any) -> list[str]:
        page = self.policies.list(self.tenant_id, PolicyFilter(**wanted), PageRequest())
        return [state.policy.policy_id for state in page.items]


@pytest.fixture
def desk(database: Database, tenant: str, clock: ManualClock) -> Desk:
    return Desk(database, tenant, clock)


# -- definitions


def test_a_policy_is_read_as_it_was_made(desk: Desk) -> None:
    overrides = {
        "time_of_day": [{"from_hour": 22, "to_hour": 6, "multiplier": "0.333333333333"}],
        "usage_pattern": {},
    }
    state = desk.make(overrides=overrides, timezone="Europe/Berlin", burst_capacity=7)
    assert desk.get(state) == state
    assert (state.policy.version, state.generation) == (1, 1)
    assert state.policy.created_at == state.policy.updated_at == desk.now
    assert (state.emergencies, state.hourly_load) == ((), ())


def test_counters_of_another_tenants_policy_are_not_reset(desk: Desk) -> None:
    policy_id = desk.make().policy.policy_id
    with pytest.raises(NotFound):
        desk.policies.forget_counters("somebody-else", policy_id, by="x", now=desk.now)


@pytest.mark.parametrize("name", ["x", "'; DROP TABLE tenants", "A" * 36, "\x00"])
def test_an_emergency_that_is_none_is_not_found(desk: Desk, name: str) -> None:
    emergency = desk.emergency(desk.make())
    with pytest.raises(NotFound):
        desk.approve(msgspec.structs.replace(emergency, emergency_id=name))
    with pytest.raises(NotFound):
        desk.approve(msgspec.structs.replace(emergency, policy_id=name))


def test_a_policy_that_makes_no_sense_leaves_nothing_behind(desk: Desk) -> None:
    with pytest.raises(ValidationError) as caught:
        desk.make(algorithm="fixed_window", burst_capacity=1)
    assert caught.value.field == "burst_capacity"
    assert desk.live() == TenantPolicies(0, [])


def test_a_scope_may_have_several_limits_on_one_resource(desk: Desk) -> None:
    desk.make(time_window_seconds=1, limit_value=10)
    desk.make(time_window_seconds=3600, limit_value=1000)
    assert len(desk.live().policies) == 2


def test_a_change_keeps_the_generation_and_is_found_by_what_it_says(desk: Desk) -> None:
    first = desk.make()
    second = desk.replace(first, algorithm="leaky_bucket", scope_id="u1")
    assert second.generation == first.generation
    assert desk.list(scope_id="u1", algorithm=Algorithm.LEAKY_BUCKET) == [first.policy.policy_id]


def test_a_new_version_keeps_the_time_zone_where_it_names_none(desk: Desk) -> None:
    state = desk.make(timezone="Asia/Tokyo")
    assert desk.replace(state, limit_value=7).policy.timezone == "Asia/Tokyo"
    assert desk.replace(state, timezone="UTC").policy.timezone == "UTC"


def test_a_deleted_policy_has_no_counters_and_no_emergencies(desk: Desk) -> None:
    state = desk.make()
    desk.delete(state)
    for call in (desk.reset, desk.emergency):
        with pytest.raises(NotFound):
            call(state)
    assert desk.live().policies == []


@pytest.mark.parametrize(
    ("window_seconds", "ended_seconds_ago", "in_use"),
    [(60, 3599, True), (60, 3600, False), (86_400, 86_399, True), (86_400, 86_400, False)],
)
def test_a_policy_in_use_is_only_deleted_by_force(
    desk: Desk, window_seconds: int, ended_seconds_ago: int, in_use: bool
) -> None:
    state = desk.make(time_window_seconds=window_seconds)
    desk.seen(state, desk.now - timedelta(seconds=ended_seconds_ago + 60))
    if in_use:
        with pytest.raises(Conflict, match="in use"):
            desk.delete(state)
        assert desk.get(state) == state
    desk.delete(state, force=in_use)
    assert desk.list() == []


def test_use_of_another_policy_keeps_none(desk: Desk) -> None:
    used, unused = desk.make(), desk.make()
    desk.seen(used, desk.now)
    desk.seen(unused, desk.now, checks=0)
    with pytest.raises(Conflict, match="in use"):
        desk.delete(used)
    desk.delete(unused)
    assert desk.list() == [used.policy.policy_id]


# -- lists


def test_lists_show_what_is_asked_for_newest_first(desk: Desk) -> None:
    a = desk.make().policy.policy_id
    b = desk.make(scope_type="api_key", scope_id="k1", resource_type="llm*").policy.policy_id
    c = desk.make(algorithm="fixed_window", shadow=True).policy.policy_id
    assert desk.list() == [c, b, a]
    assert desk.list(scope_type=PolicyScope.API_KEY) == [b]
    assert desk.list(scope_id="*") == [c, a]
    assert desk.list(resource_type="llm*") == [b]
    assert desk.list(algorithm=Algorithm.FIXED_WINDOW) == [c]
    assert desk.list(shadow=True) == [c]
    assert desk.list(shadow=False) == [b, a]
    assert desk.list(shadow=True, scope_id="k1") == []


def test_following_tokens_gives_the_whole_list_both_ways(desk: Desk) -> None:
    made = [desk.make().policy.policy_id for _ in range(5)][::-1]

    def read(page: PageRequest) -> tuple[list[str], Any]:
        found = desk.policies.list(desk.tenant_id, PolicyFilter(), page)
        return [state.policy.policy_id for state in found.items], found.pagination

    first, pagination = read(page_request(page_size=2))
    assert pagination.total_count == 5
    second, pagination = read(page_request(None, 2, pagination.next_page_token))
    third, pagination = read(page_request(None, 2, pagination.next_page_token))
    assert first + second + third == made
    assert (pagination.next_page_token, pagination.total_count) == (None, None)
    back, _ = read(page_request(None, 2, pagination.prev_page_token))
    assert back == second


@pytest.mark.parametrize("values", [["x"], [1], [1, "u"]])
def test_a_token_of_another_list_is_refused(desk: Desk, values: list[Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        desk.policies.list(desk.tenant_id, PolicyFilter(), PageRequest(cursor=Cursor(values)))
    assert caught.value.field == "page_token"


# -- idempotency


def once(desk: Desk, operation: str, body: str) -> Idempotency:
    until = desk.now + timedelta(hours=24)
    return idempotency(desk.tenant_id, operation, "k", body, until)


def test_a_repeated_creation_answers_with_the_overrides_made_before(desk: Desk) -> None:
    fields = {"overrides": {"time_of_day": [{"from_hour": 0, "to_hour": 9, "multiplier": 2}]}}
    first = desk.make(once(desk, "create_policy", "a"), **fields)
    assert desk.make(once(desk, "create_policy", "a"), **fields) == first


def test_a_repeated_emergency_is_the_one_made_before(desk: Desk) -> None:
    state = desk.make()
    first = desk.emergency(state, once=once(desk, "add_emergency", "a"))
    assert desk.emergency(state, once=once(desk, "add_emergency", "a")) == first


# -- emergencies


def test_emergency_capacity_lasts_four_hours_and_with_an_approval_to_its_end(
    desk: Desk, clock: ManualClock
) -> None:
    state = desk.make()
    emergency = desk.emergency(state, minutes=600)
    assert emergency.starts_at == desk.now
    assert emergency.ends_at == desk.now + timedelta(hours=10)
    assert emergency.effective_until == desk.now + timedelta(hours=4)
    assert desk.get(state).emergencies == (emergency,)
    assert desk.limit() == 150
    clock.advance(hours=4)
    assert desk.limit() == 100
    approved = desk.approve(emergency)
    assert (approved.approved_by, approved.approved_at) == ("bob", desk.now)
    assert approved.effective_until == approved.ends_at
    assert desk.get(state).emergencies == (approved,)
    assert desk.limit() == 150
    clock.advance(hours=6)
    assert desk.limit() == 100


def test_a_short_emergency_ends_when_it_was_said_to(desk: Desk, clock: ManualClock) -> None:
    emergency = desk.emergency(desk.make(), minutes=30)
    assert emergency.effective_until == emergency.ends_at
    clock.advance(minutes=30)
    assert desk.limit() == 100
    assert desk.live().policies[0].emergencies == ()


def test_who_asked_does_not_approve_and_nobody_approves_twice_or_late(
    desk: Desk, clock: ManualClock
) -> None:
    state = desk.make()
    emergency = desk.emergency(state, minutes=60)
    with pytest.raises(Forbidden):
        desk.approve(emergency, by="ada")
    desk.approve(emergency)
    with pytest.raises(Conflict, match="approved already"):
        desk.approve(emergency, by="eve")
    clock.advance(hours=1)
    late = desk.emergency(state, minutes=60)
    clock.advance(hours=1)
    with pytest.raises(Conflict, match="is over"):
        desk.approve(late)


def test_an_emergency_of_another_policy_is_not_found(desk: Desk) -> None:
    emergency, other = desk.emergency(desk.make()), desk.make()
    with pytest.raises(NotFound):
        desk.approve(msgspec.structs.replace(emergency, policy_id=other.policy.policy_id))


def test_a_policy_has_one_emergency_at_a_time(desk: Desk, clock: ManualClock) -> None:
    state = desk.make()
    first = desk.emergency(state, minutes=600)
    for hours in (0, 5):  # also while it waits for its approval
        clock.advance(hours=hours)
        with pytest.raises(Conflict) as caught:
            desk.emergency(state)
        assert caught.value.details["emergency_id"] == first.emergency_id
    clock.advance(hours=5)
    second = desk.emergency(state)
    assert desk.get(state).emergencies == (second,)
    assert desk.live().policies[0].emergencies == (second,)
    page = desk.policies.list(desk.tenant_id, PolicyFilter(), PageRequest())
    assert page.items[0].emergencies == (second,)


def test_of_emergencies_asked_for_at_once_one_is_granted(desk: Desk) -> None:
    state, outcomes = desk.make(), list[str]()

    def ask() -> None:
        try:
            desk.emergency(state)
            outcomes.append("granted")
        except Conflict:
            outcomes.append("conflict")

    in_threads(4, ask)
    assert sorted(outcomes) == ["conflict", "conflict", "conflict", "granted"]


def test_capacity_that_cannot_be_counted_is_refused(desk: Desk) -> None:
    day = {"time_window_seconds": 86_400, "limit_value": 1_000_000}
    state = desk.make(**day)
    with pytest.raises(ValidationError) as caught:
        desk.emergency(state, capacity=MAX_LIMIT)
    assert caught.value.field == "additional_capacity"
    assert desk.get(state).emergencies == ()
    desk.emergency(state, capacity=1_000_000_000)
    with pytest.raises(Conflict, match="Emergency capacity of 1000000000 holds now") as denied:
        desk.replace(state, **(day | {"time_window_seconds": 86_400 * 300}))
    assert denied.value.details["additional_capacity"] == 1_000_000_000
    assert desk.replace(state, **(day | {"limit_value": 2_000_000})).emergencies != ()


def test_a_kept_policy_that_cannot_be_counted_says_so_when_capacity_is_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(definitions, "check_countable", lambda _: None)
        state = desk.make(
            limit_value=600_000_001,
            time_window_seconds=86_400,
            overrides={"time_of_day": [{"from_hour": 6, "to_hour": 22, "multiplier": 97}]},
        )
    with pytest.raises(Conflict) as caught:
        desk.emergency(state, capacity=1)
    assert caught.value.details == {"policy_id": state.policy.policy_id}
    assert "With overrides the limit can be anything up to" in caught.value.message
    assert caught.value.suggested_action == "Replace the policy by one that can."
    assert desk.get(state).emergencies == ()


# -- what limiters read


def test_a_reset_begins_a_new_generation_and_no_new_version(desk: Desk) -> None:
    state = desk.make()
    desk.reset(state)
    desk.reset(state)
    assert desk.get(state) == msgspec.structs.replace(state, generation=3)
    assert desk.live().policies == [desk.get(state)]
    assert desk.replace(state).generation == 3


def test_every_change_moves_the_tenants_definitions_on(desk: Desk) -> None:
    assert desk.live() == TenantPolicies(0, [])
    state = desk.make()
    changes: list[Callable[[], object]] = [
        lambda: desk.replace(state),
        lambda: desk.reset(state),
        lambda: desk.emergency(state),
        lambda: desk.approve(desk.get(state).emergencies[0]),
        lambda: desk.delete(state),
    ]
    for version, change in enumerate(changes, start=1):
        assert desk.live().version == version
        change()
    assert desk.live() == TenantPolicies(6, [])


def test_live_policies_are_those_of_the_tenant_alone(
    desk: Desk, database: Database, clock: ManualClock
) -> None:
    other = Desk(database, f"{desk.tenant_id}-2", clock)
    mine, others = desk.make(), other.make()
    desk.delete(desk.make())
    assert desk.live() == TenantPolicies(3, [mine])
    assert other.live() == TenantPolicies(1, [others])


def test_versions_of_many_tenants_are_told_at_once(desk: Desk) -> None:
    desk.make()
    nobody = [f"nobody-{number}" for number in range(1200)]
    found = desk.policies.versions([desk.tenant_id, *nobody, desk.tenant_id])
    assert found == dict.fromkeys(nobody, 0) | {desk.tenant_id: 1}
    assert desk.policies.versions([]) == {}


def test_changes_of_budgets_and_of_policies_share_one_version(desk: Desk) -> None:
    desk.make()
    spec = convert(
        {
            "budget_name": "b",
            "budget_amount": 1,
            "period_type": "monthly",
            "allocated_to_type": "tenant",
            "allocated_to_id": desk.tenant_id,
        },
        BudgetSpec,
    )
    SqlBudgets(desk.database).create(desk.tenant_id, spec, by="x", now=desk.now)
    assert desk.policies.versions([desk.tenant_id]) == {desk.tenant_id: 2}


def test_times_come_back_in_utc(desk: Desk) -> None:
    state = desk.make()
    emergency = desk.emergency(state)
    found = desk.get(state)
    assert found.policy.created_at.utcoffset() == timedelta()
    assert found.emergencies[0].starts_at.tzinfo is UTC
    assert found.emergencies[0] == emergency
    assert uuid7() > emergency.emergency_id

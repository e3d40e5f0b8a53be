"""The limiter: which policies apply, what is answered, and what a change of them does."""

from __future__ import annotations

import weakref
from datetime import datetime

import pytest
from msgspec.structs import replace

from fiscus.clock import to_us
from fiscus.errors import Conflict, Forbidden, ServiceUnavailable
from fiscus.money import Amount
from fiscus.priorities import Priority
from fiscus.ratelimits.model import HourRange, Overrides, PolicyState
from fiscus.ratelimits.policy_port import TenantPolicies
from tests.ratelimits.desk import Desk, request
from tests.ratelimits.policies import TENANT, policy


def uncountable() -> PolicyState:
    """A policy that could not be made: a third of its limit shares no divisor with the window."""
    sound = policy("bad")
    third = HourRange(from_hour=0, to_hour=24, multiplier=Amount("0.333333333333"))
    definition = replace(
        sound.policy,
        limit_value=366 * 86_400 * 10_000,
        time_window_seconds=366 * 86_400,
        overrides=Overrides(time_of_day=[third]),
    )
    return replace(sound, policy=definition)


# ---------------------------------------------------------------- what applies


def test_without_a_policy_everything_passes_and_all_is_null() -> None:
    answer = Desk().check()
    assert answer.allowed
    assert (answer.policy_id, answer.limit_value, answer.remaining_requests) == (None, None, None)
    assert answer.policies == []


@pytest.mark.parametrize(
    ("pattern", "resource_type", "applies"),
    [
        ("api", "api", True),
        ("api", "api.read", False),
        ("api*", "api.read", True),
        ("api*", "api", True),
        ("api.w*", "api.read", False),
        ("*", "anything", True),
    ],
)
def test_a_policy_applies_by_resource_type_or_its_beginning(
    pattern: str, resource_type: str, *, applies: bool
) -> None:
    desk = Desk(policy(resource_type=pattern))
    assert bool(desk.check(resource_type=resource_type).policies) is applies


@pytest.mark.parametrize(
    ("scope_type", "field"),
    [
        ("project", "project_id"),
        ("user", "user_id"),
        ("feature", "feature_id"),
        ("api_key", "api_key_id"),
    ],
)
def test_a_policy_for_every_id_has_a_counter_for_each(scope_type: str, field: str) -> None:
    desk = Desk(policy(scope_type=scope_type, scope_id="*", limit_value=1))
    assert desk.check(**{field: "a"}).allowed
    assert not desk.check(**{field: "a"}).allowed
    assert desk.check(**{field: "b"}).allowed
    assert desk.check().policies == []


def test_the_calling_api_key_is_the_default_for_policies_of_api_keys() -> None:
    desk = Desk(policy(scope_type="api_key", scope_id="k-1", limit_value=1))
    now = desk.clock.now()
    assert desk.limiter.check(request(), TENANT, now, key_id="k-1").policies
    assert not desk.limiter.check(request(), TENANT, now, key_id="k-2").policies
    assert desk.limiter.check(request(api_key_id="k-1"), TENANT, now, key_id="k-2").policies


def test_a_missing_resource_key_is_a_key_of_its_own() -> None:
    desk = Desk(policy(limit_value=1))
    assert desk.check().allowed
    assert desk.check(resource_key="x").allowed
    assert not desk.check(resource_key="x").allowed
    assert not desk.check().allowed


def test_ids_and_keys_with_colons_do_not_share_a_counter() -> None:
    desk = Desk(policy(scope_type="user", scope_id="*", limit_value=1))
    assert desk.check(user_id="a:b", resource_key="c").allowed
    assert desk.check(user_id="a", resource_key="b:c").allowed
    assert desk.check(user_id="ann.3:10.0.0").allowed
    assert desk.check(user_id="ann", resource_key="10.0.0.12").allowed
    assert desk.check(user_id="a:b:c").allowed


# ---------------------------------------------------------------- what is decided


def test_one_policy_that_denies_denies_all_and_none_is_charged() -> None:
    minute, hour = policy("a", limit_value=20), policy("b", limit_value=3, time_window_seconds=3600)
    desk = Desk(minute, hour)
    for _ in range(3):
        assert desk.check().allowed
    answer = desk.check()
    assert not answer.allowed
    assert answer.policy_id == "b"
    assert answer.remaining_requests == 0
    assert [line.remaining_requests for line in answer.policies] == [17, 0]
    assert [line.decision for line in answer.policies] == ["allow", "deny"]


def test_the_denier_with_the_longest_wait_decides() -> None:
    desk = Desk(
        policy("a", limit_value=1, time_window_seconds=10),
        policy("b", limit_value=1, time_window_seconds=30),
    )
    desk.check()
    answer = desk.check()
    assert (answer.policy_id, answer.retry_after) == ("b", 30)


def test_a_denier_that_never_admits_decides_and_says_so() -> None:
    desk = Desk(policy("a", limit_value=1), policy("b", limit_value=5))
    answer = desk.check(2)
    assert (answer.policy_id, answer.retry_after, answer.retry_after_ms) == ("a", None, None)
    assert "never" in answer.message


def test_of_those_that_allow_the_least_remaining_decides_and_ties_go_by_id() -> None:
    desk = Desk(policy("b", limit_value=5), policy("a", limit_value=5), policy("c", limit_value=9))
    assert desk.check().policy_id == "a"


def test_retry_after_is_when_this_same_request_passes() -> None:
    desk = Desk(policy(limit_value=10, time_window_seconds=30))
    desk.check(10)
    answer = desk.check(4)
    assert answer.retry_after == 12
    desk.clock.advance(seconds=11, milliseconds=999)
    assert not desk.check(4).allowed
    desk.clock.advance(milliseconds=1)
    assert desk.check(4).allowed


def test_leaky_bucket_tells_how_long_to_wait_to_send_at_its_rate() -> None:
    desk = Desk(policy(algorithm="leaky_bucket", limit_value=10, time_window_seconds=60))
    assert [desk.check().delay_ms for _ in range(3)] == [0, 6000, 12000]


def test_a_shadow_policy_counts_and_never_denies() -> None:
    desk = Desk(policy("a", limit_value=1, shadow=True), policy("b", limit_value=5))
    desk.check()
    answer = desk.check()
    assert answer.allowed
    assert answer.policy_id == "b"
    assert answer.remaining_requests == 3
    assert [line.decision for line in answer.policies] == ["shadow_deny", "allow"]


def test_where_all_policies_shadow_nothing_limits() -> None:
    answer = Desk(policy(limit_value=1, shadow=True)).check(5)
    assert answer.allowed
    assert answer.policy_id is None
    assert answer.policies[0].decision == "shadow_deny"


# ---------------------------------------------------------------- priorities


def test_priority_scales_the_ceiling_and_not_the_refill() -> None:
    desk = Desk(policy(limit_value=10, time_window_seconds=10))
    critical = {"highest": Priority.CRITICAL}
    assert desk.left(**critical) == 20
    assert desk.left(priority="high", **critical) == 15
    assert desk.left(priority="normal", **critical) == 10
    assert desk.left(priority="low", **critical) == 5
    assert desk.check(20, **critical).allowed
    assert not desk.check().allowed
    desk.clock.advance(seconds=10)
    assert desk.left(**critical) == 10


def test_a_credential_claims_no_more_than_it_may() -> None:
    desk = Desk(policy())
    assert desk.check(priority="low").allowed
    with pytest.raises(Forbidden) as caught:
        desk.check(priority="high")
    assert caught.value.details["field"] == "priority"


# ---------------------------------------------------------------- changes


def test_a_changed_limit_keeps_what_was_used() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check(8)
    desk.policies.put(policy("a", limit_value=20))
    desk.limiter.changed(TENANT)
    assert desk.left() == 12
    desk.policies.put(policy("a", limit_value=5))
    desk.limiter.changed(TENANT)
    assert desk.left() == 0


def test_another_algorithm_or_generation_begins_unused() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check(8)
    desk.policies.put(policy("a", limit_value=10, algorithm="fixed_window"))
    desk.limiter.changed(TENANT)
    assert desk.left() == 10
    desk.check(8)
    desk.policies.put(policy("a", limit_value=10, algorithm="fixed_window", generation=2))
    desk.limiter.changed(TENANT)
    assert desk.left() == 10


def test_what_a_user_used_is_not_used_by_the_project_of_the_same_id() -> None:
    desk = Desk(policy("a", scope_type="user", scope_id="*"))
    desk.check(8, user_id="42")
    desk.policies.put(policy("a", scope_type="project", scope_id="*"))
    desk.limiter.changed(TENANT)
    assert desk.left(project_id="42") == 10


def test_the_limit_follows_the_hour_without_being_told() -> None:
    night = {"from_hour": 13, "to_hour": 14, "multiplier": 0.5}
    desk = Desk(policy(limit_value=10, overrides={"time_of_day": [night]}))
    assert desk.check(0).limit_value == 10
    desk.clock.advance(hours=1)
    assert desk.check(0).limit_value == 5
    desk.clock.advance(hours=1)
    assert desk.check(0).limit_value == 10


def test_more_than_passes_at_night_is_told_when_it_passes_by_day() -> None:
    night = {"time_of_day": [{"from_hour": 22, "to_hour": 6, "multiplier": 0.1}]}
    desk = Desk(policy(limit_value=100, timezone="Asia/Kathmandu", overrides=night))
    desk.clock.set(datetime.fromisoformat("2026-03-04T23:30:00+05:45"))
    denied = desk.check(50)
    assert (denied.allowed, denied.retry_after) == (False, 6 * 3600 + 1800)
    assert "never" not in denied.message
    assert desk.check(101).retry_after is None
    desk.clock.advance(seconds=6 * 3600 + 1799)
    assert desk.check(50).retry_after == 1
    desk.clock.advance(seconds=1)
    assert desk.check(50).allowed


def test_more_than_passes_in_a_quiet_hour_is_told_when_it_passes_in_the_week() -> None:
    load = [0] * 167 + [168]  # Sunday, the last hour
    quiet = {"usage_pattern": {"min_multiplier": 0.5, "max_multiplier": 2}}
    desk = Desk(policy(limit_value=10, overrides=quiet, hourly_load=tuple(load)))
    desk.clock.set(datetime.fromisoformat("2026-03-02T00:00:00+00:00"))  # a Monday
    assert desk.check(15).retry_after == 167 * 3600
    assert desk.check(21).retry_after is None


@pytest.mark.parametrize(
    ("overrides", "passes"),
    [
        ({"time_of_day": [{"from_hour": 2, "to_hour": 3, "multiplier": 2}]}, "2026-03-09"),
        ({"usage_pattern": {}}, "2026-03-15"),
    ],
)
def test_more_than_passes_but_in_an_hour_that_the_clocks_skip_is_told_when_that_comes_again(
    overrides: dict[str, object], passes: str
) -> None:
    load = [0] * 168
    load[6 * 24 + 2] = 168  # Sunday, 2 to 3, of which there is none on the 8th
    desk = Desk(
        policy(timezone="America/New_York", overrides=overrides, hourly_load=tuple(load)),
    )
    desk.clock.set(datetime.fromisoformat("2026-03-07T12:00:00-05:00"))
    wait = desk.check(20).retry_after
    assert wait is not None
    assert desk.clock.advance(seconds=wait) == datetime.fromisoformat(f"{passes}T02:00:00-04:00")
    assert desk.check(20).allowed


def test_calendar_windows_begin_at_local_midnight() -> None:
    desk = Desk(
        policy(
            algorithm="fixed_window",
            calendar="day",
            timezone="America/New_York",
            time_window_seconds=None,
            limit_value=1,
        )
    )
    desk.check()
    answer = desk.check()
    assert answer.retry_after == 17 * 3600  # 12:00 UTC is 07:00 there
    desk.clock.set(datetime.fromisoformat("2026-03-05T05:00:00+00:00"))
    assert desk.check().allowed


def test_policies_changed_elsewhere_are_found_by_their_version() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check()
    desk.policies.put(policy("a", limit_value=3))
    assert desk.check(0).limit_value == 10
    desk.refresh()
    assert desk.check(0).limit_value == 3


@pytest.mark.parametrize("seconds", [301, -301])
def test_policies_are_read_again_after_their_time_even_when_nobody_tells(seconds: int) -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check()
    desk.policies.states = (policy("a", limit_value=3),)
    desk.refresh()
    desk.clock.advance(seconds=seconds)
    assert desk.check(0).limit_value == 10  # nobody waits for the database
    desk.refresh()
    assert desk.check(0).limit_value == 3


def test_policies_that_were_read_again_are_not_kept_for_those_who_met_them_before() -> None:
    desk = Desk(policy(scope_type="user", scope_id="*"), policy(scope_type="user", scope_id="u"))
    desk.check(user_id="a")
    before = weakref.ref(desk.limiter._cache._tenants[TENANT].index)
    desk.limiter.changed(TENANT)
    desk.check(user_id="b")
    assert before() is None


@pytest.mark.parametrize(("changed", "reads"), [(TENANT, 2), ("another", 1)])
def test_what_changes_while_a_tenant_is_read_has_it_read_again_only_if_it_is_its_own(
    monkeypatch: pytest.MonkeyPatch, changed: str, reads: int
) -> None:
    desk = Desk(policy())
    live, to_tell = desk.policies.live, [changed]

    def live_and_changed(tenant_id: str, now: datetime) -> TenantPolicies:
        found = live(tenant_id, now)
        if to_tell:
            desk.limiter.changed(to_tell.pop())
        return found

    monkeypatch.setattr(desk.policies, "live", live_and_changed)
    desk.check()
    desk.check()
    assert desk.policies.reads == reads


def test_of_readings_that_overlap_the_one_that_began_last_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(policy("a", limit_value=10))
    live = desk.policies.live

    def live_and_overtaken(tenant_id: str, now: datetime) -> TenantPolicies:
        found = live(tenant_id, now)
        monkeypatch.undo()
        desk.policies.put(policy("a", limit_value=3))
        desk.limiter.changed(TENANT)
        desk.check()
        return found

    monkeypatch.setattr(desk.policies, "live", live_and_overtaken)
    desk.check()
    now = desk.clock.now()
    take = desk.limiter.prepare(request(), TENANT, now, to_us(now), None, Priority.NORMAL).take
    assert [rule.limit for rule in take.rules] == [3]


def test_policies_read_by_a_later_check_serve_one_that_began_before() -> None:
    desk = Desk(policy())
    desk.check()
    reads = desk.policies.reads
    desk.clock.advance(milliseconds=-1)
    desk.check()
    desk.refresh()
    assert desk.policies.reads == reads


def test_policies_that_cannot_be_read_again_are_used_on_and_one_check_waits_for_that() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check()
    reads = desk.policies.reads
    desk.policies.unreachable = True
    desk.policies.states = (policy("a", limit_value=3),)
    desk.limiter.changed(TENANT)
    assert [desk.check(0).limit_value for _ in range(3)] == [10, 10, 10]
    assert desk.policies.reads == reads + 1
    desk.policies.unreachable = False
    desk.refresh()
    assert desk.check(0).limit_value == 3


def test_policies_that_cannot_be_read_again_beside_the_checks_are_told() -> None:
    desk = Desk(policy("a", limit_value=10))
    desk.check()
    desk.policies.put(policy("a", limit_value=3))
    desk.policies.unreadable = {TENANT}
    with pytest.raises(ServiceUnavailable):  # of which the housekeeping writes to the log
        desk.refresh()
    assert desk.check(0).limit_value == 10
    desk.policies.unreadable.clear()
    desk.refresh()
    assert desk.check(0).limit_value == 3


def test_a_policy_that_cannot_be_counted_fails_only_its_own_checks() -> None:
    desk = Desk(uncountable(), policy("a", resource_type="llm"))
    assert desk.check(resource_type="llm").allowed
    with pytest.raises(Conflict, match="Policy bad cannot be counted"):
        desk.check()


def test_a_tenant_that_cannot_be_read_keeps_no_other_from_being_refreshed() -> None:
    desk = Desk(policy("a", limit_value=10))
    for tenant_id in ("before", TENANT):
        desk.limiter.check(request(), tenant_id, desk.clock.now())
    desk.policies.put(policy("a", limit_value=3))
    desk.policies.broken = {"before"}
    with pytest.raises(RuntimeError):
        desk.refresh()
    assert desk.check(0).limit_value == 3


def test_policies_that_were_never_read_are_unavailable() -> None:
    desk = Desk(policy())
    desk.policies.unreachable = True
    with pytest.raises(ServiceUnavailable):
        desk.check()

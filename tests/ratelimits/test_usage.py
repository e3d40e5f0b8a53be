"""The limiter's usage, what it does in the background, and decisions without counters."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from fiscus.clock import ManualClock
from fiscus.errors import ServiceUnavailable
from fiscus.ratelimits import housekeeping, usage_writer
from fiscus.ratelimits.calls import (
    UsageWindow,
)
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.model import PolicyState
from fiscus.stores.counters.memory import MemoryCounters
from fiscus.stores.counters.redis import RedisCounters
from fiscus.wiring.counters import open_counters
from tests.log_lines import told
from tests.ports import free_port
from tests.ratelimits.desk import Desk, Usage, request
from tests.ratelimits.policies import NOON, TENANT, Policies, policy
from tests.valkey import wait_until


def test_usage_is_counted_per_policy_scope_and_window() -> None:
    usage = Usage()
    desk = Desk(
        policy("a", limit_value=3),
        policy("s", limit_value=1, shadow=True, scope_type="user", scope_id="*"),
        usage=usage,
    )
    for _ in range(4):
        desk.check(user_id="u")
    desk.clock.advance(seconds=60)
    desk.check(2, user_id="u")
    desk.limiter.flush_usage()
    seen = {(row.policy_id, row.window.window_start): row.window for row in usage.rows}
    minute = timedelta(minutes=1)
    assert seen["a", NOON] == UsageWindow(
        scope_id=TENANT,
        window_start=NOON,
        window_end=NOON + minute,
        checks=4,
        admitted=3,
        denied=1,
        shadow_denied=0,
    )
    assert seen["s", NOON].shadow_denied == 3
    assert seen["s", NOON].admitted == 3
    assert seen["a", NOON + minute].admitted == 2


def test_what_can_never_pass_is_no_load() -> None:
    usage = Usage()
    desk = Desk(policy("a", limit_value=3), policy("s", limit_value=2, shadow=True), usage=usage)
    assert desk.check(10**12).retry_after is None
    desk.check(1)
    desk.check(3)
    desk.limiter.flush_usage()
    counted = {row.policy_id: row.window for row in usage.rows}
    assert (counted["a"].checks, counted["a"].admitted, counted["a"].denied) == (3, 1, 3)
    assert counted["s"].shadow_denied == 0


def without_counters(*states: PolicyState, usage: Any = None) -> Limiter:
    """A limiter whose counters cannot be reached."""
    return Limiter(
        Policies(*states),
        RedisCounters(f"redis://127.0.0.1:{free_port()}"),
        ManualClock(NOON),
        stand_in=open_counters(None),
        usage=usage,
    )


def test_what_can_never_pass_can_not_pass_without_counters_either() -> None:
    usage = Usage()
    limiter = without_counters(policy("a", limit_value=3, on_store_failure="deny"), usage=usage)
    denied = limiter.check(request(3), TENANT, NOON)
    assert (denied.allowed, denied.degraded, denied.retry_after) == (False, True, 1)
    assert denied.message == "Denied: the counters cannot be reached; try again in 1 s"
    never = limiter.check(request(10**12), TENANT, NOON)
    assert (never.allowed, never.degraded, never.retry_after) == (False, True, None)
    assert never.message.startswith("Denied: 1000000000000 at once can never pass a limit of 3")
    limiter.close()
    assert [row.window.denied for row in usage.rows] == [3]


def test_counters_that_are_of_no_policy_are_not_asked_for() -> None:
    limiter = without_counters(policy(resource_type="other"))
    limiter.close()  # whoever would ask for counters is refused from now on
    with pytest.raises(ServiceUnavailable):
        limiter.check(request(resource_type="other"), TENANT, NOON)
    assert limiter.check(request(), TENANT, NOON).allowed
    assert [one.allowed for one in limiter.check_together([request()] * 2, TENANT, NOON)] == [
        True,
        True,
    ]


def test_a_denial_without_counters_says_what_each_policy_would() -> None:
    limiter = without_counters(
        policy("a", on_store_failure="deny", resource_type="other"),
        policy("l", limit_value=5, resource_type="*"),
        policy("u", limit_value=8, on_store_failure="allow", resource_type="*"),
    )

    def check(count: int, resource: str) -> tuple[bool, list[tuple[str, str, int, int | None]]]:
        answer = limiter.check(request(count, resource_type=resource), TENANT, NOON)
        return answer.allowed, [
            (one.policy_id, one.decision, one.remaining_requests, one.retry_after)
            for one in answer.policies
        ]

    for _ in range(2):  # nothing is taken of what is denied
        assert check(3, "other") == (
            False,
            [("a", "deny", 0, 1), ("l", "allow", 5, 0), ("u", "allow", 8, 0)],
        )
        assert check(6, "other")[1][1] == ("l", "deny", 5, None)
        assert check(0, "other")[0] is False
    assert check(4, "api") == (True, [("l", "allow", 1, 0), ("u", "allow", 4, 0)])
    assert check(2, "api") == (False, [("l", "deny", 1, 12), ("u", "allow", 8, 0)])
    limiter.close()


def test_a_shadow_policy_that_denies_without_counters_denies_nobody() -> None:
    limiter = without_counters(
        policy("l", limit_value=5),
        policy("s", on_store_failure="deny", shadow=True),
        policy("u", on_store_failure="allow", limit_value=1),
    )
    for left in (3, 1):  # what counts goes on counting
        answer = limiter.check(request(2), TENANT, NOON)
        assert answer.allowed
        assert [
            (one.policy_id, one.decision, one.remaining_requests) for one in answer.policies
        ] == [("l", "allow", left), ("s", "shadow_deny", 0), ("u", "allow", 0)]
    limiter.close()


def test_of_usage_that_cannot_be_written_the_latest_is_kept_and_the_rest_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage_writer, "MAX_ROWS", 2)
    usage = Usage()
    desk = Desk(policy(scope_type="user", scope_id="*"), usage=usage)
    usage.unreachable = True
    for user in "abc":
        desk.check(user_id=user)
        with pytest.raises(ServiceUnavailable):
            desk.limiter.flush_usage()
    usage.unreachable = False
    desk.limiter.flush_usage()
    assert [row.window.scope_id for row in usage.rows] == ["b", "c"]
    assert [(one.event, one.fields) for one in told(caplog)] == [("usage_given_up", {"rows": 1})]


def test_usage_that_could_not_be_written_is_written_later() -> None:
    usage = Usage()
    desk = Desk(policy(), usage=usage)
    usage.unreachable = True
    desk.check()
    with pytest.raises(ServiceUnavailable):
        desk.limiter.flush_usage()
    desk.check()
    usage.unreachable = False
    desk.limiter.flush_usage()
    desk.limiter.flush_usage()
    assert sum(row.window.checks for row in usage.rows) == 2


def test_usage_is_written_although_the_policies_cannot_be_refreshed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(housekeeping, "_REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(housekeeping, "_FLUSH_SECONDS", 0.001)
    usage = Usage()
    desk = Desk(policy(), usage=usage)
    desk.check()
    desk.policies.unreachable = True
    desk.limiter.start()
    wait_until(lambda: bool(usage.rows))
    desk.limiter.close()


def test_usage_of_many_that_is_being_written_holds_up_no_changed_policy_and_nobody_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(housekeeping, "_REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(housekeeping, "_FLUSH_SECONDS", 0.001)
    monkeypatch.setattr(usage_writer, "_FLUSH_ROWS", 1)
    monkeypatch.setattr(housekeeping, "_FLUSH_PAUSE_SECONDS", 3600.0)
    usage = Usage()
    of_all, of_each = policy("a"), policy("u", scope_type="user", scope_id="*")
    desk = Desk(of_each, of_all, usage=usage)
    for user in "abc":
        desk.check(user_id=user)
    desk.limiter.start()
    wait_until(lambda: bool(usage.rows))  # and an hour until the next is
    desk.policies.put(of_each, policy("a", limit_value=5))
    wait_until(lambda: desk.check(0).limit_value == 5)
    asking = threading.Thread(target=desk.limiter.flush_usage, args=("a",))
    asking.start()
    wait_until(lambda: sum(row.policy_id == "a" for row in usage.rows) == 2)
    desk.limiter.close()
    asking.join()
    assert sorted(row.window.scope_id for row in usage.rows if row.policy_id == "u") == [*"abc"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_counters_that_nobody_asks_for_any_more_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    monkeypatch.setattr(housekeeping, "_REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(housekeeping, "_SWEEP_EVERY", 1)
    here = MemoryCounters()
    clock = ManualClock(NOON)
    if elsewhere:  # they cannot be reached, so those here stand in
        counters = RedisCounters(f"redis://127.0.0.1:{free_port()}")
        sweeping = Limiter(Policies(policy()), counters, clock, stand_in=here)
    else:
        sweeping = Limiter(Policies(policy()), here, clock)
    sweeping.check(request(), TENANT, NOON)
    assert len(here) == 1
    clock.advance(hours=1)
    sweeping.start()
    wait_until(lambda: len(here) == 0)
    sweeping.close()

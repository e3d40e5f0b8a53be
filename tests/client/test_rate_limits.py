"""Rate limits mean the same in process and against a server, and as `fiscus.limits` over them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from fiscus import (
    AsyncClient,
    Client,
    Conflict,
    Fiscus,
    NotFound,
    PayloadTooLarge,
    RateLimitViolated,
    ServiceUnavailable,
    ValidationError,
)
from fiscus.limits import limit
from fiscus.ratelimits.calls import PolicyView, RateLimitBatchAnswer, RateLimitCheckAnswer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.apis import Bench, RunningServer

pytestmark = pytest.mark.anyio

POLICY: dict[str, Any] = {
    "scope_type": "user",
    "scope_id": "*",
    "resource_type": "api",
    "limit_value": 2,
    "time_window_seconds": 60,
}
CALL: dict[str, Any] = {"resource_type": "api", "user": "u-17"}


@pytest.mark.parametrize("given", ["x", True, b"1"], ids=repr)
async def test_a_patience_that_is_no_number_is_told(bench: Bench, given: Any) -> None:
    with pytest.raises(ValidationError, match="patience_seconds is not a number") as told:
        await bench.api.check_rate_limit(**CALL, patience_seconds=given)
    assert told.value.field == "patience_seconds"


@pytest.mark.parametrize("given", [0, -1, float("nan")], ids=repr)
async def test_a_patience_for_no_time_is_told(bench: Bench, given: float) -> None:
    with pytest.raises(ValidationError, match="patience_seconds must be more than 0") as told:
        await bench.api.check_rate_limit(**CALL, patience_seconds=given)
    assert told.value.field == "patience_seconds"


async def test_a_policy_admits_its_count_and_a_denial_is_an_answer(bench: Bench) -> None:
    policy = await bench.api.create_rate_limit(**POLICY, burst_capacity=1)
    assert type(policy) is PolicyView
    assert (policy.effective_limit, policy.tenant_id) == (2, bench.tenant)
    answers = [await bench.api.check_rate_limit(**CALL) for _ in range(4)]
    assert type(answers[0]) is RateLimitCheckAnswer
    assert [one.allowed for one in answers] == [True, True, True, False]
    assert [one.remaining_requests for one in answers] == [2, 1, 0, 0]
    assert (answers[3].policy_id, answers[3].retry_after) == (policy.policy_id, 30)
    assert answers[3].reset_time == bench.clock.now() + timedelta(seconds=90)
    assert (await bench.api.check_rate_limit(**{**CALL, "user": "u-18"})).allowed
    assert (await bench.api.check_rate_limit(resource_type="other")).policy_id is None


async def test_checks_of_a_batch_are_decided_in_order(bench: Bench) -> None:
    await bench.api.create_rate_limit(**POLICY)
    answer = await bench.api.check_rate_limits(
        [{**CALL, "request_count": 2}, CALL, {**CALL, "resource_key": "other"}]
    )
    assert type(answer) is RateLimitBatchAnswer
    assert not answer.allowed
    assert [one.allowed for one in answer.results] == [True, False, True]


async def test_a_batch_is_of_500_at_most(bench: Bench) -> None:
    assert len((await bench.api.check_rate_limits([CALL] * 500)).results) == 500
    with pytest.raises(PayloadTooLarge) as caught:
        await bench.api.check_rate_limits([CALL] * 501)
    assert caught.value.details == {"field": "checks", "maximum": 500}


async def test_a_charge_is_corrected(bench: Bench) -> None:
    await bench.api.create_rate_limit(**{**POLICY, "limit_value": 1000})
    await bench.api.check_rate_limit(**CALL, request_count=900)
    answer = await bench.api.adjust_rate_limit(**CALL, request_count=-600)
    assert answer.remaining_requests == 700


async def test_a_priority_scales_the_ceiling(bench: Bench) -> None:
    await bench.api.create_rate_limit(**POLICY)
    low = await bench.api.check_rate_limit(**CALL, priority="low", request_count=2)
    assert not low.allowed
    assert (await bench.api.check_rate_limit(**CALL)).remaining_requests == 1


async def test_creating_twice_with_one_key_makes_one_policy(bench: Bench) -> None:
    one = await bench.api.create_rate_limit(**POLICY, idempotency_key="once")
    again = await bench.api.create_rate_limit(**POLICY, idempotency_key="once")
    assert one.policy_id == again.policy_id


async def test_a_policy_is_read_listed_changed_and_ended(bench: Bench) -> None:
    overrides = {"time_of_day": [{"from_hour": 0, "to_hour": 6, "multiplier": 2}]}
    made = await bench.api.create_rate_limit(**POLICY, burst_capacity=1, overrides=overrides)
    assert _alone(await bench.api.get_rate_limit(made.policy_id)) == _alone(made)
    other = await bench.api.create_rate_limit(**{**POLICY, "resource_type": "export"}, shadow=True)
    page = await bench.api.rate_limits()
    assert type(page.items[0]) is PolicyView
    assert [one.policy_id for one in page.items] == [other.policy_id, made.policy_id]
    first = await bench.api.rate_limits(page_size=1)
    second = await bench.api.rate_limits(page_token=first.pagination.next_page_token)
    assert [first.items, second.items] == [page.items[:1], page.items[1:]]
    assert (await bench.api.rate_limits(shadow=False, scope_type="user")).items == page.items[1:]

    assert [(await bench.api.check_rate_limit(**CALL)).allowed for _ in range(4)][2:] == [1, 0]
    changed = await bench.api.update_rate_limit(made.policy_id, limit_value=4)
    assert (changed.version, changed.limit_value, changed.effective_limit) == (2, 4, 4)
    assert (changed.burst_capacity, changed.overrides) == (1, made.overrides)
    answers = [(await bench.api.check_rate_limit(**CALL)).allowed for _ in range(3)]
    assert answers == [True, True, False]  # what was used stays used
    with pytest.raises(Conflict):
        await bench.api.update_rate_limit(made.policy_id, version=1, limit_value=5)

    with pytest.raises(Conflict, match="in use"):
        await bench.api.delete_rate_limit(made.policy_id)
    await bench.api.delete_rate_limit(made.policy_id, force=True)
    assert (await bench.api.check_rate_limit(**CALL)).policy_id is None
    with pytest.raises(NotFound):
        await bench.api.get_rate_limit(made.policy_id)
    await bench.api.delete_rate_limit(other.policy_id)
    assert (await bench.api.rate_limits()).items == []


async def test_a_window_takes_the_place_of_a_calendar_and_the_other_way_round(
    bench: Bench,
) -> None:
    made = await bench.api.create_rate_limit(**POLICY, algorithm="fixed_window")
    daily = await bench.api.update_rate_limit(made.policy_id, calendar="day")
    assert (daily.calendar, daily.time_window_seconds) == ("day", 86_400)
    more = await bench.api.update_rate_limit(made.policy_id, limit_value=9)
    assert (more.calendar, more.limit_value) == ("day", 9)
    again = await bench.api.update_rate_limit(made.policy_id, time_window_seconds=60)
    assert (again.calendar, again.time_window_seconds) == (None, 60)


async def test_one_counter_of_a_policy_is_reset_or_all_of_them(bench: Bench) -> None:
    policy = await bench.api.create_rate_limit(**{**POLICY, "limit_value": 1})

    async def allowed() -> list[bool]:
        return [
            (await bench.api.check_rate_limit(**{**CALL, "user": user})).allowed for user in "ab"
        ]

    assert [await allowed(), await allowed()] == [[True, True], [False, False]]
    await bench.api.reset_rate_limit(policy.policy_id, scope_id="a")
    assert await allowed() == [True, False]
    with pytest.raises(ValidationError, match="a counter for every id") as told:
        await bench.api.reset_rate_limit(policy.policy_id, resource_key="x")
    assert told.value.field == "scope_id"
    await bench.api.reset_rate_limit(policy.policy_id)
    assert await allowed() == [True, True]


async def test_a_policy_of_another_tenant_is_reached_by_naming_it(bench: Bench) -> None:
    other = f"{bench.tenant}-2"
    policy_id = (await bench.api.create_rate_limit(**POLICY, tenant=other)).policy_id
    with pytest.raises(NotFound):
        await bench.api.update_rate_limit(policy_id, limit_value=3)
    assert (await bench.api.rate_limits()).items == []
    [found] = (await bench.api.rate_limits(tenant=other)).items
    assert found == _alone(await bench.api.get_rate_limit(policy_id, tenant=other))
    changed = await bench.api.update_rate_limit(policy_id, tenant=other, limit_value=3)
    assert (changed.tenant_id, changed.limit_value) == (other, 3)
    await bench.api.reset_rate_limit(policy_id, tenant=other)
    await bench.api.delete_rate_limit(policy_id, tenant=other, force=True)


def _alone(policy: PolicyView) -> PolicyView:
    """Without what is of the answer that told it."""
    return replace(policy, correlation_id=None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"resource_type": "api", "request_count": -1}, "request_count"),
        ({"resource_type": "api", "resource_key": ""}, "resource_key"),
        ({"resource_type": "api", "priority": "urgent"}, "priority"),
        ({"resource_type": "api", "estimate": 1}, "estimate"),
    ],
)
async def test_a_wrong_field_is_named(bench: Bench, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        await bench.api.check_rate_limit(**fields)
    assert field in raised.value.message


# -- fiscus.limits over a client


async def test_a_limit_over_a_client_is_what_its_policies_say(
    server: RunningServer, tenant: str
) -> None:
    with Client(server.url, server.key, tenant=tenant) as client:
        policy = client.create_rate_limit(**{**POLICY, "scope_type": "project"})
        client.create_rate_limit(
            **{**POLICY, "scope_type": "tenant", "limit_value": 1, "shadow": True}
        )
        api = limit(resource="api", client=client, project="search")
        first = api.hit("a")
        assert (first.allowed, first.remaining, first.limit) == (True, 1, 2)
        assert first.name == policy.policy_id
        assert first.reset_time == server.clock.now() + timedelta(seconds=30)
        assert dict(first.headers())["X-RateLimit-Remaining"] == "1"
        denied = [api.hit("a"), api.hit("a")][1]
        assert not denied
        assert (denied.retry_after_seconds, denied.retry_after_ms) == (30, 30_000)
        headers = dict(denied.headers())
        assert headers["RateLimit-Policy"] == f'"{policy.policy_id}";q=2;w=60'
        assert headers["RateLimit"] == f'"{policy.policy_id}";r=0;t=30'
        assert headers["Retry-After"] == "30"
        assert api.adjust("a", -1).remaining == 1
        assert api.look("b").remaining == 2
        assert [api.hit(key).remaining for key in ("x" * 2000, "x" * 2001, "x" * 2000)] == [1, 1, 0]
        with pytest.raises(ValidationError, match="reset by policy"):
            api.reset("a")
        nothing = limit(resource="other", client=client).hit("a")
        assert nothing.allowed
        assert (nothing.remaining, nothing.limit, nothing.reset_time) == (None, None, None)
        assert nothing.headers() == []


async def test_of_two_policies_that_deny_for_nearly_as_long_the_longer_one_decides(
    server: RunningServer, tenant: str
) -> None:
    with Client(server.url, server.key, tenant=tenant) as client:
        windows = (11, 12)  # a wait is told to the millisecond of the one that decides only
        made = [
            client.create_rate_limit(
                **{**POLICY, "scope_type": kind, "limit_value": 10, "time_window_seconds": seconds}
            )
            for kind, seconds in zip(("user", "project"), windows, strict=True)
        ]
        api = limit(resource="api", client=client, user="u-17", project="search")
        assert api.hit("a", 10)
        denied = api.hit("a")
        assert (denied.retry_after_ms, denied.retry_after_seconds) == (1200, 2)
        assert (denied.name, denied.limit) == (made[1].policy_id, 10)


async def test_a_function_is_limited_by_a_server(server: RunningServer, tenant: str) -> None:
    async with AsyncClient(server.url, server.key, tenant=tenant) as client:
        await client.create_rate_limit(**{**POLICY, "scope_type": "tenant", "scope_id": tenant})

        @limit(resource="api", client=client, key=lambda user: user)
        async def f(user: str) -> str:
            return user

        assert [await f("a"), await f("a"), await f("b")] == ["a", "a", "b"]
        with pytest.raises(RateLimitViolated):
            await f("a")
        api = limit(resource="api", client=client)
        assert (await api.adjust_async("a", -1)).remaining == 1
        with pytest.raises(TypeError, match="_async"):
            api.hit("a")


async def test_a_limit_over_the_engine_in_process_works_in_a_loop(
    embedded: tuple[Fiscus, Any], tenant: str
) -> None:
    fiscus = Fiscus(embedded[0]._backend, tenant)
    fiscus.create_rate_limit(**POLICY)
    api = limit(resource="api", client=fiscus, user="u-17")
    assert (await api.hit_async("a", 2)).remaining == 0
    assert not await api.hit_async("a")
    assert (await api.adjust_async("a", -2)).remaining == 2


@pytest.mark.parametrize(("policy", "allowed"), [("allow", True), ("deny", False)])
async def test_without_the_server_the_policy_decides(policy: Any, allowed: bool) -> None:
    with Client("http://127.0.0.1:9", "key") as client:
        api = limit(resource="api", client=client, on_store_failure=policy, timeout_seconds=0.2)
        result = api.hit("a")
        assert (result.allowed, result.degraded) == (allowed, True)
        headers = [] if allowed else [("Retry-After", "1")]
        assert result.headers() == headers
        with pytest.raises(ServiceUnavailable):
            client.check_rate_limit(resource_type="api", patience_seconds=0.1)
    async with AsyncClient("http://127.0.0.1:9", "key") as client:
        api = limit(resource="api", client=client, on_store_failure=policy, timeout_seconds=0.2)
        assert (await api.hit_async("a")).allowed is allowed


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        ((), {}),
        (("5/minute",), {"resource": "api"}),
        ((), {"resource": "api", "on_store_failure": "local"}),
        ((), {"resource": 5}),
        ((), {"resource": "api", "counters": "redis://127.0.0.1"}),
        ((), {"resource": "api", "name": "api"}),
        ((), {"resource": "api", "now_us": lambda: 0}),
    ],
)
async def test_arguments_that_make_no_sense_with_a_client_are_refused(
    positional: Any, named: Any
) -> None:
    with Client("http://127.0.0.1:9", "key") as client, pytest.raises(ValidationError):
        limit(*positional, client=client, **named)


def test_a_second_program_on_the_same_data_may_not_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would admit the whole limit; budgets they may share."""
    monkeypatch.setattr("fiscus.engine._CLAIM_SECONDS", 0)
    check: dict[str, Any] = {"resource_type": "llm", "user": "ada"}
    with Fiscus.open(data_dir=tmp_path) as one, Fiscus.open(data_dir=tmp_path) as other:
        assert one.check_rate_limit(**check).allowed
        with pytest.raises(Conflict, match="Another Fiscus, in this or another process, counts"):
            other.check_rate_limit(**check)
        assert other.check(resource_type="llm", estimated_cost=1).allowed

"""Retries against a server that misbehaves: never charged twice, within bounds, plain errors."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

import fiscus
from fiscus import (
    AsyncClient,
    Client,
    InternalError,
    RateLimitViolated,
    ServiceUnavailable,
    ValidationError,
)
from fiscus.client.problems import error_of
from fiscus.client.retries import Attempts, RetryPolicy
from tests.client.apis import BUDGET, OPERATION, Awaited, Bench, RunningServer, open_async
from tests.client.faulty import (
    CUT,
    CUT_HALF_WAY,
    DROP,
    GARBAGE,
    TRICKLE,
    Answer,
    Faulty,
    faulty_server,
    problem,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from fiscus.client.fields import RecordFields

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def faulty(server: RunningServer) -> Iterator[Faulty]:
    with faulty_server(server.url) as faulty:
        yield faulty


@pytest.fixture(params=["client", "async_client"])
async def shaky(
    request: pytest.FixtureRequest, server: RunningServer, faulty: Faulty, tenant: str
) -> AsyncGenerator[Bench]:
    """A client whose server is the faulty one."""
    faulty.steps.clear()
    faulty.seen.clear()
    through = RunningServer(faulty.url, server.key, server.engine, server.clock)
    if request.param == "client":
        with Client(through.url, through.key, tenant=tenant) as client:
            yield Bench(Awaited(client), tenant, server.clock)
    else:
        async with open_async(through, tenant) as client:
            yield Bench(client, tenant, server.clock)


FAULTS = [
    DROP,
    CUT,
    CUT_HALF_WAY,
    problem(503, "SERVICE_UNAVAILABLE", retry_after="0"),
    Answer(502, {}),
    Answer(504, {}),
    problem(429, "RATE_LIMIT_VIOLATED", retry_after="0"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_failed_try_is_repeated_with_its_key_and_charges_once(
    shaky: Bench, faulty: Faulty, fault: Any
) -> None:
    faulty.steps.extend([fault, fault])
    await shaky.api.record(**OPERATION, cost_amount="0.25")
    keys = [one.key for one in faulty.of("/record")]
    assert len(keys) == 3
    assert keys[0] is not None
    assert len(set(keys)) == 1
    assert await shaky.costs() == [Decimal("0.25")]


async def test_every_call_has_a_key_of_its_own(shaky: Bench, faulty: Faulty) -> None:
    for _ in range(2):
        await shaky.api.record(**OPERATION, cost_amount=1)
    assert len({one.key for one in faulty.of("/record")}) == 2
    assert await shaky.costs() == [1, 1]


async def test_a_whole_block_survives_cut_connections(shaky: Bench, faulty: Faulty) -> None:
    budget = await shaky.budget()
    faulty.steps.append(CUT)
    async with shaky.api.reserve(**OPERATION, estimate="0.5") as r:
        assert await shaky.use(budget) == (0, Decimal("0.5"))
        faulty.steps.append(CUT)
        settled = await r.settle("0.4")
    assert await shaky.use(budget) == (Decimal("0.4"), 0)
    assert (await shaky.api.records()).items[0].record_id == settled.record_id


async def test_a_budget_is_made_once(shaky: Bench, faulty: Faulty) -> None:
    faulty.steps.append(CUT)
    await shaky.budget()
    assert (await shaky.api.budgets()).pagination.total_count == 1


async def test_a_change_that_may_have_happened_is_not_repeated(
    shaky: Bench, faulty: Faulty
) -> None:
    budget = await shaky.budget()
    faulty.steps.extend(["pass", CUT])
    with pytest.raises(ServiceUnavailable):
        await shaky.api.update_budget(budget.budget_id, budget_amount=2)
    assert (await shaky.api.get_budget(budget.budget_id)).budget_amount == 2
    faulty.steps.append(CUT)
    with pytest.raises(ServiceUnavailable):
        await shaky.api.delete_budget(budget.budget_id)
    assert len([one for one in faulty.seen if one.method in {"PUT", "DELETE"}]) == 2


async def test_a_change_of_a_rate_limit_or_a_quota_that_may_have_happened_is_not_repeated(
    shaky: Bench, faulty: Faulty
) -> None:
    of = {"scope_type": "user", "scope_id": "ada", "resource_type": "api"}
    policy = await shaky.api.create_rate_limit(**of, limit_value=1, time_window_seconds=60)
    quota = await shaky.api.allocate_quota(**of, allocated_amount=1)
    policy_id, quota_id = policy.policy_id, quota.quota_id
    before = len(faulty.seen)
    for steps, call in (
        (["pass", CUT], shaky.api.update_rate_limit(policy_id, limit_value=2)),
        ([CUT], shaky.api.reset_rate_limit(policy_id)),
        ([CUT], shaky.api.delete_rate_limit(policy_id)),
        (["pass", CUT], shaky.api.update_quota(quota_id, allocated_amount=2)),
        ([CUT], shaky.api.delete_quota(quota_id)),
    ):
        faulty.steps.extend(steps)
        with pytest.raises(ServiceUnavailable):
            await call
    assert len(faulty.seen) - before == 7


async def test_a_change_that_surely_did_not_happen_is_repeated(
    shaky: Bench, faulty: Faulty
) -> None:
    budget = await shaky.budget()
    faulty.steps.extend(["pass", problem(503, "SERVICE_UNAVAILABLE", retry_after="0")])
    changed = await shaky.api.update_budget(budget.budget_id, budget_amount=2)
    assert changed.budget_amount == 2


async def test_a_change_that_is_said_not_to_be_retriable_is_not_repeated(
    shaky: Bench, faulty: Faulty
) -> None:
    faulty.steps.append(problem(503, "SERVICE_UNAVAILABLE", retriable=False))
    with pytest.raises(ServiceUnavailable) as caught:
        await shaky.api.adjust_rate_limit(resource_type="llm", request_count=-50)
    assert not caught.value.retriable
    assert len(faulty.of("/adjust")) == 1
    faulty.steps.append(problem(503, "SERVICE_UNAVAILABLE", retry_after="0", retriable=True))
    await shaky.api.adjust_rate_limit(resource_type="llm", request_count=-50)
    assert len(faulty.of("/adjust")) == 3


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(400, "VALIDATION_ERROR", details={"field": "tags"}), fiscus.ValidationError),
        (problem(401, "UNAUTHORIZED"), fiscus.Unauthorized),
        (problem(402, "BUDGET_EXCEEDED"), fiscus.BudgetExceeded),
        (problem(403, "FORBIDDEN"), fiscus.Forbidden),
        (problem(404, "NOT_FOUND"), fiscus.NotFound),
        (problem(409, "CONFLICT"), fiscus.Conflict),
        (problem(409, "IDEMPOTENCY_CONFLICT"), fiscus.IdempotencyConflict),
        (problem(413, "PAYLOAD_TOO_LARGE"), fiscus.PayloadTooLarge),
        (problem(422, "COST_CALCULATION_ERROR"), fiscus.CostCalculationError),
        (problem(500, "INTERNAL_ERROR"), fiscus.InternalError),
        (Answer(404, {}), fiscus.NotFound),
        (Answer(418, {}), fiscus.InternalError),
        (Answer(302, {"Location": "http://127.0.0.1:9/"}), fiscus.InternalError),
        (GARBAGE, fiscus.InternalError),
    ],
    ids=str,
)
async def test_any_other_answer_is_an_error_at_once(
    shaky: Bench, faulty: Faulty, answer: Any, kind: type[fiscus.FiscusError]
) -> None:
    faulty.steps.append(answer)
    with pytest.raises(kind) as raised:
        await shaky.api.record(**OPERATION, cost_amount=1)
    assert type(raised.value) is kind
    assert len(faulty.seen) == 1


async def test_an_error_carries_what_the_server_said(shaky: Bench, faulty: Faulty) -> None:
    faulty.steps.append(
        problem(
            400,
            "VALIDATION_ERROR",
            details={"field": "tags"},
            correlation_id="c-1",
            suggested_action="Send fewer.",
        )
    )
    with pytest.raises(ValidationError, match="said VALIDATION_ERROR") as raised:
        await shaky.api.record(**OPERATION, cost_amount=1)
    error = raised.value
    assert (error.field, error.correlation_id) == ("tags", "c-1")
    assert error.suggested_action == "Give fewer."


async def test_a_real_error_has_its_correlation_id(shaky: Bench) -> None:
    with pytest.raises(fiscus.NotFound) as raised:
        await shaky.api.get_tenant("nobody")
    assert raised.value.correlation_id


def test_tries_end(server: RunningServer, faulty: Faulty) -> None:
    faulty.steps.clear()
    faulty.seen.clear()
    faulty.steps.extend([DROP] * 3)
    with (
        Client(faulty.url, server.key, max_retries=2) as client,
        pytest.raises(ServiceUnavailable, match="No answer from http") as raised,
    ):
        client.record(**OPERATION, cost_amount=1)
    assert raised.value.retriable
    assert raised.value.__cause__ is not None
    assert len(faulty.seen) == 3


async def test_an_answer_that_comes_byte_by_byte_takes_no_longer_than_it_may(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    bounds = {"timeout_seconds": 0.4, "total_seconds": 1, "max_retries": 9}
    faulty.steps.clear()
    faulty.steps.extend([TRICKLE] * 10)
    through = RunningServer(faulty.url, server.key, server.engine, server.clock)
    with (
        Client(faulty.url, server.key, tenant=tenant, **bounds) as client,
        pytest.raises(ServiceUnavailable),  # the whole answers would come, and all be taken
    ):
        client.check(**OPERATION, estimate=1)
    async with open_async(through, tenant, **bounds) as client:
        with pytest.raises(ServiceUnavailable):
            await client.check(**OPERATION, estimate=1)
    faulty.steps.clear()


def test_the_steps_of_a_try_share_its_time() -> None:
    tags = {str(number): "x" * 200 for number in range(40)}  # more than sockets take unread
    costs: list[RecordFields] = [{"resource_type": "llm", "cost_amount": 1, "tags": tags}] * 1000
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as asked, suppress(OSError):
                time.sleep(0.3)  # for the client's time-out, which is of the real clock
                head = b"".join(iter(asked.readline, b"\r\n")).lower()
                asked.read(int(head.partition(b"content-length: ")[2].split()[0]))
                time.sleep(0.3)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with (
            ThreadPoolExecutor(1) as threads,
            Client(url, "k", timeout_seconds=0.4, max_retries=0) as client,
        ):
            threads.submit(serve)
            with pytest.raises(ServiceUnavailable):  # each step by itself would be in time
                client.record_batch(costs)


async def test_a_question_how_the_server_is_takes_no_longer_than_all_tries_may() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # and nobody answers
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        with Client(url, "k", total_seconds=0.05) as client, pytest.raises(ServiceUnavailable):
            client.health()
        async with AsyncClient(url, "k", total_seconds=0.05) as client:
            with pytest.raises(ServiceUnavailable):
                await client.health()
        assert time.monotonic() - began < 5


def test_a_wait_longer_than_the_bound_is_left_to_the_caller(
    server: RunningServer, faulty: Faulty
) -> None:
    faulty.steps.clear()
    faulty.seen.clear()
    faulty.steps.append(problem(429, "RATE_LIMIT_VIOLATED", retry_after="3600"))
    with (
        Client(faulty.url, server.key) as client,
        pytest.raises(RateLimitViolated) as raised,
    ):
        client.record(**OPERATION, cost_amount=1)
    assert raised.value.retry_after_seconds == 3600
    assert raised.value.answer is None
    assert len(faulty.seen) == 1


def _nobody_there() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Client(_nobody_there(), "k", max_retries=1) as client:
        with pytest.raises(ServiceUnavailable):
            client.check(**OPERATION, estimate=1)
        with pytest.raises(ServiceUnavailable):
            client.health()
        with pytest.raises(ServiceUnavailable), client.reserve(**OPERATION, estimate=1):
            raise AssertionError("the block ran")


def test_an_unreachable_server_can_be_told_to_allow(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    faulty.steps.clear()
    faulty.steps.append(DROP)
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        with client.reserve(**OPERATION, estimate=1, on_unreachable="allow") as r:
            assert r.degraded
            assert r.reservation_id is None
            with client.reserve(**OPERATION, estimate="0.5") as inner:
                assert inner.reservation_id is not None  # nothing is held that it could draw from
                inner.settle("0.25")
            first = r.settle("0.25", usage={"tokens": 3}, tags={"a": "b"}, service_name="s")
            assert r.settle("0.25") == first
        record, nested = client.records().items
    assert (record.cost_amount, nested.cost_amount) == (Decimal("0.25"), Decimal("0.25"))
    assert (record.project_id, record.usage, record.tags) == ("search", {"tokens": 3}, {"a": "b"})
    assert record.service_name == "s"


def test_a_block_allowed_without_a_decision_lends_nothing(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    faulty.steps.clear()
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        client.create_budget(**BUDGET)
        faulty.steps.append(DROP)
        with (
            client.reserve(**OPERATION, estimate=100, on_unreachable="allow"),
            pytest.raises(fiscus.BudgetExceeded),
            client.reserve(**OPERATION, estimate=50),
        ):
            raise AssertionError("the block ran")


def test_a_cost_of_unknown_outcome_is_recorded_again_as_it_was_at_first(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    faulty.steps.clear()
    faulty.steps.append(DROP)
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        with client.reserve(**OPERATION, estimate=1, on_unreachable="allow") as r:
            faulty.steps.append(CUT)
            with pytest.raises(ServiceUnavailable):
                r.settle("0.25", usage={"tokens": 3})
            assert r.settle("0.25").charged == Decimal("0.25")
        [record] = client.records().items
    assert record.usage == {"tokens": 3}


def test_allowing_when_unreachable_is_no_way_around_a_refusal(
    server: RunningServer, tenant: str
) -> None:
    with Client(server.url, server.key, tenant=tenant) as client:
        client.put_tenant(tenant, require_budget=True)
        with (
            pytest.raises(fiscus.BudgetExceeded),
            client.reserve(**OPERATION, estimate=1, on_unreachable="allow"),
        ):
            raise AssertionError("the block ran")


@pytest.mark.parametrize("lost", [CUT, CUT_HALF_WAY, GARBAGE])
@pytest.mark.parametrize("on_unreachable", ["raise", "allow"])
def test_what_a_lost_answer_took_is_given_back(
    server: RunningServer, faulty: Faulty, tenant: str, lost: Any, on_unreachable: Any
) -> None:
    ran = False
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        budget = client.create_budget(**BUDGET)
        quota = client.allocate_quota(
            scope_type="project", scope_id="search", resource_type="gpu", allocated_amount=5
        )
        faulty.steps.append(lost)
        with (
            suppress(ServiceUnavailable, InternalError),
            client.reserve(**OPERATION, estimate=1, on_unreachable=on_unreachable),
        ):
            ran = True
        assert ran is (on_unreachable == "allow" and lost is not GARBAGE)
        faulty.steps.append(lost)
        with (
            pytest.raises((ServiceUnavailable, InternalError)),
            client.quota("gpu", 3, project="search"),
        ):
            raise AssertionError("the block ran")
        assert not faulty.steps
        (period,) = client.utilization(budget.budget_id).periods
        assert (period.spent, period.reserved) == (0, 0)
        assert client.get_quota(quota.quota_id).used_amount == 0


@pytest.mark.parametrize(
    "last",
    [Answer(502, {}), problem(503, "SERVICE_UNAVAILABLE"), problem(429, "RATE_LIMIT_VIOLATED")],
)
def test_what_an_earlier_try_took_is_given_back(
    server: RunningServer, faulty: Faulty, tenant: str, last: Answer
) -> None:
    with Client(faulty.url, server.key, tenant=tenant, max_retries=1) as client:
        quota = client.allocate_quota(
            scope_type="project", scope_id="search", resource_type="gpu", allocated_amount=5
        )
        faulty.steps.extend([CUT, last])
        with (
            pytest.raises((ServiceUnavailable, RateLimitViolated)) as caught,
            client.quota("gpu", 3, project="search"),
        ):
            raise AssertionError("the block ran")
        assert caught.value.details["outcome"] == "unknown"
        assert client.get_quota(quota.quota_id).used_amount == 0


def test_a_settle_of_unknown_outcome_is_not_undone_and_can_be_repeated(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    faulty.steps.clear()
    faulty.seen.clear()
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        reservation = client.reserve(**OPERATION, estimate=1)

        def lose_the_answer() -> None:
            with reservation as r:
                faulty.steps.append(CUT)
                r.settle("0.5")

        with pytest.raises(ServiceUnavailable):
            lose_the_answer()
        assert not faulty.of("/release")
        assert len(faulty.of("/settle")) == 1
        answer = reservation.settle("0.5")
        assert [one.record_id for one in client.records().items] == [answer.record_id]


def test_a_settle_that_has_to_wait_keeps_the_hold_and_can_be_repeated(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    faulty.steps.clear()
    faulty.seen.clear()
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        reservation = client.reserve(**OPERATION, estimate=1)

        def settle_at_the_limit() -> None:
            with reservation as r:
                faulty.steps.append(problem(429, "RATE_LIMIT_VIOLATED", retriable=True))
                r.settle("0.5")

        with pytest.raises(RateLimitViolated):
            settle_at_the_limit()
        assert not faulty.of("/release")
        answer = reservation.settle("0.5")
        assert answer.flags == []
        assert [one.record_id for one in client.records().items] == [answer.record_id]


async def test_a_success_of_something_else_has_deleted_nothing(
    shaky: Bench, faulty: Faulty
) -> None:
    budget = await shaky.api.create_budget(**BUDGET)
    for delete in (
        lambda: shaky.api.delete_budget(budget.budget_id),
        lambda: shaky.api.delete_quota(budget.budget_id),
        lambda: shaky.api.delete_rate_limit(budget.budget_id),
        lambda: shaky.api.reset_rate_limit(budget.budget_id),
    ):
        faulty.steps.append(GARBAGE)
        with pytest.raises(InternalError, match="not one of Fiscus"):
            await delete()
    assert (await shaky.api.get_budget(budget.budget_id)).version == budget.version


def test_a_nested_cost_that_may_be_recorded_by_itself_is_in_no_other_record(
    server: RunningServer, faulty: Faulty, tenant: str
) -> None:
    faulty.steps.clear()
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:
        with (
            client.reserve(**OPERATION, estimate=1) as outer,
            client.reserve(**OPERATION, estimate="0.5") as inner,
        ):
            faulty.steps.extend([DROP, CUT, problem(400, "VALIDATION_ERROR")])
            with pytest.raises(ServiceUnavailable):
                outer.settle("0.25")
            with pytest.raises(ServiceUnavailable):
                inner.settle("0.5")  # it was recorded: the enclosing one was being settled
            with pytest.raises(ValidationError):
                outer.settle("0.25")
            inner.settle("0.5")
            outer.settle("0.25")
        costs = [one.cost_amount for one in client.records().items]
    assert costs == [Decimal("0.25"), Decimal("0.5")]


def test_a_hold_that_cannot_be_given_back_expires_and_the_block_is_left_in_peace(
    server: RunningServer, faulty: Faulty, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    faulty.steps.clear()
    with (
        Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client,
        client.reserve(**OPERATION, estimate=1),
    ):
        faulty.steps.append(DROP)
    assert "is held until it expires" in caplog.text


def test_nested_costs_that_cannot_be_recorded_are_not_lost_in_silence(
    server: RunningServer, faulty: Faulty, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    faulty.steps.clear()
    with Client(faulty.url, server.key, tenant=tenant, max_retries=0) as client:

        def leave_with_a_nested_cost(error: Exception | None) -> None:
            with client.reserve(**OPERATION, estimate=1):
                with client.reserve(**OPERATION, estimate="0.5") as inner:
                    inner.settle("0.25")
                faulty.steps.append(DROP)
                if error is not None:
                    raise error

        with pytest.raises(ServiceUnavailable):
            leave_with_a_nested_cost(None)
        with pytest.raises(LookupError):
            leave_with_a_nested_cost(LookupError())
    assert "with 0.25 of nested operations" in caplog.text


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://x", "http://", "//host", "http://[::1"])
def test_an_url_that_is_no_address_is_named(url: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Client(url, "key")
    assert raised.value.field == "url"


@pytest.mark.parametrize("key", ["", "a b", "schlüssel", "x\r\nHost: y"])
def test_a_key_that_cannot_be_sent_is_named_and_not_shown(key: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Client("http://127.0.0.1:1", key)
    assert raised.value.field == "key"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_retries", -1),
        *(
            (name, value)
            for name in ("timeout_seconds", "total_seconds")
            for value in (-1, 0, float("nan"), float("inf"), 1e10, 10**400, 86_401)
        ),
    ],
)
def test_a_bound_that_is_none_is_named(kind: Any, name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=f"{name} must be") as raised:
        kind("http://127.0.0.1:1", "key", **{name: value})
    assert raised.value.field == name


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("user", ["me:secret", "secret", ":secret", "me%40x:secret"])
def test_a_url_that_would_replace_the_key_is_told_and_not_shown(kind: Any, user: str) -> None:
    with pytest.raises(ValidationError, match="user's name or password") as raised:
        kind(f"http://{user}@127.0.0.1:1", "key")
    assert raised.value.field == "url"
    assert "secret" not in str(vars(raised.value))


def test_a_health_answer_of_something_else_is_an_error(
    server: RunningServer, faulty: Faulty
) -> None:
    faulty.steps.clear()
    faulty.steps.extend([Answer(503, {}), GARBAGE])
    with Client(faulty.url, server.key) as client:
        for kind in (ServiceUnavailable, fiscus.InternalError):
            with pytest.raises(kind):
                client.health()


def test_the_base_path_may_be_part_of_the_url(server: RunningServer) -> None:
    with Client(f"{server.url}/budget/v1/", server.key) as client:
        assert client.health().status


# -- the pauses themselves, on a clock of numbers


def test_pauses_grow_and_end_by_count() -> None:
    attempts = Attempts(RetryPolicy(10, 3, 1000), started=0)
    pauses = [attempts.pause_seconds(0, None) for _ in range(4)]
    assert pauses[3] is None
    for pause, longest in zip(pauses[:3], (0.1, 0.2, 0.4), strict=True):
        assert pause is not None
        assert longest / 2 <= pause <= longest


def test_pauses_go_on_for_as_many_tries_as_there_are() -> None:
    attempts = Attempts(RetryPolicy(10, 10**6, 10**6), started=0)
    pauses = [attempts.pause_seconds(0, None) for _ in range(3000)]
    assert None not in pauses


def test_pauses_end_by_time_and_honour_retry_after() -> None:
    attempts = Attempts(RetryPolicy(10, 100, 30), started=100)
    assert attempts.timeout_seconds(100) == 10
    assert attempts.timeout_seconds(125) == 5
    pause = attempts.pause_seconds(101, 7)
    assert pause is not None
    assert 7 < pause <= 7.1
    assert attempts.pause_seconds(101, 29) is None
    assert attempts.pause_seconds(130, None) is None


NOON = "Wed, 21 Oct 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("0", 0),
        ("007", 7),
        ("9" * 5000, 10 * 365 * 86_400),
        ("Wed, 21 Oct 2026 12:00:04 GMT", 4),
        ("Wednesday, 21-Oct-26 12:00:04 GMT", 4),
        ("Wed Oct 21 12:00:04 2026", 4),
        ("Wed, 21 Oct 2026 11:59:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 10 * 365 * 86_400),
    ],
)
def test_retry_after_may_be_a_number_or_a_date_and_has_bounds(given: str, seconds: int) -> None:
    error = error_of(503, {"retry-after": given, "date": NOON}, b"")
    assert isinstance(error, ServiceUnavailable)
    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize(
    "given",
    [
        "",
        "soon",
        "-1",
        "1.5",
        "\u0664",
        "Wed, 99 Oct 2026 12:00:04 GMT",
        "Wed, 21 Oct 99999999999999 12:00:04 GMT",
        "Wed, 21 Oct 2026 12:00:04 +" + "9" * 30,
        " " * 9,
    ],
)
def test_a_retry_after_that_says_nothing_is_left_out(given: str) -> None:
    assert error_of(503, {"retry-after": given, "date": NOON}, b"").retry_after_seconds is None


def test_a_date_in_an_answer_without_its_own_is_left_out() -> None:
    assert error_of(503, {"retry-after": NOON}, b"").retry_after_seconds is None

"""Limits on Fiscus's own API: who is held to which, and what a refused call is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fiscus.access.model import Principal, Role
from fiscus.clock import to_us
from fiscus.errors import RateLimitViolated
from fiscus.http import api_limits
from fiscus.http.api_limits import ApiLimited, ApiLimits, Gate, Limits
from fiscus.http.limiting import LoopLimiter
from fiscus.priorities import PRIORITIES, Priority
from fiscus.ratelimits.port import Take
from fiscus.ratelimits.rules import Algorithm, Rule, make_rule
from tests.http.app_client import API, AppClient, open_app

pytestmark = pytest.mark.anyio

CHECK = {"resource_type": "llm", "estimated_cost": 1}
RECORD = {"resource_type": "llm", "cost_amount": 1}
STREAM = f"{API}/cost-tracking/record/stream"
NORMAL = PRIORITIES.index(Priority.NORMAL)


async def test_every_answer_tells_what_is_left(client: AppClient) -> None:
    key = client.make_key(Role.TENANT_ADMIN)
    for reply in (
        await client.get("/budgets", key=key),
        await client.get("/budgets/none", key=key),
        await client.post("/budgets/check", CHECK, key=key),
        await client.post("/budgets/check", {}, key=key),
    ):
        assert '"api-tenant";q=1000;w=60' in reply.headers["RateLimit-Policy"]
        assert '"api-key";q=5000;w=60' in reply.headers["RateLimit-Policy"]
        assert reply.headers["X-RateLimit-Limit"] == "1000"


async def test_a_tenant_past_its_limit_is_refused_and_told_when(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_tenant=2) as client:
        key, other = client.make_key(Role.AUDITOR), client.make_key(Role.TENANT_ADMIN)
        assert (await client.get("/budgets", key=key)).status_code == 200
        assert (await client.get("/budgets", key=other)).status_code == 200
        reply = await client.get("/budgets", key=key)
        assert reply.status_code == 429
        assert reply.headers.get_list("Retry-After") == ["30"]
        assert reply.headers["X-RateLimit-Remaining"] == "0"
        problem = reply.json()
        assert problem["error_code"] == "RATE_LIMIT_VIOLATED"
        assert problem["details"]["limit"] == "api-tenant"
        stranger = client.make_key(Role.AUDITOR, tenant_id="globex")
        assert (await client.get("/budgets", key=stranger)).status_code == 200
        client.clock.advance(seconds=30)
        assert (await client.get("/budgets", key=key)).status_code == 200


async def test_a_refused_call_charges_none_of_the_limits(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_api_key=1, api_limit_tenant=10) as client:
        key = client.make_key(Role.AUDITOR)
        await client.get("/budgets", key=key)
        for _ in range(5):
            assert (await client.get("/budgets", key=key)).status_code == 429
        other = client.make_key(Role.AUDITOR)
        reply = await client.get("/budgets", key=other)
        assert '"api-tenant";r=8' in reply.headers["RateLimit"]


async def test_a_call_that_two_limits_refuse_is_told_the_longer_wait(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_api_key=1, api_limit_tenant=2) as client:
        key, other = client.make_key(Role.AUDITOR), client.make_key(Role.AUDITOR)
        for one in (key, other):
            assert (await client.get("/budgets", key=one)).status_code == 200
        reply = await client.get("/budgets", key=key)
        assert reply.headers.get_list("Retry-After") == ["60"]  # 30 for the tenant's
        assert reply.json()["details"]["limit"] == "api-key"
        client.clock.advance(seconds=60)
        assert (await client.get("/budgets", key=key)).status_code == 200


async def test_a_limit_that_no_wait_helps_is_told_rather_than_one_that_waits(
    client: AppClient,
) -> None:
    used_up, too_small = (make_rule(Algorithm.TOKEN_BUCKET, limit, 60_000_000) for limit in (2, 1))
    limiter, now_us = LoopLimiter(client.engine.limiter), to_us(client.clock.now())

    def gate(names: tuple[str, ...], rules: tuple[Rule, ...]) -> Gate:
        return Gate(Limits(Take("acme", names, rules, 2, NORMAL), names), limiter, now_us)

    await gate(("api-tenant",), (used_up,)).admit()
    with pytest.raises(ApiLimited) as refused:
        await gate(("api-tenant", "api-key"), (used_up, too_small)).admit()
    assert refused.value.limit == "api-key"
    assert refused.value.retry_after_seconds is None


async def test_what_is_known_of_callers_is_bounded_and_the_oldest_goes_first(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_limits, "_MAX_CALLERS", 2)
    limits = ApiLimits(client.engine.settings, LoopLimiter(client.engine.limiter))
    callers = [Principal(f"u-{number}", "acme", frozenset()) for number in range(3)]
    found = [limits.gate(one, None, 0).limits for one in callers]
    assert [caller for caller, _ in limits._limits] == callers[1:]
    assert [limits.gate(one, None, 0).limits for one in callers] == found


async def test_users_of_one_name_in_two_tenants_have_limits_of_their_own(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_user=1) as client:
        limits = ApiLimits(client.engine.settings, LoopLimiter(client.engine.limiter))

        async def call(tenant_id: str) -> None:
            alice = Principal("alice", tenant_id, frozenset({Role.AUDITOR}))
            await limits.gate(alice, None, to_us(client.clock.now())).admit()

        await call("acme")
        with pytest.raises(RateLimitViolated):
            await call("acme")
        await call("globex")


async def test_service_keys_and_platform_admins_are_exempt_from_the_general_limits(
    data_dir: Path,
) -> None:
    async with open_app(data_dir, api_limit_tenant=1, api_limit_api_key=1) as client:
        key = client.make_key(Role.SERVICE)
        for _ in range(3):
            assert (await client.post("/budgets/check", CHECK, key=key)).status_code == 200
            assert (await client.get("/budgets")).status_code == 200


@pytest.mark.parametrize(
    ("setting", "path", "body", "name"),
    [
        ("budget_checks", "/budgets/check", CHECK, "api-budget-checks"),
        ("budget_checks", "/budgets/check/batch", {"checks": [CHECK] * 5}, "api-budget-checks"),
        ("cost_records", "/cost-tracking/record", RECORD, "api-cost-records"),
        (
            "rate_limit_checks",
            "/rate-limits/check",
            {"resource_type": "llm"},
            "api-rate-limit-checks",
        ),
    ],
)
async def test_each_kind_of_call_has_its_limit_also_for_service_keys(
    data_dir: Path, setting: str, path: str, body: Any, name: str
) -> None:
    async with open_app(data_dir, **{f"api_limit_{setting}": 2}) as client:
        key = client.make_key(Role.SERVICE)
        replies = [await client.post(path, body, key=key) for _ in range(3)]
    assert [one.status_code < 300 for one in replies] == [True, True, False]
    assert replies[2].json()["details"]["limit"] == name


async def test_a_stream_counts_once_as_a_call_that_records_costs(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_cost_records=3) as client:
        key = client.make_key(Role.SERVICE)
        lines = b'{"resource_type":"llm","cost_amount":1}\n' * 5
        for _ in range(2):
            reply = await client.send("POST", STREAM, content=lines, key=key)
            assert json.loads(reply.text.splitlines()[-1])["recorded"] == 5
        assert (await client.post("/cost-tracking/record", RECORD, key=key)).status_code == 202
        reply = await client.send("POST", STREAM, content=lines, key=key)
        assert reply.status_code == 429
        assert reply.json()["details"]["limit"] == "api-cost-records"
        assert reply.headers.get_list("Retry-After") == ["20"]
        report = (await client.get("/cost-tracking/reports")).json()
        assert report["record_count"] == 11


async def test_a_check_of_rate_limits_that_asks_nothing_sensible_counts_too(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_rate_limit_checks=2) as app:
        for _ in range(2):
            assert (await app.post("/rate-limits/check", {"no": "such"})).status_code == 400
        assert (await app.post("/rate-limits/check", {"no": "such"})).status_code == 429
        assert (await app.post("/rate-limits/check", {"resource_type": "llm"})).status_code == 429


async def test_a_check_of_rate_limits_that_is_not_allowed_counts_too(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_rate_limit_checks=2) as app:
        key = app.make_key(Role.SERVICE)
        other = {"resource_type": "llm", "tenant_id": "another"}
        replies = [await app.post("/rate-limits/check", other, key=key) for _ in range(3)]
    assert [one.status_code for one in replies] == [403, 403, 429]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rate-limits/check", {}),
        ("/rate-limits/check?no=such", {"resource_type": "llm"}),
        ("/rate-limits/check", {"resource_type": "llm", "priority": "critical"}),
        ("/rate-limits/check", {"resource_type": "llm", "tenant_id": "globex"}),
        ("/rate-limits/check/batch", {"checks": [{"resource_type": "llm"}] * 501}),
        ("/rate-limits/check/batch", {"checks": [{"resource_type": "llm", "tenant_id": "b"}]}),
        ("/budgets/check?no=such", CHECK),
    ],
)
async def test_a_decision_that_ends_in_a_problem_counts_once_and_tells_what_is_left(
    client: AppClient, path: str, body: Any
) -> None:
    key = client.make_key(Role.TENANT_ADMIN)
    for left in (999, 998):
        reply = await client.post(path, body, key=key)
        assert reply.status_code in {400, 403, 413}, reply.text
        assert f'"api-tenant";r={left};' in reply.headers["RateLimit"]


async def test_a_call_that_its_role_forbids_counts_as_any_other(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_tenant=3) as client:
        key = client.make_key(Role.AUDITOR)
        replies = [
            await client.post("/budgets/check", CHECK, key=key),
            await client.post("/rate-limits/check", {"resource_type": "llm"}, key=key),
            await client.get("/api-keys", key=key),
            await client.get("/budgets", key=key),
        ]
    assert [one.status_code for one in replies] == [403, 403, 403, 429]


async def test_reports_are_limited_per_tenant(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_reports=1) as client:
        path = "/cost-tracking/reports?report_type=summary"
        assert (await client.get(path)).status_code == 200
        assert (await client.get(path)).status_code == 429
        assert (await client.get("/budgets")).status_code == 200


async def test_a_limit_of_0_is_no_limit(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_tenant=0, api_limit_api_key=0) as client:
        reply = await client.get("/budgets", key=client.make_key(Role.AUDITOR))
    assert reply.status_code == 200
    assert "RateLimit" not in reply.headers


async def test_probes_and_metrics_are_not_limited(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_tenant=1) as client:
        key = client.make_key(Role.SYSTEM_ARCHITECT)
        for _ in range(3):
            assert (await client.send("GET", "/health/live", key=None)).status_code == 200
            reply = await client.send("GET", "/metrics", key=key)
            assert (reply.status_code, reply.headers.get("RateLimit")) == (200, None)
        assert (await client.get("/rate-limits", key=key)).status_code == 200


async def test_a_call_held_up_by_the_limits_is_counted_by_the_limit_and_as_no_denial(
    data_dir: Path,
) -> None:
    calls = {
        "/budgets/check?enforce=true": CHECK,
        "/rate-limits/check?enforce=true": {"resource_type": "api"},
        "/quotas/check?enforce=true": {"resource_type": "gpu", "required_amount": 1},
        "/cost-tracking/record": RECORD,
        "/budgets": {},
    }
    async with open_app(data_dir, api_limit_tenant=1, api_limit_cost_records=1) as client:
        key, service = client.make_key(Role.TENANT_ADMIN), client.make_key(Role.SERVICE)
        for path, body in calls.items():  # one passes, the others are held up
            await client.post(path, body, key=key)
        for _ in range(2):
            await client.post("/cost-tracking/record", RECORD, key=service)
        shown = b"".join(client.metrics.render()).decode()
    assert 'fiscus_api_limited_total{limit="api-tenant"} 4.0' in shown
    assert 'fiscus_api_limited_total{limit="api-cost-records"} 1.0' in shown
    for line in (
        'check_duration_seconds_count{operation="check",outcome="allowed"} 1.0',
        'rate_limit_duration_seconds_count{operation="rate_limit_check",outcome="limited"} 1.0',
        'quota_duration_seconds_count{operation="quota_check",outcome="limited"} 1.0',
        'record_duration_seconds_count{operation="record",outcome="limited"} 2.0',
    ):
        assert line in shown
    assert 'outcome="denied"' not in shown

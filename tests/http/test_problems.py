"""Errors as answers: shape, codes, correlation ids, and what they never show."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from fiscus.errors import FiscusError
from fiscus.http.app import ENDPOINTS
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS
from fiscus.http.management.endpoints import Endpoint, NoBody
from fiscus.wire.decoding import decode
from fiscus.wire.problems import STATUS_OF, TITLE_OF, Problem
from tests.http.app_client import API, BUDGET, QUOTA, open_app
from tests.log_lines import told

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

MEMBERS = set(Problem.__struct_fields__)


def problem_of(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["Content-Type"] == "application/problem+json"
    problem = reply.json()
    assert set(problem) == MEMBERS
    assert problem["error_code"] == code
    assert problem["status"] == status
    assert problem["detail"] == problem["message"]
    assert problem["correlation_id"] == reply.headers["X-Correlation-ID"]
    assert problem["instance"] == reply.request.url.path
    decode(reply.content, Problem)
    return problem


def all_errors(kind: type[FiscusError] = FiscusError) -> set[str]:
    return {kind.code} | {code for one in kind.__subclasses__() for code in all_errors(one)}


async def test_every_error_code_has_a_status_and_a_title() -> None:
    assert all_errors() <= set(STATUS_OF)
    assert set(TITLE_OF) == set(STATUS_OF)


async def test_paths_and_methods_that_are_not_there_are_problems(client: AppClient) -> None:
    for path in ("/nope", f"{API}/nope", f"{API}/budgets/", "/docs/secret.js", "/docs/../x"):
        problem_of(await client.send("GET", path), 404, "NOT_FOUND")
    reply = await client.send("PATCH", f"{API}/budgets")
    problem_of(reply, 405, "VALIDATION_ERROR")
    assert reply.headers["Allow"] == "GET, HEAD, POST"
    reply = await client.send("PUT", f"{API}/cost-tracking/record")
    problem_of(reply, 405, "VALIDATION_ERROR")
    assert reply.headers["Allow"] == "POST"
    for path in ("/health", f"{API}/health/live"):
        reply = await client.send("POST", path)
        problem_of(reply, 405, "VALIDATION_ERROR")
        assert reply.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/budgets/check", "POST"),
        ("/budgets/check/batch", "POST"),
        ("/budgets/reservations", "GET, HEAD"),
        ("/quotas/requests", "GET, HEAD, POST"),
        ("/quotas/distribute", "POST"),
        ("/rate-limits/adjust", "POST"),
        ("/cost-tracking/record/stream", "POST"),
    ],
)
async def test_a_word_in_the_place_of_an_id_has_methods_of_its_own(
    client: AppClient, path: str, allowed: str
) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        if method not in allowed.split(", "):
            reply = await client.send(method, API + path, json=BUDGET)
            problem_of(reply, 405, "VALIDATION_ERROR")
            assert reply.headers["Allow"] == allowed


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"nonsense", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"{}{}"),
        rb'{"\ud800":NaN}',
    ],
)
async def test_broken_bodies_are_a_400_everywhere(client: AppClient, body: bytes) -> None:
    for method, path in (
        ("POST", "/budgets"),
        ("POST", "/budgets/check"),
        ("POST", "/cost-tracking/record"),
        ("POST", "/api-keys"),
        ("PUT", "/tenants/acme"),
        ("POST", "/cost-tracking/reports"),
    ):
        problem_of(await client.send(method, API + path, content=body), 400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one.request is NoBody and not one.streams]
)
async def test_a_body_that_is_not_taken_is_refused_and_not_ignored(
    client: AppClient, endpoint: Endpoint[Any, Any]
) -> None:
    path = API + re.sub(r"{\w+}", "01a20dc2-6604-7c51-8289-92e520253797", endpoint.path)
    reply = await client.send(endpoint.method, path, json={"force": True})
    assert problem_of(reply, 400, "VALIDATION_ERROR")["details"]["field"] == "force"
    reply = await client.send(endpoint.method, path, content=b"force")
    problem_of(reply, 400, "VALIDATION_ERROR")


async def test_probes_ignore_a_body_and_nobody_minds_an_empty_object(client: AppClient) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        assert (await client.send("GET", path, content=b"body")).status_code == 200, path
    assert (await client.get("/budgets", content=b"{}")).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"budget_amout": 1}, "budget_amout"),
        ({"budget_amount": "NaN"}, "budget_amount"),
        ({"budget_amount": "1_000"}, "budget_amount"),
        ({"budget_amount": "1e999999"}, "budget_amount"),
        ({"budget_amount": 0}, "budget_amount"),
        ({"budget_amount": -1}, "budget_amount"),
        ({"budget_amount": True}, "budget_amount"),
        ({"budget_name": ""}, "budget_name"),
        ({"budget_name": 7}, "budget_name"),
        ({"period_type": "fortnightly"}, "period_type"),
        ({"currency": "usd"}, "currency"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"allocated_to_id": "a b"}, "allocated_to_id"),
        ({"allocated_to_id": "x" * 129}, "allocated_to_id"),
        ({"filters": {"resource_typ": []}}, "filters.resource_typ"),
        ({"throttle": {"floor": 2}}, "throttle.floor"),
        ({"tenant_id": "a/b"}, "tenant_id"),
    ],
)
async def test_a_wrong_field_is_named(
    client: AppClient, change: dict[str, Any], field: str
) -> None:
    reply = await client.post("/budgets", {**BUDGET, **change})
    problem = problem_of(reply, 400, "VALIDATION_ERROR")
    assert problem["details"]["field"] == field
    assert problem["retriable"] is False
    assert problem["suggested_action"]


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity", b"1e999999", b"1_0"])
async def test_numbers_that_are_no_amounts_are_a_400(client: AppClient, literal: bytes) -> None:
    body = b'{"resource_type":"llm","estimated_cost":%b}' % literal
    reply = await client.send("POST", f"{API}/budgets/check", content=body)
    problem_of(reply, 400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Idempotency-Key": ""},
        {"Idempotency-Key": ""},
        {"X-Idempotency-Key": "", "Idempotency-Key": "a"},
        {"X-Idempotency-Key": "a", "Idempotency-Key": "b"},
        {"X-Idempotency-Key": "a" * 257},
        {"X-Idempotency-Key": b"\xff\x01"},
        {"X-Idempotency-Key": "caf\xe9".encode()},
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((one.path, one.example) for one in DECISION_ENDPOINTS if one.is_idempotent),
        ("/budgets", BUDGET),
        ("/quotas", QUOTA),
        ("/api-keys", {"name": "k", "roles": ["service"]}),
    ],
)
async def test_an_idempotency_key_that_is_none_is_refused_everywhere(
    client: AppClient, path: str, body: Any, headers: Any
) -> None:
    path = re.sub(r"{\w+}", "01a20dc2-6604-7c51-8289-92e520253797", path)
    problem_of(await client.post(path, body, headers=headers), 400, "VALIDATION_ERROR")


async def test_a_check_of_rate_limits_takes_no_idempotency_key(client: AppClient) -> None:
    headers = {"X-Idempotency-Key": "", "Idempotency-Key": "a"}
    reply = await client.post("/rate-limits/check", {"resource_type": "a"}, headers=headers)
    assert reply.status_code == 200


HUGE = b"1e9999999999999999999"
TINY = b"-1e-9999999999999999999"
LONG = b"9" * 4301
"""One digit more than Python makes a whole number of."""


@pytest.mark.parametrize("literal", [HUGE, TINY, LONG])
@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/budgets/check", b'"estimated_cost":%b', "estimated_cost"),
        ("POST", "/budgets/check", b'"operation_context":{"a":[%b]}', "operation_context[...][0]"),
        ("POST", "/budgets/check/batch", b'"checks":[{"estimated_cost":%b}]', "checks[0]"),
        ("POST", "/quotas/check", b'"required_amount":%b', "required_amount"),
        ("POST", "/rate-limits/check", b'"request_count":%b', "request_count"),
        ("POST", "/cost-tracking/record", b'"usage":{"tokens":%b}', "usage[...]"),
        ("POST", "/cost-tracking/record", b'"unknown":%b', "unknown"),
        ("POST", "/budgets", b'"budget_amount":%b', "budget_amount"),
        ("POST", "/quotas", b'"allocated_amount":%b', "allocated_amount"),
        ("PUT", "/tenants/acme", b'"settings":%b', "settings"),
    ],
)
async def test_a_number_beyond_all_decimals_is_a_400_that_names_its_field(
    client: AppClient, method: str, path: str, body: bytes, field: str, literal: bytes
) -> None:
    reply = await client.send(method, API + path, content=b"{%b}" % (body % literal))
    problem = problem_of(reply, 400, "VALIDATION_ERROR")
    assert problem["details"]["field"].startswith(field)


@pytest.mark.parametrize("literal", [HUGE, TINY, LONG])
@pytest.mark.parametrize("place", [b'"cost_amount":%b', b'"cost_amount":1,"usage":{"tokens":%b}'])
async def test_a_number_beyond_all_decimals_fails_its_record_alone(
    client: AppClient, place: bytes, literal: bytes
) -> None:
    good = b'{"resource_type":"llm","cost_amount":1}'
    bad = b'{"resource_type":"llm",%b}' % (place % literal)
    batch = b'{"records":[%b]}' % b",".join([good, bad, good])
    reply = await client.send("POST", f"{API}/cost-tracking/record/batch", content=batch)
    answer = reply.json()
    assert (reply.status_code, answer["recorded"], answer["failed"]) == (202, 2, 1)
    error = answer["results"][1]["error"]
    assert error["error_code"] == "VALIDATION_ERROR"
    assert error["details"]["field"] in {"cost_amount", "usage[...]"}
    lines = b"\n".join([good, bad, good])
    reply = await client.send("POST", f"{API}/cost-tracking/record/stream", content=lines)
    summary = json.loads(reply.text.splitlines()[-1])
    assert (summary["recorded"], summary["failed"]) == (2, 1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nope=1", "nope"),
        ("page=0", "page"),
        ("page=x", "page"),
        ("page=1&page=2", "page"),
        ("page_size=0", "page_size"),
        ("page_size=1001", "page_size"),
        ("page_token=abc", "page_token"),
        ("page_token=%00", "page_token"),
        ("page=1&page_token=eyJ9", "page_token"),
        ("period_type=never", "period_type"),
        ("currency=euro", "currency"),
        ("tenant_id=", "tenant_id"),
        ("page=1.0", "page"),
        ("page=null", "page"),
        ("page_size=%2B5", "page_size"),
        ("page=%ff", "query"),
        ("&".join(f"p{number}=1" for number in range(101)), "query"),
    ],
)
async def test_a_wrong_query_parameter_is_named(client: AppClient, query: str, field: str) -> None:
    reply = await client.send("GET", f"{API}/budgets?{query}")
    assert problem_of(reply, 400, "VALIDATION_ERROR")["details"]["field"] == field


async def test_a_wrong_word_is_told_with_those_that_may_stand_there(client: AppClient) -> None:
    replies = [
        await client.post("/budgets", {**BUDGET, "period_type": "monthy"}),
        await client.get("/budgets", params={"period_type": "monthy"}),
    ]
    for reply in replies:
        problem = problem_of(reply, 400, "VALIDATION_ERROR")
        assert problem["suggested_action"].startswith("Use one of daily, weekly, monthly, ")


async def test_times_of_a_query_are_rfc_3339(client: AppClient) -> None:
    for start in ("1700000000", "1700000000.5", "null", ""):
        reply = await client.get("/cost-tracking/records", params={"start": start})
        assert problem_of(reply, 400, "VALIDATION_ERROR")["details"]["field"] == "start"
    for start in ("2026-03-10T12:00:00Z", "2026-03-10T14:00:00+02:00"):
        reply = await client.get("/cost-tracking/records", params={"start": start, "page": "1"})
        assert reply.status_code == 200
    for flag in ("true", "1", "False", "0"):
        reply = await client.get("/quotas", params={"active_only": flag})
        assert reply.status_code == 200
    reply = await client.get("/quotas", params={"active_only": "null"})
    assert problem_of(reply, 400, "VALIDATION_ERROR")["details"]["field"] == "active_only"


async def test_naive_times_are_a_400(client: AppClient) -> None:
    reply = await client.get("/cost-tracking/records?start=2026-03-10T12:00:00")
    assert problem_of(reply, 400, "VALIDATION_ERROR")["details"]["field"] == "start"
    body = {"resource_type": "llm", "cost_amount": 1, "timestamp": "2026-03-10T12:00:00"}
    reply = await client.post("/cost-tracking/record", body)
    assert problem_of(reply, 400, "VALIDATION_ERROR")["details"]["field"] == "timestamp"


async def test_bodies_beyond_the_limit_are_a_413(data_dir: Path) -> None:
    async with open_app(data_dir, max_body_bytes=1000) as client:
        fits = {**BUDGET, "budget_name": "x" * 200}
        assert (await client.post("/budgets", fits)).status_code == 201

        async def unannounced() -> Any:
            for _ in range(20):
                yield b"x" * 100

        for path in ("/budgets", "/budgets/check", "/api-keys", "/cost-tracking/reports"):
            for content in (b"x" * 1001, unannounced()):
                reply = await client.send("POST", API + path, content=content)
                problem = problem_of(reply, 413, "PAYLOAD_TOO_LARGE")
                assert problem["details"] == {"maximum_bytes": 1000}


async def test_batches_beyond_their_limit_are_a_413(client: AppClient) -> None:
    check = {"resource_type": "llm", "estimated_cost": 0}
    reply = await client.post("/budgets/check/batch", {"checks": [check] * 501})
    problem_of(reply, 413, "PAYLOAD_TOO_LARGE")
    record = {"resource_type": "llm", "cost_amount": 0}
    reply = await client.post("/cost-tracking/record/batch", {"records": [record] * 1001})
    problem_of(reply, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("trace-1", True),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("with space", False),
        ("{json}", False),
        ("", False),
    ],
)
async def test_a_correlation_id_is_taken_when_it_is_safe(
    client: AppClient, given: str, kept: bool
) -> None:
    headers = {"X-Correlation-ID": given}
    check = {"resource_type": "llm", "estimated_cost": 1}
    for reply in (
        await client.get("/budgets", headers=headers),
        await client.post("/budgets/check", check, headers=headers),
        await client.get("/budgets/x", headers=headers),
        await client.send("GET", "/health/live", headers=headers, key=None),
    ):
        answered = reply.headers["X-Correlation-ID"]
        assert (answered == given) is kept
        assert reply.json()["correlation_id"] == answered


async def test_a_failure_inside_shows_neither_a_stack_trace_nor_sql(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("SELECT secret FROM budgets")

    monkeypatch.setattr(type(client.engine.budgets), "list", fail)
    reply = await client.get("/budgets")
    problem = problem_of(reply, 500, "INTERNAL_ERROR")
    assert "SELECT" not in reply.text
    assert "Traceback" not in reply.text
    assert problem["message"] == "The request failed"


async def test_a_failure_inside_a_probe_is_a_problem_too(
    client: AppClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("SELECT secret FROM budgets")

    monkeypatch.setattr("fiscus.http.monitoring.health.dependencies_of", fail)
    problem_of(await client.send("GET", "/health", key=None), 500, "INTERNAL_ERROR")
    assert [line.event for line in told(caplog)] == ["request_failed"]


@pytest.mark.parametrize("path", ["/budgets/check", "/rate-limits/check", "/budgets"])
async def test_what_a_stop_cuts_off_is_told_as_a_problem(
    client: AppClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """As uvicorn does with a request whose body did not come."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        asyncio.get_running_loop().call_soon(answering.cancel)
        return await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": API + path,
        "raw_path": (API + path).encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"x-api-key", client.key.encode())],
    }
    answering = asyncio.create_task(client.app(scope, receive, send))
    await answering
    assert [one.get("status") for one in sent] == [500, None]
    assert decode(sent[1]["body"], Problem).error_code == "INTERNAL_ERROR"
    assert [line.event for line in told(caplog)] == ["request_cut_off"]


async def test_a_failure_inside_a_decision_says_what_to_do_as_any_other(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("SELECT secret FROM budgets")

    monkeypatch.setattr("fiscus.http.fast_lane.lane.decode", fail)
    reply = await client.post("/budgets/check", {"resource_type": "llm", "estimated_cost": 1})
    problem = problem_of(reply, 500, "INTERNAL_ERROR")
    assert problem["suggested_action"] == "Report it with the correlation_id."


async def test_a_closing_ledger_is_a_503_that_says_when_to_come_back(client: AppClient) -> None:
    client.engine.ledger.close()
    check = {"resource_type": "llm", "estimated_cost": 1}
    reply = await client.post("/budgets/check", check)
    assert problem_of(reply, 503, "SERVICE_UNAVAILABLE")["retriable"] is True
    assert reply.headers["Retry-After"] == "1"


async def test_enforce_turns_a_denial_into_a_402(client: AppClient) -> None:
    await client.make_budget(budget_amount=1)
    check = {"resource_type": "llm", "estimated_cost": 2, "project_id": "search"}
    plain = await client.post("/budgets/check", check)
    assert (plain.status_code, plain.json()["allowed"]) == (200, False)
    reply = await client.post("/budgets/check?enforce=true", check)
    problem = problem_of(reply, 402, "BUDGET_EXCEEDED")
    assert problem["details"]["max_allowed_cost"] == 1
    assert problem["details"]["correlation_id"] == problem["correlation_id"]
    throttled = client.make_key(Role.SERVICE)
    reply = await client.post("/budgets/check?enforce=maybe", check, key=throttled)
    problem_of(reply, 400, "VALIDATION_ERROR")


async def test_an_enforced_batch_tells_what_its_other_checks_hold(client: AppClient) -> None:
    await client.make_budget(budget_amount=3)
    check = {"resource_type": "llm", "estimated_cost": 2, "project_id": "search"}
    reply = await client.post("/budgets/check/batch?enforce=true", {"checks": [check, check]})
    problem = problem_of(reply, 402, "BUDGET_EXCEEDED")
    details = problem["details"]
    assert set(details) == {"allowed", "results", "correlation_id"}
    assert details["allowed"] is False
    assert details["correlation_id"] == problem["correlation_id"]
    held, denied = details["results"]
    assert (held["allowed"], denied["allowed"]) == (True, False)
    assert problem["message"] == denied["message"]
    path = f"/budgets/reservations/{held['reservation_id']}/release"
    assert (await client.post(path, {})).status_code == 200

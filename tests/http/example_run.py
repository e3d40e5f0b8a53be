"""Sends every example of the OpenAPI document in the order that works, and provokes each error.

As a script, writes the answers into `src/fiscus/http/openapi/examples.json`.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from fiscus.access.model import Role
from fiscus.http.app import ENDPOINTS
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS
from fiscus.http.openapi.examples import PATH_IDS, QUERIES, REQUESTS
from fiscus.stores.sql.failures import unavailable
from fiscus.wire.paths import BASE_PATH
from fiscus.wire.problems import STATUS_OF
from tests.http.app_client import open_app

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.http.app_client import AppClient

ORDER: Final = [
    "put_tenant",
    "get_tenant",
    "create_budget",
    "list_budgets",
    "get_budget",
    "check",
    "check_batch",
    "list_reservations",
    "get_reservation",
    "extend",
    "settle",
    "release",
    "record",
    "record_batch",
    "stream_records",
    "list_records",
    "get_record",
    "get_report",
    "make_report",
    "get_utilization",
    "replace_budget",
    "get_budget_version",
    "create_api_key",
    "list_api_keys",
    "revoke_api_key",
    "delete_budget",
    "create_policy",
    "list_policies",
    "get_policy",
    "rate_limit_check",
    "rate_limit_check_batch",
    "adjust_rate_limits",
    "get_policy_usage",
    "add_emergency",
    "approve_emergency",
    "reset_policy",
    "replace_policy",
    "get_policy_version",
    "delete_policy",
    "create_quota",
    "allocate_quota",
    "allocate_quotas",
    "distribute_quotas",
    "list_quotas",
    "get_quota",
    "quota_check",
    "quota_check_batch",
    "release_consumption",
    "get_quota_history",
    "replace_quota",
    "get_quota_version",
    "ask_for_quota",
    "list_quota_requests",
    "approve_quota_request",
    "reject_quota_request",
    "delete_quota",
]
DECIDED_BY_ANOTHER: Final = {
    "approve_emergency": Role.SYSTEM_ARCHITECT,
    "approve_quota_request": Role.TENANT_ADMIN,
    "reject_quota_request": Role.TENANT_ADMIN,
}
"""Not by the one who asked for it."""

FILE: Final = Path(__file__).parents[2] / "src" / "fiscus" / "http" / "openapi" / "examples.json"


def operations() -> dict[str, tuple[str, str, Any, int]]:
    """Method, path, example body and status of every operation."""
    found = {
        one.operation: ("POST", one.path, one.example, one.status) for one in DECISION_ENDPOINTS
    }
    for one in ENDPOINTS:
        body = REQUESTS.get(one.operation)
        found[one.operation] = (one.method, one.path, body, one.status)
    return found


async def run_examples(client: AppClient) -> dict[str, Any]:
    """The answer to each example; fails when a status is not the documented one."""
    known = operations()
    assert set(ORDER) == set(known), set(ORDER) ^ set(known)
    ids = dict(PATH_IDS)
    answers: dict[str, Any] = {}
    for operation in ORDER:
        method, path, body, status = known[operation]
        url = BASE_PATH + re.sub(r"{(\w+)}", lambda match: ids[match[1]], path)
        sent: dict[str, Any] = {"content": body} if isinstance(body, str) else {"json": body}
        if operation == "get_policy_usage":
            client.engine.limiter.flush_usage()
        elif operation == "ask_for_quota":
            body = sent["json"] = {**body, "quota_id": ids["quota_id"]}
        elif operation == "reject_quota_request":
            asked = {**REQUESTS["ask_for_quota"], "quota_id": ids["quota_id"]}
            again = await client.send("POST", f"{BASE_PATH}/quotas/requests", json=asked)
            url = url.replace(ids["request_id"], again.json()["request_id"])
        other = DECIDED_BY_ANOTHER.get(operation)
        reply = await client.send(
            method,
            url,
            key=client.make_key(other) if other else "",
            params=QUERIES.get(operation),
            **({} if body is None else sent),
        )
        assert reply.status_code == status, (operation, reply.text)
        if operation == "stream_records":
            answers[operation] = reply.text
        elif reply.content:
            answers[operation] = reply.json()
        _remember(operation, answers.get(operation), ids)
    reply = await client.send("POST", f"{BASE_PATH}/cost-tracking/reports", json={"format": "csv"})
    answers["report_csv"] = reply.text
    for name, path in (("health", ""), ("live", "/live"), ("ready", "/ready")):
        answers[name] = (await client.send("GET", f"/health{path}")).json()
    return answers


def _remember(operation: str, answer: Any, ids: dict[str, str]) -> None:
    match operation:
        case "create_budget":
            ids["budget_id"] = answer["budget_id"]
        case "check":
            ids["reservation_id"] = answer["reservation_id"]
            ids["settled"] = answer["reservation_id"]
        case "settle":
            # another one for `release`
            ids["reservation_id"] = ids["other"]
            ids["record_id"] = answer["record_id"]
        case "check_batch":
            ids["other"] = answer["results"][0]["reservation_id"]
        case "create_api_key":
            ids["key_id"] = answer["key_id"]
        case "create_policy":
            ids["policy_id"] = answer["policy_id"]
        case "add_emergency":
            ids["emergency_id"] = answer["emergency_id"]
        case "create_quota":
            ids["quota_id"] = answer["quota_id"]
        case "quota_check":
            ids["consumption_id"] = answer["consumption_id"]
        case "ask_for_quota":
            ids["request_id"] = answer["request_id"]


async def run_errors(client: AppClient) -> dict[str, Any]:
    """An answer with each error code; fails when a status is not its code's."""
    check, quota = _example("check"), _example("quota_check")
    unpriced = {key: value for key, value in _example("record").items() if key != "cost_amount"}
    of_acme = client.make_key(Role.TENANT_ADMIN)
    budget = await client.make_budget(**REQUESTS["create_budget"])
    place = f"/budgets/{budget['budget_id']}"
    await client.make_quota(**REQUESTS["create_quota"])
    once = {"headers": {"X-Idempotency-Key": "3f1c6f9e"}}
    await client.post("/budgets/check", check, **once)
    await client.post("/quotas/check", quota)
    for _ in range(client.engine.settings.api_limit_reports):
        await client.get("/cost-tracking/reports", params=QUERIES["get_report"])
    replies = [
        await client.post("/budgets/check", {**check, "estimated_cost": "NaN"}),
        await client.post("/budgets/check", check, key="fsk_unknown-to-everybody"),
        await client.post("/budgets/check?enforce=true", {**check, "estimated_cost": 500}),
        await client.post("/budgets/check", {**check, "tenant_id": "globex"}, key=of_acme),
        await client.get(f"/budgets/{PATH_IDS['budget_id']}"),
        await client.put(place, REQUESTS["create_budget"], headers={"If-Match": '"3"'}),
        await client.post("/budgets/check", {**check, "user_id": "u-18"}, **once),
        await client.post("/budgets/check", {**check, "operation_context": {"": " " * 2_000_000}}),
        await client.post("/cost-tracking/record", unpriced),
        await client.post("/quotas/check?enforce=true", {**quota, "required_amount": 120}),
        await client.get("/cost-tracking/reports", params=QUERIES["get_report"]),
    ]
    for failure in (RuntimeError("of nobody's making"), unavailable()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client.engine.budgets, "get", _failing_with(failure))
            replies.append(await client.get(place))
    return {_code_of(reply): reply.json() for reply in replies}


async def run_own_errors(client: AppClient) -> dict[str, dict[str, Any]]:
    """By operation, the answer to an amount that no conversion can hold."""
    await client.make_budget(currency="IDR", budget_amount=1000)
    check = {**_example("check"), "estimated_cost": 1, "currency": "IDR"}
    held = (await client.post("/budgets/check", check)).json()["reservation_id"]
    large = {**check, "estimated_cost": "9e25", "currency": "USD"}
    settle = {"actual_cost": "9e25", "currency": "USD"}
    replies = {
        "check": await client.post("/budgets/check", large),
        "check_batch": await client.post("/budgets/check/batch", {"checks": [large]}),
        "settle": await client.post(f"/budgets/reservations/{held}/settle", settle),
    }
    return {name: {_code_of(reply): reply.json()} for name, reply in replies.items()}


def _example(operation: str) -> dict[str, Any]:
    body: dict[str, Any] = operations()[operation][2]
    return body


def _failing_with(failure: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise failure

    return fail


def _code_of(reply: httpx.Response) -> str:
    code: str = reply.json()["error_code"]
    assert reply.status_code == STATUS_OF[code], reply.text
    return code


async def _capture() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_app(Path(folder)) as client:
            answers = await run_examples(client)
    with tempfile.TemporaryDirectory() as folder:
        async with open_app(Path(folder)) as client:
            errors = await run_errors(client)
    with tempfile.TemporaryDirectory() as folder:
        async with open_app(Path(folder)) as client:
            own_errors = await run_own_errors(client)
    answers["create_api_key"]["api_key"] = "fsk_shown-once-and-never-again"
    answers["health_down"] = {
        **answers["health"],
        "status": "DOWN",
        "dependencies": [
            {
                "name": "store",
                "status": "DOWN",
                "latency_ms": None,
                "message": "The database cannot be reached",
            },
            *answers["health"]["dependencies"][1:],
        ],
        "reasons": ["store: The database cannot be reached"],
    }
    answers["ready_down"] = {
        **answers["ready"],
        "status": "not_ready",
        "reasons": ["Fiscus is shutting down"],
    }
    answers["metrics"] = (
        "# HELP fiscus_ledger_queue_depth Commands that wait for the ledger.\n"
        "# TYPE fiscus_ledger_queue_depth gauge\n"
        "fiscus_ledger_queue_depth 0.0\n"
    )
    examples = json.loads(FILE.read_text("utf-8"))
    examples["answers"] = answers
    examples["errors"] = errors
    examples["own_errors"] = own_errors
    examples["path_ids"] |= {
        "budget_id": answers["create_budget"]["budget_id"],
        "reservation_id": answers["check"]["reservation_id"],
        "record_id": answers["settle"]["record_id"],
        "key_id": answers["create_api_key"]["key_id"],
        "policy_id": answers["create_policy"]["policy_id"],
        "emergency_id": answers["add_emergency"]["emergency_id"],
        "quota_id": answers["create_quota"]["quota_id"],
        "consumption_id": answers["quota_check"]["consumption_id"],
        "request_id": answers["ask_for_quota"]["request_id"],
    }
    examples["requests"]["ask_for_quota"]["quota_id"] = answers["create_quota"]["quota_id"]
    FILE.write_text(json.dumps(examples, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(_capture())

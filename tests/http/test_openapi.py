"""The served document: complete, valid, and its examples work."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from fiscus.access.model import Role
from fiscus.http.app import ENDPOINTS
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS
from fiscus.http.openapi.descriptions import ABOUT
from fiscus.http.openapi.document import build_document
from fiscus.http.openapi.examples import ANSWERS, ERRORS, OWN_ERRORS, PATH_IDS, REQUESTS
from fiscus.http.openapi.responses import EVERYWHERE
from fiscus.wire.paths import BASE_PATH
from fiscus.wire.problems import STATUS_OF
from tests.http.app_client import open_app
from tests.http.example_run import run_errors, run_examples, run_own_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.app_client import AppClient

DOCUMENT: dict[str, Any] = json.loads(build_document(ENDPOINTS))
METHODS = ("get", "put", "post", "delete", "patch")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, place in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in place:
                yield method, path, place[method]


def check(value: Any, schema: dict[str, Any], where: object) -> None:
    """`value` fits `schema`, whose references are to the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    errors = [
        f"{error.instance_path} {error.message}"
        for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(value)
    ]
    assert not errors, (where, errors)


def test_the_document_is_valid_openapi() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)] == []


def test_every_schema_is_a_valid_json_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({**schema, "components": DOCUMENT["components"]})


def test_every_route_is_documented_once() -> None:
    documented = {(method.upper(), path) for method, path, _ in operations()}
    expected = {("POST", BASE_PATH + one.path) for one in DECISION_ENDPOINTS}
    expected |= {(one.method, BASE_PATH + one.path) for one in ENDPOINTS}
    for prefix in ("", BASE_PATH):
        for path in ("/health", "/health/live", "/health/ready", "/metrics"):
            expected.add(("GET", prefix + path))
    assert documented == expected
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))


def test_every_field_and_parameter_is_described() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field, definition in schema.get("properties", {}).items():
            assert definition.get("description"), f"{name}.{field}"
    for method, path, operation in operations():
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        for parameter in operation["parameters"]:
            assert parameter["description"], (method, path, parameter["name"])
        for status, response in operation["responses"].items():
            assert response["description"], (method, path, status)


def test_every_body_has_an_example_that_fits_its_schema() -> None:
    for method, path, operation in operations():
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        bodies += [one for one in operation["responses"].values() if "content" in one]
        for body in bodies:
            for content in body["content"].values():
                examples = [one["value"] for one in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                assert examples, (method, path)
                for example in examples:
                    check(example, content["schema"], (method, path))


def test_every_error_is_listed_with_its_status() -> None:
    for method, path, operation in operations():
        if operation.get("security") == []:
            continue
        listed = {
            code: int(status)
            for status, response in operation["responses"].items()
            for code in response.get("content", {})
            .get("application/problem+json", {})
            .get("examples", {})
        }
        assert all(STATUS_OF[code] == status for code, status in listed.items())
        missing = set(EVERYWHERE) - set(listed)
        # metrics take no input and are not limited
        spared = {"VALIDATION_ERROR", "RATE_LIMIT_VIOLATED"} if path.endswith("/metrics") else set()
        assert missing == spared, (method, path)


def test_statuses_that_no_operation_lists_are_named_at_the_top() -> None:
    assert [one for one in (400, 405, 408, 413, 431) if f"{one}" not in ABOUT] == []
    listed = {status for _, _, operation in operations() for status in operation["responses"]}
    assert listed.isdisjoint({"405", "408", "431"})


def test_everything_but_the_probes_needs_a_credential() -> None:
    assert DOCUMENT["security"] == [{"ApiKey": []}, {"Bearer": []}]
    open_paths = {path for _, path, one in operations() if one.get("security") == []}
    probes = {"/health", "/health/live", "/health/ready"}
    assert open_paths == probes | {BASE_PATH + path for path in probes}


@pytest.mark.anyio
async def test_every_example_works_and_is_answered_as_documented(data_dir: Path) -> None:
    by_id = {operation["operationId"]: operation for _, _, operation in operations()}
    async with open_app(data_dir) as client:
        answers = await run_examples(client)
    for name, answer in answers.items():
        assert _shape(ANSWERS[name]) == _shape(answer), name
        if name in by_id:
            status = next(iter(by_id[name]["responses"]))
            content = by_id[name]["responses"][status]["content"]
            check(answer, next(iter(content.values()))["schema"], name)


@pytest.mark.anyio
async def test_what_names_a_creation_is_documented_where_it_is_answered(client: AppClient) -> None:
    by_id = {operation["operationId"]: operation for _, _, operation in operations()}
    for name, path in {
        "create_budget": "/budgets",
        "create_policy": "/rate-limits",
        "create_quota": "/quotas",
        "create_api_key": "/api-keys",
    }.items():
        reply = await client.post(path, REQUESTS[name])
        documented = by_id[name]["responses"]["201"]["headers"]
        for header in ("Location", "ETag"):
            assert (header in documented) == (header in reply.headers), (name, header)


@pytest.mark.anyio
async def test_a_body_may_be_left_out_exactly_where_the_document_says(client: AppClient) -> None:
    for method, path, operation in operations():
        if "application/json" not in operation.get("requestBody", {}).get("content", {}):
            continue
        place = re.sub(r"{\w+}", "01a20dc2-6604-7c51-8289-92e520253797", path)
        reply = await client.send(method.upper(), place)
        is_missed = reply.status_code == 400 and reply.json()["details"] == {"field": "body"}
        assert operation["requestBody"]["required"] is is_missed, (path, reply.text)


@pytest.mark.anyio
async def test_every_error_is_answered_as_documented(client: AppClient) -> None:
    errors = await run_errors(client)
    assert set(errors) == set(ERRORS) == set(STATUS_OF)
    for code, error in errors.items():
        assert _without_ids(error) == _without_ids(ERRORS[code]), code


@pytest.mark.anyio
async def test_an_error_an_operation_has_for_reasons_of_its_own_is_answered_as_documented(
    client: AppClient,
) -> None:
    by_id = {operation["operationId"]: operation for _, _, operation in operations()}
    own = await run_own_errors(client)
    assert set(own) == set(OWN_ERRORS)
    for name, errors in own.items():
        for code, error in errors.items():
            response = by_id[name]["responses"][str(STATUS_OF[code])]
            example = response["content"]["application/problem+json"]["examples"][code]["value"]
            assert _without_ids(error) == _without_ids(example), name


@pytest.mark.anyio
async def test_headers_of_limits_are_documented_where_they_are_sent(client: AppClient) -> None:
    await client.make_policy(resource_type="api", limit_value=1)
    of_limits = {"RateLimit", "RateLimit-Policy", "Retry-After"}
    of_limits |= {f"X-RateLimit-{one}" for one in ("Limit", "Remaining", "Reset")}
    key = client.make_key(Role.TENANT_ADMIN)
    check, limit = REQUESTS["create_budget"], {"resource_type": "api", "user_id": "u-17"}
    missing = f"/budgets/{PATH_IDS['budget_id']}"
    seen: set[int] = set()
    for operation, method, path, body, sender in (
        ("create_budget", "POST", "/budgets", check, key),
        ("create_budget", "POST", "/budgets", {}, key),
        ("create_budget", "POST", "/budgets", check, client.make_key(Role.TENANT_USER)),
        ("create_budget", "POST", "/budgets", check, "fsk_unknown-to-everybody"),
        ("list_budgets", "GET", "/budgets", None, key),
        ("get_budget", "GET", missing, None, key),
        ("delete_budget", "DELETE", missing, None, key),
        ("check", "POST", "/budgets/check", {"resource_type": "llm", "estimated_cost": 1}, key),
        ("check", "POST", "/budgets/check", {}, key),
        ("rate_limit_check", "POST", "/rate-limits/check", limit, key),
        ("rate_limit_check", "POST", "/rate-limits/check", limit, key),
        ("rate_limit_check", "POST", "/rate-limits/check?enforce=true", limit, key),
        ("rate_limit_check_batch", "POST", "/rate-limits/check/batch", {"checks": [limit]}, key),
        ("metrics_of_api", "GET", "/metrics", None, client.key),
        ("health_of_api", "GET", "/health", None, key),
    ):
        reply = await client.send(method, BASE_PATH + path, json=body, key=sender)
        seen.add(reply.status_code)
        by_id = {one["operationId"]: one for _, _, one in operations()}
        documented = by_id[operation]["responses"][str(reply.status_code)]["headers"]
        told = {name for name in of_limits if name in reply.headers}
        expected = of_limits & set(documented)
        if reply.status_code == 200:  # only when it is denied
            expected -= {"Retry-After"} - told
        assert told == expected, (operation, reply.status_code)
    assert seen == {200, 201, 400, 401, 403, 404, 429}


@pytest.mark.anyio
async def test_it_is_served_without_a_credential_and_names_no_tenant(client: AppClient) -> None:
    await client.make_budget(budget_name="Secret plans")
    reply = await client.send("GET", "/openapi.json", key=None)
    assert reply.json() == DOCUMENT
    assert "Secret plans" not in reply.text


def _without_ids(value: Any) -> str:
    """The ids that Fiscus makes are others each time; everything else is the same."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", json.dumps(value))


def _shape(value: Any) -> Any:
    """Names of fields at every depth; an empty list is like any other."""
    if isinstance(value, dict):
        return {name: _shape(one) for name, one in value.items() if name not in {"usage", "tags"}}
    if isinstance(value, list) and value:
        return [_shape(value[0])]
    return None

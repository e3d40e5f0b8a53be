"""The served document: complete, valid, and its examples work."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from fiscus.http.app import ENDPOINTS
from fiscus.http.decisions import DECISIONS
from fiscus.http.descriptions import ABOUT
from fiscus.http.examples import ANSWERS, ERRORS, REQUESTS
from fiscus.http.openapi import EVERYWHERE, build_document
from fiscus.paths import BASE_PATH
from fiscus.problems import STATUS_OF
from tests.http.app_client import open_app
from tests.http.example_run import run_errors, run_examples

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
    expected = {("POST", BASE_PATH + one.path) for one in DECISIONS}
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


@pytest.mark.anyio
async def test_amounts_that_no_conversion_can_hold_are_answered_as_documented(
    client: AppClient,
) -> None:
    await client.make_budget(currency="IDR", budget_amount=1000, allocated_to_id="search")
    check = {"resource_type": "llm", "project_id": "search", "estimated_cost": 1, "currency": "IDR"}
    held = (await client.post("/budgets/check", check)).json()["reservation_id"]
    large = {"currency": "USD", "estimated_cost": "9e25"}
    for path, body in (
        ("/budgets/check", check | large),
        ("/budgets/check/batch", {"checks": [check | large]}),
        (
            "/budgets/reservations/{reservation_id}/settle",
            {"actual_cost": "9e25", "currency": "USD"},
        ),
    ):
        reply = await client.post(path.format(reservation_id=held), body)
        assert (reply.status_code, reply.json()["error_code"]) == (422, "COST_CALCULATION_ERROR")
        assert "422" in DOCUMENT["paths"][BASE_PATH + path]["post"]["responses"]

"""Generated requests over the served document: never a server error, nothing undocumented."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation.hypothesis.builder import (
    HypothesisTestConfig,
    HypothesisTestMode,
    create_test,
)
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fiscus.http.app import ENDPOINTS
from fiscus.http.openapi.document import build_document
from tests.http.live_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis.schemas import BaseSchema

    from tests.http.live_server import LiveServer

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

NDJSON = "application/x-ndjson"


def without_security() -> dict[str, Any]:
    """The document, but for the credentials: made-up ones would be refused at the door."""
    made = json.loads(build_document(ENDPOINTS))
    del made["security"], made["components"]["securitySchemes"]
    return made


DOCUMENT = without_security()
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]


@schemathesis.serializer(NDJSON)
def as_lines(_: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def document() -> BaseSchema:
    return schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("fuzz")) as server:
        yield server


def validate(case: schemathesis.Case, server: LiveServer, session: requests.Session) -> None:
    case.call_and_validate(
        base_url=server.url,
        session=session,
        headers={"X-API-Key": server.key},
        checks=CHECKS,
        timeout=30,
    )


# Not `document.parametrize()`: it makes the cases of all operations while tests are collected, in
# each of pytest's processes.
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_generated_requests_are_answered_as_documented(
    method: str, path: str, document: BaseSchema, server: LiveServer
) -> None:
    examples = settings(max_examples=10, suppress_health_check=list(HealthCheck))
    test = create_test(
        operation=document[path][method],
        test_func=validate,
        config=HypothesisTestConfig(
            document.config, modes=list(HypothesisTestMode), explicit_settings=examples
        ),
    )
    with requests.Session() as session:  # a connection for each case would take a fifth of the time
        test(server=server, session=session)

"""The OpenAPI 3.1 document, made from the tables of endpoints and the structs they use."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from fiscus.health import VERSION, HealthAnswer
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS
from fiscus.http.management.endpoints import Endpoint, NoBody
from fiscus.http.management.stream import StreamLine, StreamSummary
from fiscus.http.monitoring.probes import ProbeAnswer
from fiscus.http.openapi.descriptions import ABOUT, PATHS, TAGS
from fiscus.http.openapi.operations import add_probes, decision_operation, endpoint_operation
from fiscus.http.openapi.responses import LIMIT_HEADERS
from fiscus.http.openapi.schemas import Json, Schemas
from fiscus.wire.items import ItemError
from fiscus.wire.paths import BASE_PATH
from fiscus.wire.problems import Problem


def build_document(endpoints: Iterable[Endpoint[Any, Any]]) -> bytes:
    """The document as JSON."""
    rows = tuple(endpoints)
    schemas = Schemas(_types(rows), (row.query for row in rows))
    paths: dict[str, Json] = {}
    for decision in DECISION_ENDPOINTS:
        place = paths.setdefault(BASE_PATH + decision.path, {})
        place["post"] = decision_operation(decision, schemas)
    for endpoint in rows:
        place = paths.setdefault(BASE_PATH + endpoint.path, {})
        place[endpoint.method.lower()] = endpoint_operation(endpoint, schemas)
    paths = {BASE_PATH + path: paths[BASE_PATH + path] for path in PATHS}
    for prefix in ("", BASE_PATH):
        add_probes(paths, prefix, schemas)
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Fiscus",
            "version": VERSION,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": _servers("/"),
        "security": [{"ApiKey": []}, {"Bearer": []}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": LIMIT_HEADERS,
            "securitySchemes": {
                "ApiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "An API key, `fsk_…`.",
                },
                "Bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A JSON Web Token with the claims `sub`, `tenant_id`, `roles` "
                    "and `exp`, or an API key.",
                },
            },
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


def served_at(url: str, document: bytes) -> bytes:
    """The document of a server whose paths are below a URL."""
    members = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    members["servers"] = msgspec.Raw(msgspec.json.encode(_servers(url)))
    return msgspec.json.encode(members)


def _servers(url: str) -> list[Json]:
    return [{"url": url, "description": "This server."}]


def _types(rows: Iterable[Endpoint[Any, Any]]) -> Iterable[type[Struct]]:
    yield from (Problem, ItemError, StreamLine, StreamSummary, HealthAnswer, ProbeAnswer)
    for decision in DECISION_ENDPOINTS:
        yield from (decision.request, decision.answer)
    for endpoint in rows:
        if endpoint.request is not NoBody:
            yield endpoint.request
        if endpoint.answer is not None:
            yield endpoint.answer


__all__ = ["build_document", "served_at"]

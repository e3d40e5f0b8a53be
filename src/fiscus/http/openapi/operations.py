"""Operations: what may be asked at a path, made from its row in a table; and the probes."""

from __future__ import annotations

import re
from typing import Any

from fiscus.access.model import ALLOWED, Action
from fiscus.health import HealthAnswer
from fiscus.http.fast_lane.decisions import DecisionEndpoint
from fiscus.http.management.endpoints import Endpoint, NoBody
from fiscus.http.management.stream import NDJSON
from fiscus.http.monitoring.probes import ProbeAnswer
from fiscus.http.openapi.examples import ANSWERS, REQUESTS
from fiscus.http.openapi.parameters import (
    CORRELATION_ID,
    IDEMPOTENCY_KEY,
    IF_MATCH,
    path_parameter,
    query_parameters,
)
from fiscus.http.openapi.responses import (
    CORRELATION_HEADER,
    EVERYWHERE,
    RETRY_AFTER,
    answer_response,
    error_responses,
    stream_response,
    with_limits,
)
from fiscus.http.openapi.schemas import Json, Schemas
from fiscus.ratelimits.calls import RateLimitCheckAnswer


def decision_operation(decision: DecisionEndpoint, schemas: Schemas) -> Json:
    """The operation of a row of `DECISION_ENDPOINTS`."""
    parameters = [path_parameter(name) for name in re.findall(r"{(\w+)}", decision.path)]
    codes = [*decision.errors, "PAYLOAD_TOO_LARGE"]
    if decision.may_enforce:
        parameters.append(
            {
                "name": "enforce",
                "in": "query",
                "description": "`true`: a denial answers 402 or 429 instead of 200, for proxies "
                "that go by the status alone. The answer is in `details`, of a batch the whole "
                "one: its other checks hold or took what they were allowed.",
                "schema": {"type": "boolean", "default": False},
            }
        )
    if decision.is_idempotent:
        codes.append("IDEMPOTENCY_CONFLICT")
        parameters.append(IDEMPOTENCY_KEY)
    parameters.append(CORRELATION_ID)
    answer = answer_response(
        schemas.of(decision.answer), ANSWERS[decision.operation], ("application/json",)
    )
    if decision.answer is RateLimitCheckAnswer:  # a denial of 200 says when to come again, too
        answer["headers"]["Retry-After"] = RETRY_AFTER
    return {
        "operationId": decision.operation,
        "tags": [decision.tag],
        "summary": decision.summary,
        "description": _who_may(decision.action),
        "parameters": parameters,
        "requestBody": _request_body(
            schemas.of(decision.request), decision.example, required=not decision.may_be_empty
        ),
        "responses": with_limits(
            {
                str(decision.status): answer,
                **error_responses((*EVERYWHERE, *codes), schemas, decision.operation),
            }
        ),
    }


def endpoint_operation(endpoint: Endpoint[Any, Any], schemas: Schemas) -> Json:
    """The operation of a row of a table of managing endpoints."""
    parameters = [path_parameter(name, note) for name, note in endpoint.path_notes.items()]
    parameters += query_parameters(endpoint, schemas)
    if endpoint.idempotent:
        parameters.append(IDEMPOTENCY_KEY)
    if endpoint.takes_if_match:
        parameters.append(IF_MATCH)
    parameters.append(CORRELATION_ID)
    operation: Json = {
        "operationId": endpoint.operation,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": " ".join(
            text for text in (endpoint.description, _who_may(endpoint.action)) if text
        ),
        "parameters": parameters,
    }
    if endpoint.streams:
        operation["requestBody"] = {
            "required": True,
            "description": "One JSON object per line.",
            "content": {
                NDJSON: {"schema": {"type": "string"}, "example": REQUESTS["stream_records"]}
            },
        }
    elif endpoint.request is not NoBody:
        operation["requestBody"] = _request_body(
            schemas.of(endpoint.request), REQUESTS[endpoint.operation]
        )
    if endpoint.answer is None:
        answer: Json = {
            "description": "Done.",
            "headers": {"X-Correlation-ID": CORRELATION_HEADER},
        }
    elif endpoint.streams:
        answer = stream_response()
    else:
        answer = answer_response(
            schemas.of(endpoint.answer), ANSWERS[endpoint.operation], endpoint.content_types
        )
    if endpoint.versioned:
        answer["headers"]["ETag"] = {
            "description": "The version, for `If-Match`.",
            "schema": {"type": "string"},
        }
        if endpoint.status == 201:
            answer["headers"]["Location"] = {
                "description": "Where what was made is from now on.",
                "schema": {"type": "string", "format": "uri-reference"},
            }
    operation["responses"] = with_limits(
        {
            str(endpoint.status): answer,
            **error_responses((*EVERYWHERE, *endpoint.errors), schemas, endpoint.operation),
        }
    )
    return operation


def add_probes(paths: dict[str, Json], prefix: str, schemas: Schemas) -> None:
    """Add to `paths` what `probes_router` answers below `prefix`."""
    under = "_of_api" if prefix else ""
    for name, path, kind, summary in (
        ("health", "/health", HealthAnswer, "How Fiscus and what it needs are"),
        ("live", "/health/live", ProbeAnswer, "Whether the process runs"),
        ("ready", "/health/ready", ProbeAnswer, "Whether traffic may come here"),
    ):
        responses: Json = {
            "200": answer_response(schemas.of(kind), ANSWERS[name], ("application/json",))
        }
        if name != "live":
            responses["503"] = answer_response(
                schemas.of(kind),
                ANSWERS[f"{name}_down"],
                ("application/json",),
                "The same, when no traffic should come here.",
            )
        paths[prefix + path] = {
            "get": {
                "operationId": name + under,
                "tags": ["Operation"],
                "summary": summary,
                "description": "Needs no credential.",
                "security": [],
                "parameters": [CORRELATION_ID],
                "responses": responses,
            }
        }
    paths[prefix + "/metrics"] = {
        "get": {
            "operationId": "metrics" + under,
            "tags": ["Operation"],
            "summary": "Metrics for Prometheus",
            "description": "For platform_admin and system_architect; the budgets and quotas that "
            "are used most, whose series name tenants, for platform_admin only.",
            "parameters": [CORRELATION_ID],
            "responses": {
                "200": {
                    "description": "Metrics in the text format of Prometheus.",
                    "headers": {"X-Correlation-ID": CORRELATION_HEADER},
                    "content": {
                        "text/plain": {"schema": {"type": "string"}, "example": ANSWERS["metrics"]}
                    },
                },
                **error_responses(
                    ("UNAUTHORIZED", "FORBIDDEN", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE"),
                    schemas,
                    "metrics",
                ),
            },
        }
    }


def _request_body(schema: Json, example: Any, *, required: bool = True) -> Json:
    return {
        "required": required,
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _who_may(action: Action) -> str:
    roles = sorted(str(role) for role in ALLOWED[action])
    return "For " + ", ".join(roles) + " and platform_admin."


__all__ = ["add_probes", "decision_operation", "endpoint_operation"]

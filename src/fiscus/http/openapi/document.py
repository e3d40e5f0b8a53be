"""The OpenAPI 3.1 document, made from the tables of endpoints and the structs they use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from fiscus.access.model import ALLOWED, Action
from fiscus.costs.calls import RecordRequest
from fiscus.health import VERSION, HealthAnswer
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS, DecisionEndpoint
from fiscus.http.management.endpoints import Endpoint, NoBody
from fiscus.http.management.queries import Shape, shapes_of
from fiscus.http.management.stream import NDJSON, StreamLine, StreamSummary
from fiscus.http.monitoring.probes import ProbeAnswer
from fiscus.http.openapi.descriptions import ABOUT, FIELDS, PATHS, TAGS
from fiscus.http.openapi.examples import ANSWERS, ERRORS, OWN_ERRORS, PATH_IDS, QUERIES, REQUESTS
from fiscus.ids import is_uuid
from fiscus.money import MAX_TEXT, Amount
from fiscus.quotas.model import QuotaSpec
from fiscus.ratelimits.calls import RateLimitCheckAnswer
from fiscus.wire.items import ItemError
from fiscus.wire.nesting import FreeForm
from fiscus.wire.paths import BASE_PATH
from fiscus.wire.problems import STATUS_OF, Problem
from fiscus.wire.texts import KEY_PATTERN

Json = dict[str, Any]

EVERYWHERE: Final = (
    "VALIDATION_ERROR",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "RATE_LIMIT_VIOLATED",
    "INTERNAL_ERROR",
    "SERVICE_UNAVAILABLE",
)
"""Codes that every endpoint with a credential may answer."""

_REF: Final = "#/components/schemas/{name}"
_OWN_LINE: Final = re.compile(r"\s*\n\s*")


def build_document(endpoints: Iterable[Endpoint[Any, Any]]) -> bytes:
    """The document as JSON."""
    rows = tuple(endpoints)
    schemas = _Schemas(_types(rows), (row.query for row in rows))
    paths: dict[str, Json] = {}
    for decision in DECISION_ENDPOINTS:
        paths.setdefault(BASE_PATH + decision.path, {})["post"] = _decision(decision, schemas)
    for endpoint in rows:
        place = paths.setdefault(BASE_PATH + endpoint.path, {})
        place[endpoint.method.lower()] = _endpoint(endpoint, schemas)
    paths = {BASE_PATH + path: paths[BASE_PATH + path] for path in PATHS}
    for prefix in ("", BASE_PATH):
        _add_probes(paths, prefix, schemas)
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
            "headers": _LIMIT_HEADERS,
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


class _Schemas:
    """Schemas of structs, as what is on the wire: amounts are numbers, patterns are ECMA's."""

    def __init__(self, types: Iterable[type[Struct]], queries: Iterable[type[Struct]]) -> None:
        bodies = tuple(dict.fromkeys(types))
        self._types = tuple(dict.fromkeys((*bodies, *queries)))
        made, components = msgspec.json.schema_components(
            self._types, schema_hook=_own_type, ref_template=_REF
        )
        self._of = dict(zip(self._types, made, strict=True))
        self.components: Json = {
            name: _as_on_the_wire(schema) for name, schema in sorted(components.items())
        }
        for title, schema in self.components.items():
            for name, field in schema.get("properties", {}).items():
                if "description" not in field:
                    field["description"] = FIELDS.get(f"{title}.{name}") or FIELDS[name]
        # the parameters of a query stand with its operation
        self._queries: Json = {
            _name(self._of[kind]): self.components.pop(_name(self._of[kind]))
            for kind in self._types
            if kind not in bodies
        }
        # a record of a batch is checked apart from its neighbours, and so arrives as it is
        batch = self.components["RecordBatchRequest"]["properties"]
        batch["records"]["items"] = self.of(RecordRequest)
        batch = self.components["AllocateBatchRequest"]["properties"]
        batch["allocations"]["items"] = self.of(QuotaSpec)

    def of(self, kind: type[Struct]) -> Json:
        return self._of[kind]

    def properties(self, kind: type[Struct]) -> Json:
        """The properties of `kind` by name."""
        name = _name(self.of(kind))
        component = self._queries.get(name) or self.components[name]
        properties: Json = component.get("properties", {})
        return properties


def _name(reference: Json) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[1]


def _types(rows: Iterable[Endpoint[Any, Any]]) -> Iterable[type[Struct]]:
    yield from (Problem, ItemError, StreamLine, StreamSummary, HealthAnswer, ProbeAnswer)
    for decision in DECISION_ENDPOINTS:
        yield from (decision.request, decision.answer)
    for endpoint in rows:
        if endpoint.request is not NoBody:
            yield endpoint.request
        if endpoint.answer is not None:
            yield endpoint.answer


def _own_type(kind: type) -> Json:
    if kind is Amount:
        return {
            "anyOf": [
                {"type": "number"},
                {
                    "type": "string",
                    "pattern": r"^-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?$",
                    "maxLength": MAX_TEXT,
                },
            ]
        }
    if kind is FreeForm:
        return {"type": "object"}
    raise NotImplementedError(kind)  # how a hook of msgspec says that it does not know a type


def _as_on_the_wire(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_as_on_the_wire(one) for one in schema]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(schema, dict):
        return schema
    found: Json = {}
    for key, value in schema.items():  # pyright: ignore[reportUnknownVariableType]
        found[str(key)] = _as_on_the_wire(value)  # pyright: ignore[reportUnknownArgumentType]
    if found.get("format") == "decimal":
        del found["format"]
        found["type"] = "number"
    if isinstance(found.get("pattern"), str):
        found["pattern"] = found["pattern"].replace(r"\Z", "$")
    if isinstance(found.get("description"), str):
        found["description"] = _OWN_LINE.sub(" ", found["description"])
    return found


# ---------------------------------------------------------------- operations


def _decision(decision: DecisionEndpoint, schemas: _Schemas) -> Json:
    parameters = [_path_parameter(name) for name in re.findall(r"{(\w+)}", decision.path)]
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
        parameters.append(_IDEMPOTENCY_KEY)
    parameters.append(_CORRELATION_ID)
    answer = _answer(
        schemas.of(decision.answer), ANSWERS[decision.operation], ("application/json",)
    )
    if decision.answer is RateLimitCheckAnswer:  # a denial of 200 says when to come again, too
        answer["headers"]["Retry-After"] = _RETRY_AFTER
    return {
        "operationId": decision.operation,
        "tags": [decision.tag],
        "summary": decision.summary,
        "description": _who_may(decision.action),
        "parameters": parameters,
        "requestBody": _request_body(
            schemas.of(decision.request), decision.example, required=not decision.may_be_empty
        ),
        "responses": _limited(
            {
                str(decision.status): answer,
                **_errors((*EVERYWHERE, *codes), schemas, decision.operation),
            }
        ),
    }


def _endpoint(endpoint: Endpoint[Any, Any], schemas: _Schemas) -> Json:
    parameters = [_path_parameter(name, note) for name, note in endpoint.path_notes.items()]
    parameters += _query_parameters(endpoint, schemas)
    if endpoint.idempotent:
        parameters.append(_IDEMPOTENCY_KEY)
    if endpoint.takes_if_match:
        parameters.append(_IF_MATCH)
    parameters.append(_CORRELATION_ID)
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
            "headers": {"X-Correlation-ID": _CORRELATION_HEADER},
        }
    elif endpoint.streams:
        answer = _stream_answer()
    else:
        answer = _answer(
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
    operation["responses"] = _limited(
        {
            str(endpoint.status): answer,
            **_errors((*EVERYWHERE, *endpoint.errors), schemas, endpoint.operation),
        }
    )
    return operation


def _add_probes(paths: dict[str, Json], prefix: str, schemas: _Schemas) -> None:
    under = "_of_api" if prefix else ""
    for name, path, kind, summary in (
        ("health", "/health", HealthAnswer, "How Fiscus and what it needs are"),
        ("live", "/health/live", ProbeAnswer, "Whether the process runs"),
        ("ready", "/health/ready", ProbeAnswer, "Whether traffic may come here"),
    ):
        responses: Json = {"200": _answer(schemas.of(kind), ANSWERS[name], ("application/json",))}
        if name != "live":
            responses["503"] = _answer(
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
                "parameters": [_CORRELATION_ID],
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
            "parameters": [_CORRELATION_ID],
            "responses": {
                "200": {
                    "description": "Metrics in the text format of Prometheus.",
                    "headers": {"X-Correlation-ID": _CORRELATION_HEADER},
                    "content": {
                        "text/plain": {"schema": {"type": "string"}, "example": ANSWERS["metrics"]}
                    },
                },
                **_errors(
                    ("UNAUTHORIZED", "FORBIDDEN", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE"),
                    schemas,
                    "metrics",
                ),
            },
        }
    }


# ---------------------------------------------------------------- parts of operations

_TEXT: Final[Json] = {"type": "string"}
_WHOLE: Final[Json] = {"type": "integer"}
_LIMITS_TOLD: Final = (
    " Of the policies that apply, in the answer to a single check of rate limits; else of the "
    "API's own limits. Left out where none holds."
)
_CORRELATION_ID: Final[Json] = {
    "name": "X-Correlation-ID",
    "in": "header",
    "description": "Your name for this request, in logs and the answer; made when left out.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:/+=@-]{1,128}$"},
}
_IDEMPOTENCY_KEY: Final[Json] = {
    "name": "X-Idempotency-Key",
    "in": "header",
    "description": "Makes it safe to send the request again: the same key and body get the same "
    "answer, another body 409. `Idempotency-Key` is taken too.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": 256,
        "pattern": KEY_PATTERN.replace(r"\Z", "$"),
    },
}
_IF_MATCH: Final[Json] = {
    "name": "If-Match",
    "in": "header",
    "description": "The `ETag` of the version being replaced, or `*` for any; another version, "
    "or none, answers 409.",
    "schema": {"type": "string", "pattern": '^("[0-9]{1,18}"|\\*)$'},
}
_RETRY_AFTER: Final[Json] = {
    "description": "Seconds to wait before trying again.",
    "schema": {"type": "integer"},
}
_LIMIT_HEADERS: Final[Json] = {
    name: {"description": text + _LIMITS_TOLD, "schema": schema}
    for name, text, schema in (
        ("RateLimit-Policy", "Each limit as a member: its quota `q` in `w` seconds.", _TEXT),
        (
            "RateLimit",
            "Each limit: what remains, `r`, and the seconds `t` until it is unused or admits.",
            _TEXT,
        ),
        ("X-RateLimit-Limit", "The limit that decides.", _WHOLE),
        ("X-RateLimit-Remaining", "What could be taken now.", _WHOLE),
        ("X-RateLimit-Reset", "When the limit that decides would be unused, as Unix time.", _WHOLE),
    )
}
_CORRELATION_HEADER: Final[Json] = {
    "description": "Names this request in the logs.",
    "schema": {"type": "string"},
}


def _who_may(action: Action) -> str:
    roles = sorted(str(role) for role in ALLOWED[action])
    return "For " + ", ".join(roles) + " and platform_admin."


_MADE: Final = (
    " The example is of another server: put in one that you were answered. `/docs` does, with the "
    "last that was made there."
)


def _path_parameter(name: str, note: str | None = None) -> Json:
    is_made = is_uuid(PATH_IDS[name])  # by the server, and so another on each
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": (note or FIELDS[name]) + (_MADE if is_made else ""),
        "schema": {"type": "string"},
        "example": PATH_IDS[name],
    }


_AS_PAIRS: Final = (
    " As `key:value`, once per tag. The key ends at the first colon; one that holds a colon, or "
    'begins with a brace, is sent in a JSON object: `{"aws:createdBy":"ann"}`. A key that is sent '
    "with two values is refused."
)


def _query_parameters(endpoint: Endpoint[Any, Any], schemas: _Schemas) -> list[Json]:
    properties = schemas.properties(endpoint.query)
    shapes = shapes_of(endpoint.query)
    examples = QUERIES.get(endpoint.operation, {})
    found: list[Json] = []
    for name, schema in properties.items():
        parameter: Json = {
            "name": name,
            "in": "query",
            "description": schema["description"],
            "schema": _without_null({k: v for k, v in schema.items() if k != "description"}),
        }
        if shapes[name] is Shape.PAIRS:
            parameter["description"] += _AS_PAIRS
            parameter["schema"] = {
                "type": "array",
                "items": {"type": "string", "pattern": r"^([^:{][^:]{0,127}:.{0,256}|\{.*\})$"},
                "maxItems": schema.get("maxProperties", 50),
            }
        if name in examples:
            parameter["example"] = examples[name]
        found.append(parameter)
    return found


def _without_null(schema: Json) -> Json:
    """A parameter is left out, never sent as null."""
    options = schema.get("anyOf")
    if options is None:
        return schema
    rest = [one for one in options if one != {"type": "null"}]
    others = {k: v for k, v in schema.items() if k not in {"anyOf", "default"}}
    return {**others, **rest[0]} if len(rest) == 1 else {**others, "anyOf": rest}


def _request_body(schema: Json, example: Any, *, required: bool = True) -> Json:
    return {
        "required": required,
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _answer(
    schema: Json, example: Any, content_types: tuple[str, ...], description: str = "The answer."
) -> Json:
    content: Json = {}
    for content_type in content_types:
        if content_type == "text/csv":
            content[content_type] = {"schema": {"type": "string"}, "example": ANSWERS["report_csv"]}
        else:
            content[content_type] = {"schema": schema, "example": example}
    return {
        "description": description,
        "headers": {"X-Correlation-ID": _CORRELATION_HEADER},
        "content": content,
    }


def _stream_answer() -> Json:
    return {
        "description": "A `StreamLine` per line sent, then a `StreamSummary`, each on a line.",
        "headers": {"X-Correlation-ID": _CORRELATION_HEADER},
        "content": {
            NDJSON: {"schema": {"type": "string"}, "example": ANSWERS["stream_records"]},
        },
    }


def _limited(responses: Json) -> Json:
    """Answers tell of limits once it is known who asks."""
    for status, response in responses.items():
        if status != str(STATUS_OF["UNAUTHORIZED"]):
            response["headers"] |= {
                name: {"$ref": f"#/components/headers/{name}"} for name in _LIMIT_HEADERS
            }
    return responses


def _errors(codes: Iterable[str], schemas: _Schemas, operation: str) -> Json:
    """A response per status, with an example per code: the operation's own where it has one."""
    examples = ERRORS | OWN_ERRORS.get(operation, {})
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUS_OF[code], []).append(code)
    return {
        str(status): _problem(status, {code: examples[code] for code in found}, schemas)
        for status, found in sorted(by_status.items())
    }


def _problem(status: int, examples: Json, schemas: _Schemas) -> Json:
    headers: Json = {"X-Correlation-ID": _CORRELATION_HEADER}
    if status in {429, 503}:
        headers["Retry-After"] = _RETRY_AFTER
    if status == 401:
        headers["WWW-Authenticate"] = {
            "description": "The schemes that are taken.",
            "schema": {"type": "string"},
        }
    return {
        "description": " or ".join(f"`{code}`" for code in examples),
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": schemas.of(Problem),
                "examples": {code: {"value": one} for code, one in examples.items()},
            }
        },
    }


__all__ = ["EVERYWHERE", "build_document", "served_at"]

"""Parameters of operations: what is sent in the path, the query and the header."""

from __future__ import annotations

from typing import Any, Final

from fiscus.http.management.endpoints import Endpoint
from fiscus.http.management.queries import Shape, shapes_of
from fiscus.http.openapi.descriptions import FIELDS
from fiscus.http.openapi.examples import PATH_IDS, QUERIES
from fiscus.http.openapi.schemas import Json, Schemas
from fiscus.ids import is_uuid
from fiscus.wire.texts import KEY_PATTERN

CORRELATION_ID: Final[Json] = {
    "name": "X-Correlation-ID",
    "in": "header",
    "description": "Your name for this request, in logs and the answer; made when left out.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:/+=@-]{1,128}$"},
}
IDEMPOTENCY_KEY: Final[Json] = {
    "name": "X-Idempotency-Key",
    "in": "header",
    "description": "Makes it safe to send the request again: the same key and body get the same "
    "answer, another body 409. Good for 24 hours, of a budget check for its `ttl_seconds` and "
    "at least 5 minutes, of quota allocations for 7 days. `Idempotency-Key` is taken too.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": 256,
        "pattern": KEY_PATTERN.replace(r"\Z", "$"),
    },
}
IF_MATCH: Final[Json] = {
    "name": "If-Match",
    "in": "header",
    "description": "The `ETag` of the version being replaced, or `*` for any; another version, "
    "or none, answers 409.",
    "schema": {"type": "string", "pattern": '^("[0-9]{1,18}"|\\*)$'},
}
_MADE: Final = (
    " The example is of another server: put in one that you were answered. `/docs` does, with the "
    "last that was made there."
)
_AS_PAIRS: Final = (
    " As `key:value`, once per tag. The key ends at the first colon; one that holds a colon, or "
    'begins with a brace, is sent in a JSON object: `{"aws:createdBy":"ann"}`. A key that is sent '
    "with two values is refused."
)


def path_parameter(name: str, note: str | None = None) -> Json:
    """An id in the path; `note` is what it is, if its field's description does not say."""
    is_made = is_uuid(PATH_IDS[name])  # by the server, and so another on each
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": (note or FIELDS[name]) + (_MADE if is_made else ""),
        "schema": {"type": "string"},
        "example": PATH_IDS[name],
    }


def query_parameters(endpoint: Endpoint[Any, Any], schemas: Schemas) -> list[Json]:
    """Parameters of the query, one for each field of its struct."""
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


__all__ = ["CORRELATION_ID", "IDEMPOTENCY_KEY", "IF_MATCH", "path_parameter", "query_parameters"]

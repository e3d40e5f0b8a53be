"""Responses of operations: answers and problems, with their header fields."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fiscus.http.management.stream import NDJSON
from fiscus.http.openapi.examples import ANSWERS, ERRORS, OWN_ERRORS
from fiscus.http.openapi.schemas import Json, Schemas
from fiscus.wire.problems import STATUS_OF, Problem

EVERYWHERE: Final = (
    "VALIDATION_ERROR",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "RATE_LIMIT_VIOLATED",
    "INTERNAL_ERROR",
    "SERVICE_UNAVAILABLE",
)
"""Codes that every endpoint with a credential may answer."""

_TEXT: Final[Json] = {"type": "string"}
_WHOLE: Final[Json] = {"type": "integer"}
_LIMITS_TOLD: Final = (
    " Of the policies that apply, in the answer to a single check of rate limits; else of the "
    "API's own limits. Left out where none holds."
)
RETRY_AFTER: Final[Json] = {
    "description": "Seconds to wait before trying again.",
    "schema": {"type": "integer"},
}
LIMIT_HEADERS: Final[Json] = {
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
CORRELATION_HEADER: Final[Json] = {
    "description": "Names this request in the logs.",
    "schema": {"type": "string"},
}


def answer_response(
    schema: Json, example: Any, content_types: tuple[str, ...], description: str = "The answer."
) -> Json:
    """The response of an answer; as CSV it has an example of its own."""
    content: Json = {}
    for content_type in content_types:
        if content_type == "text/csv":
            content[content_type] = {"schema": {"type": "string"}, "example": ANSWERS["report_csv"]}
        else:
            content[content_type] = {"schema": schema, "example": example}
    return {
        "description": description,
        "headers": {"X-Correlation-ID": CORRELATION_HEADER},
        "content": content,
    }


def stream_response() -> Json:
    """The response to a stream of records."""
    return {
        "description": "A `StreamLine` per line sent, then a `StreamSummary`, each on a line.",
        "headers": {"X-Correlation-ID": CORRELATION_HEADER},
        "content": {
            NDJSON: {"schema": {"type": "string"}, "example": ANSWERS["stream_records"]},
        },
    }


def with_limits(responses: Json) -> Json:
    """Answers tell of limits once it is known who asks."""
    for status, response in responses.items():
        if status != str(STATUS_OF["UNAUTHORIZED"]):
            response["headers"] |= {
                name: {"$ref": f"#/components/headers/{name}"} for name in LIMIT_HEADERS
            }
    return responses


def error_responses(codes: Iterable[str], schemas: Schemas, operation: str) -> Json:
    """A response per status, with an example per code: the operation's own where it has one."""
    examples = ERRORS | OWN_ERRORS.get(operation, {})
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUS_OF[code], []).append(code)
    return {
        str(status): _problem(status, {code: examples[code] for code in found}, schemas)
        for status, found in sorted(by_status.items())
    }


def _problem(status: int, examples: Json, schemas: Schemas) -> Json:
    headers: Json = {"X-Correlation-ID": CORRELATION_HEADER}
    if status in {429, 503}:
        headers["Retry-After"] = RETRY_AFTER
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


__all__ = [
    "CORRELATION_HEADER",
    "EVERYWHERE",
    "LIMIT_HEADERS",
    "RETRY_AFTER",
    "answer_response",
    "error_responses",
    "stream_response",
    "with_limits",
]

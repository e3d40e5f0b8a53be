"""Answers of all that FastAPI serves: JSON, and errors as problems."""

from __future__ import annotations

from fastapi import Request, Response
from msgspec import Struct

from fiscus.errors import FiscusError
from fiscus.wire.encoding import encode
from fiscus.wire.problems import PROBLEM_JSON, render_problem


def json_reply(
    answer: Struct, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(encode(answer), status, headers=headers, media_type="application/json")


def problem_reply(error: FiscusError, request: Request, *, status: int | None = None) -> Response:
    """`error` as an answer; the state of `request` says whose it is."""
    state: dict[str, str] = request.scope["state"]
    code, headers, body = render_problem(
        error,
        correlation_id=state["correlation_id"],
        tenant_id=state.get("tenant_id"),
        instance=request.scope["path"],
        status=status,
    )
    return Response(
        body,
        code,
        headers=dict(headers),
        media_type=PROBLEM_JSON,
    )


__all__ = ["json_reply", "problem_reply"]

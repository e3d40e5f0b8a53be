"""The layer around the managing endpoints: correlation ids, log context, counts, safe headers."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fiscus.http.monitoring.metrics import Metrics
from fiscus.runtime.logs import get_logger
from fiscus.wire.correlation import correlation_id_of
from fiscus.wire.headers import raw
from fiscus.wire.problems import PROBLEM_JSON, render_problem, request_failed

log = get_logger(__name__)

_SAFE_HEADERS: Final = ((b"x-content-type-options", b"nosniff"),)
_NOT_KEPT: Final = (b"cache-control", b"no-store")


class Edge:
    """Gives every request its correlation id, and every answer its headers and its count.

    An exception that nobody expected becomes a problem without its stack trace, and so does the end
    of a server that waits no longer.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method: str = scope["method"]
        if method == "HEAD":
            # answered as GET; the server, which knows what was asked, sends no body
            scope = {**scope, "method": "GET"}
        correlation_id = correlation_id_of(dict(scope["headers"]))
        scope.setdefault("state", {})["correlation_id"] = correlation_id
        scope.pop("route", None)  # of an application that mounts this one
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
                headers.append((b"x-correlation-id", correlation_id.encode()))
                headers.extend(_SAFE_HEADERS)
                if not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append(_NOT_KEPT)
                message = {**message, "headers": headers}
            await send(message)

        with structlog.contextvars.bound_contextvars(correlation_id=correlation_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError):
                    log.warning("request_cut_off", path=scope["path"])
                else:
                    log.exception("request_failed", path=scope["path"])
                if status is None:
                    await _send_failure(scope, correlation_id, send_with_headers)
                    status = 500
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.requested(method, route, status or 0)


async def _send_failure(scope: Scope, correlation_id: str, send: Send) -> None:
    status, headers, body = render_problem(
        request_failed(),
        correlation_id=correlation_id,
        tenant_id=None,
        instance=scope["path"],
    )
    headers += [("Content-Type", PROBLEM_JSON), ("Content-Length", str(len(body)))]
    await send({"type": "http.response.start", "status": status, "headers": raw(headers)})
    await send({"type": "http.response.body", "body": body})

"""How a managing endpoint is declared, and how a call of it runs.

An `Endpoint` is a row of a table: from it come the route, the checks before the handler and the
OpenAPI document. The handler gets a `Call` whose query and body are checked already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

import structlog
from fastapi import Request, Response
from msgspec import Struct

from fiscus.access.model import Action, Principal
from fiscus.clock import to_us
from fiscus.engine import Engine
from fiscus.errors import FiscusError, ValidationError
from fiscus.http.api_limits import ApiLimit, Gate
from fiscus.http.body import read_body
from fiscus.http.callers import caller_of, refused
from fiscus.http.idempotency_keys import idempotency_key_of
from fiscus.http.management.queries import read_query
from fiscus.http.replies import problem_reply
from fiscus.http.sent_once import if_match_is_not_taken
from fiscus.http.server import Server
from fiscus.idempotency import Idempotency, Keyed, if_keyed
from fiscus.ids import require_uuid
from fiscus.runtime.logs import get_logger
from fiscus.wire.decoding import decode
from fiscus.wire.headers import headers_of, raw
from fiscus.wire.paths import BASE_PATH, mount_of
from fiscus.wire.problems import request_failed

log = get_logger(__name__)

Q = TypeVar("Q", bound=Struct)
B = TypeVar("B", bound=Struct)
R = TypeVar("R")


class NoBody(Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint without a request body: what is sent all the same is refused, not ignored."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One call: who makes it, when, and what was sent, checked."""

    server: Server
    principal: Principal
    now: datetime
    correlation_id: str
    query: Q
    body: B
    request: Request

    @property
    def engine(self) -> Engine:
        return self.server.engine

    async def run(self, work: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """Run a store's function in a thread."""
        return await self.server.in_thread(partial(work, *args, **kwargs))

    def tenant_for(self, named: str | None) -> str:
        """The tenant that the call is for, which a problem tells. As `Principal.tenant_for`."""
        tenant_id = self.principal.tenant_for(named)
        self.request.scope["state"]["tenant_id"] = tenant_id
        return tenant_id

    def path_id(self, name: str, what: str) -> str:
        """A UUID of the path. Raises `NotFound` for anything else: there can be no such thing."""
        return require_uuid(self.request.path_params[name], name, what)

    def path_version(self) -> int:
        """The version of the path. Raises `ValidationError`."""
        number: str = self.request.path_params["version"]
        is_number = number.isascii() and number.isdigit() and len(number) <= 9
        if not is_number or int(number) == 0:
            raise ValidationError(
                "version is not a positive whole number",
                field="version",
                suggested_action="Send a version between 1 and the current one.",
            )
        return int(number)

    def location(self, path: str, tenant_id: str) -> dict[str, str]:
        """The header that says where the caller, maybe of another tenant, finds what was made:
        at a path of the API."""
        named = "" if tenant_id == self.principal.tenant_id else f"?tenant_id={tenant_id}"
        return {"Location": f"{mount_of(self.request.scope)}{BASE_PATH}{path}{named}"}

    def idempotency(
        self, tenant_id: str, asked: Keyed, of: str | None = None
    ) -> Idempotency | None:
        """The key of the header, for creations; None when there is none.

        `of` is an id of the path that the body does not repeat.
        """
        key = idempotency_key_of(dict(self.request.scope["headers"]))
        body = self.body if of is None else (of, self.body)
        return if_keyed(tenant_id, asked, key, body, self.now)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Q, B]):
    """One endpoint: where it is, what it takes and answers, who may call it, what runs."""

    operation: str
    method: str
    path: str
    """Below the base path."""
    tag: str
    summary: str
    handler: Callable[[Call[Q, B]], Awaitable[Response]]
    action: Action
    answer: type[Struct] | None
    """None: the answer has no body."""
    query: type[Q]
    request: type[B]
    status: int = 200
    description: str = ""
    errors: tuple[str, ...] = ()
    """Codes beyond those that every endpoint may answer."""
    idempotent: bool = False
    """Whether it takes an idempotency key."""
    versioned: bool = False
    """Whether its answer carries an `ETag`."""
    content_types: tuple[str, ...] = ("application/json",)
    streams: bool = False
    """Whether the handler reads the body itself, as NDJSON of any length."""
    limited_as: ApiLimit | None = None
    """Which of the API's own limits holds for it, besides the general ones."""
    path_notes: dict[str, str] = field(default_factory=dict[str, str])
    """What each id in the path is."""

    @property
    def takes_if_match(self) -> bool:
        """Others that change something refuse it, as whoever sends it counts on it."""
        return self.versioned and self.method == "PUT"


async def run_endpoint(endpoint: Endpoint[Q, B], server: Server, request: Request) -> Response:
    """Check the caller, the query and the body, then run the handler; errors become problems."""
    correlation_id: str = request.scope["state"]["correlation_id"]
    headers: dict[bytes, bytes] = dict(request.scope["headers"])
    principal: Principal | None = None
    gate: Gate | None = None
    try:
        now = server.engine.clock.now()
        principal = await caller_of(request, server, now)
        structlog.contextvars.bind_contextvars(tenant_id=principal.tenant_id)
        gate = server.api_limits.gate(principal, endpoint.limited_as, to_us(now))
        await gate.admit()
        principal.require(endpoint.action)
        if b"if-match" in headers and endpoint.method != "GET" and not endpoint.takes_if_match:
            raise if_match_is_not_taken()
        query = read_query(request.scope["query_string"], endpoint.query)
        if endpoint.streams:
            body = endpoint.request()
        else:
            limit = server.engine.settings.max_body_bytes
            sent = await read_body(headers, request.receive, limit)
            if not sent and endpoint.request is NoBody:
                sent = b"{}"
            body = decode(sent, endpoint.request)
        reply = await endpoint.handler(
            Call(server, principal, now, correlation_id, query, body, request)
        )
    except FiscusError as error:
        reply = refused(error, request, server, principal)
    except Exception:
        log.exception("request_failed", path=request.scope["path"], correlation_id=correlation_id)
        reply = problem_reply(request_failed(), request)
    if gate is not None:
        reply.raw_headers.extend(raw(headers_of(gate.left())))
    return reply


__all__ = [
    "Call",
    "Endpoint",
    "NoBody",
    "run_endpoint",
]

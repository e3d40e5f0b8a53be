"""The fast lane: the endpoints that decide and record, straight from ASGI to the ledger.

Each is a row of `DECISIONS`, from which both the routing here and the OpenAPI document are made.
Authentication, correlation ids, metrics and error bodies are those of the other endpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import Any, Final, NamedTuple

import structlog
from msgspec import Struct
from msgspec.structs import replace
from starlette.types import ASGIApp, Receive, Scope, Send

from fiscus.access.model import Action, Principal
from fiscus.budgets.calls import (
    CheckAnswer,
    CheckBatchAnswer,
    CheckBatchRequest,
    CheckRequest,
    ExtendRequest,
    ReleaseRequest,
    ReservationView,
    SettleAnswer,
    SettleRequest,
)
from fiscus.budgets.refusals import refusal
from fiscus.costs.calls import (
    RecordAnswer,
    RecordBatchAnswer,
    RecordBatchRequest,
    RecordRequest,
)
from fiscus.engine import Engine
from fiscus.errors import (
    FiscusError,
    InternalError,
    NotFound,
    Refused,
    ValidationError,
)
from fiscus.http.auth import Authenticator
from fiscus.http.body import read_body
from fiscus.http.correlation import correlation_id_of
from fiscus.http.metrics import Metrics
from fiscus.http.problems import render_problem
from fiscus.http.refusals import note_refusal
from fiscus.http.replies import LoopReplies
from fiscus.ids import is_uuid
from fiscus.ledger.commands import Command, Outcome
from fiscus.ledger.requests import (
    check_batch_command,
    check_command,
    extend_command,
    named_tenant,
    record_batch_command,
    record_command,
    release_command,
    settle_command,
)
from fiscus.wire import decode, encode

log = structlog.get_logger(__name__)

BASE_PATH: Final = "/budget/v1"


class Call(NamedTuple):
    """What a row of the table turns into a command."""

    body: Any
    principal: Principal
    reservation_id: str
    now: datetime
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Decision:
    """One endpoint: where it is, what it takes and answers, who may call it, how it is built."""

    operation: str
    path: str
    summary: str
    request: type[Struct]
    answer: type[Struct]
    command: Callable[[Call], Command]
    example: dict[str, Any]
    status: int = 200
    may_enforce: bool = False
    action: Action = Action.OPERATE


def _check(call: Call) -> Command:
    tenant_id = call.principal.tenant_for(call.body.tenant_id)
    return check_command(call.body, tenant_id, call.now, call.idempotency_key)


def _check_batch(call: Call) -> Command:
    tenants = [call.principal.tenant_for(check.tenant_id) for check in call.body.checks]
    tenant_id = tenants[0]
    return check_batch_command(call.body, tenant_id, call.now, call.idempotency_key)


def _record(call: Call) -> Command:
    tenant_id = call.principal.tenant_for(call.body.tenant_id)
    return record_command(call.body, tenant_id, call.now, call.idempotency_key)


def _record_batch(call: Call) -> Command:
    named = call.body.tenant_id or named_tenant(call.body.records[0])
    tenant_id = call.principal.tenant_for(named)
    return record_batch_command(call.body, tenant_id, call.now, call.idempotency_key)


def _settle(call: Call) -> Command:
    tenant_id = call.principal.tenant_for(call.body.tenant_id)
    return settle_command(call.reservation_id, call.body, tenant_id, call.now, call.idempotency_key)


def _release(call: Call) -> Command:
    tenant_id = call.principal.tenant_for(call.body.tenant_id)
    return release_command(call.reservation_id, tenant_id, call.now, call.idempotency_key)


def _extend(call: Call) -> Command:
    tenant_id = call.principal.tenant_for(call.body.tenant_id)
    return extend_command(
        call.reservation_id, call.body.ttl_seconds, tenant_id, call.now, call.idempotency_key
    )


_CHECK_EXAMPLE: Final[dict[str, Any]] = {
    "resource_type": "llm",
    "estimated_cost": 0.02,
    "project_id": "search",
    "user_id": "u-17",
}
_RECORD_EXAMPLE: Final[dict[str, Any]] = {
    "resource_type": "llm",
    "cost_amount": 0.0187,
    "project_id": "search",
    "usage": {"input_tokens": 812, "output_tokens": 164},
}

DECISIONS: Final = (
    Decision(
        "check",
        "/budgets/check",
        "May this operation be afforded? Reserves its estimate",
        CheckRequest,
        CheckAnswer,
        _check,
        _CHECK_EXAMPLE,
        may_enforce=True,
    ),
    Decision(
        "check_batch",
        "/budgets/check/batch",
        "Up to 500 checks in one transaction",
        CheckBatchRequest,
        CheckBatchAnswer,
        _check_batch,
        {"checks": [_CHECK_EXAMPLE, {**_CHECK_EXAMPLE, "user_id": "u-18"}]},
        may_enforce=True,
    ),
    Decision(
        "settle",
        "/budgets/reservations/{reservation_id}/settle",
        "Record what a reserved operation did cost",
        SettleRequest,
        SettleAnswer,
        _settle,
        {"actual_cost": 0.0187, "usage": {"input_tokens": 812, "output_tokens": 164}},
    ),
    Decision(
        "release",
        "/budgets/reservations/{reservation_id}/release",
        "Give a reservation's money back",
        ReleaseRequest,
        ReservationView,
        _release,
        {},
    ),
    Decision(
        "extend",
        "/budgets/reservations/{reservation_id}/extend",
        "Hold a reservation's money for longer",
        ExtendRequest,
        ReservationView,
        _extend,
        {"ttl_seconds": 600},
    ),
    Decision(
        "record",
        "/cost-tracking/record",
        "Record a cost",
        RecordRequest,
        RecordAnswer,
        _record,
        _RECORD_EXAMPLE,
        status=202,
    ),
    Decision(
        "record_batch",
        "/cost-tracking/record/batch",
        "Record up to 1000 costs; each stands or falls alone",
        RecordBatchRequest,
        RecordBatchAnswer,
        _record_batch,
        {"records": [_RECORD_EXAMPLE, {**_RECORD_EXAMPLE, "cost_amount": 0.0042}]},
        status=202,
    ),
)

_RESERVATIONS: Final = f"{BASE_PATH}/budgets/reservations/"
_EXACT: Final = {BASE_PATH + one.path: one for one in DECISIONS if "{" not in one.path}
_ON_RESERVATION: Final = {one.path.rsplit("/", 1)[1]: one for one in DECISIONS if "{" in one.path}


class DecisionLane:
    """An ASGI layer that answers the decision endpoints and passes on everything else."""

    def __init__(
        self, engine: Engine, authenticator: Authenticator, metrics: Metrics, rest: ASGIApp
    ) -> None:
        self._clock = engine.clock
        self._ledger = engine.ledger
        self._max_body_bytes = engine.settings.max_body_bytes
        self._authenticator = authenticator
        self._metrics = metrics
        self._rest = rest
        self._replies: LoopReplies[Command, Outcome] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            found = _EXACT.get(path)
            if found is not None:
                return await self._answer(found, "", scope, receive, send)
            if path.startswith(_RESERVATIONS):
                reservation_id, _, verb = path[len(_RESERVATIONS) :].partition("/")
                found = _ON_RESERVATION.get(verb)
                if found is not None:
                    return await self._answer(found, reservation_id, scope, receive, send)
        return await self._rest(scope, receive, send)

    async def _answer(
        self,
        decision: Decision,
        reservation_id: str,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        started = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        correlation_id = correlation_id_of(headers)
        principal: Principal | None = None
        tenant_id: str | None = None
        try:
            now = self._clock.now()
            principal = self._authenticator.cached(headers, now)
            if principal is None:
                principal = await self._authenticator.authenticate(headers, now)
            tenant_id = principal.tenant_id
            principal.require(decision.action)
            enforce = _wants_enforcement(decision, scope["query_string"])
            body = await read_body(headers, receive, self._max_body_bytes)
            if decision.request is ReleaseRequest and not body:
                body = b"{}"
            command = decision.command(
                Call(
                    decode(body, decision.request),
                    principal,
                    _as_id(reservation_id),
                    now,
                    _idempotency_key(headers),
                )
            )
            tenant_id = command.tenant_id
            outcome = await self._replies_here().execute(command)
            if isinstance(outcome, FiscusError):
                raise outcome
            allowed = getattr(outcome, "allowed", True)
            if isinstance(outcome, CheckAnswer | CheckBatchAnswer):
                self._metrics.checked(outcome)
            if enforce and not allowed:
                raise _refusal(outcome)
            status, extra = decision.status, _NO_HEADERS
            payload = encode(replace(outcome, correlation_id=correlation_id))
            content_type = b"application/json"
            word = "allowed" if allowed else "denied"
        except FiscusError as error:
            status, extra, payload = render_problem(
                error, correlation_id=correlation_id, tenant_id=tenant_id, instance=scope["path"]
            )
            content_type = b"application/problem+json"
            word = "denied" if isinstance(error, Refused) else "error"
            note_refusal(
                error,
                self._metrics,
                principal=principal,
                path=scope["path"],
                correlation_id=correlation_id,
            )
        except Exception:
            log.exception("request_failed", path=scope["path"], correlation_id=correlation_id)
            status, extra, payload = render_problem(
                InternalError("The request failed"),
                correlation_id=correlation_id,
                tenant_id=tenant_id,
                instance=scope["path"],
            )
            content_type = b"application/problem+json"
            word = "error"
        self._metrics.decided(decision.operation, word, perf_counter() - started)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", content_type),
                    (b"content-length", b"%d" % len(payload)),
                    (b"x-correlation-id", correlation_id.encode()),
                    *extra,
                ],
            }
        )
        await send({"type": "http.response.body", "body": payload})

    def _replies_here(self) -> LoopReplies[Command, Outcome]:
        if self._replies is None:
            self._replies = LoopReplies(self._ledger, asyncio.get_running_loop())
        return self._replies


_NO_HEADERS: Final[list[tuple[bytes, bytes]]] = []


def _wants_enforcement(decision: Decision, query: bytes) -> bool:
    if not query:
        return False
    if decision.may_enforce and query in {b"enforce=true", b"enforce=false"}:
        return query == b"enforce=true"
    field = query.split(b"=", 1)[0].decode("ascii", "replace")
    raise ValidationError(
        f"{field} is not a query parameter of this endpoint, or has no such value",
        field=field,
        suggested_action="Only enforce=true and enforce=false are known, on checks."
        if decision.may_enforce
        else "Send no query parameters.",
    )


def _as_id(reservation_id: str) -> str:
    if reservation_id and not is_uuid(reservation_id):
        raise NotFound(
            f"No reservation {reservation_id[:64]!r} exists",
            details={"reservation_id": reservation_id[:64]},
            suggested_action="Use the reservation_id that the check answered.",
        )
    return reservation_id


def _idempotency_key(headers: dict[bytes, bytes]) -> str | None:
    raw = headers.get(b"x-idempotency-key") or headers.get(b"idempotency-key")
    return None if raw is None else raw.decode("latin-1")


def _refusal(outcome: object) -> Refused:
    """The first denial as an error, for proxies that go by the status alone."""
    if isinstance(outcome, CheckBatchAnswer):
        return refusal(next(one for one in outcome.results if not one.allowed))
    assert isinstance(outcome, CheckAnswer)
    return refusal(outcome)

"""The fast lane: the endpoints that decide and record, straight to ledger and limiter.

Authentication, correlation ids, metrics and error bodies are those of the other endpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from starlette.types import ASGIApp, Receive, Scope, Send

from fiscus.access.model import Principal
from fiscus.budgets.answer_templates import answer_as_json
from fiscus.budgets.answers import BudgetsDecided
from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer
from fiscus.clock import to_us
from fiscus.engine import Engine
from fiscus.errors import FiscusError, Refused
from fiscus.http.api_limits import ApiLimited, ApiLimits, Gate
from fiscus.http.auth.authenticator import Authenticator
from fiscus.http.body import read_body
from fiscus.http.fast_lane.decisions import (
    DecisionCall,
    DecisionEndpoint,
    EndpointMatch,
    match_endpoint,
)
from fiscus.http.fast_lane.enforcement import refusal_of, wants_enforcement
from fiscus.http.fast_lane.limit_checks import LimitChecks
from fiscus.http.header_fields import HeaderFields
from fiscus.http.idempotency_keys import idempotency_key_of
from fiscus.http.limiting import LoopLimiter
from fiscus.http.monitoring.metrics import Metrics
from fiscus.http.refusals import note_refusal, note_refused_items
from fiscus.http.sent_once import if_match_is_not_taken, sent_twice
from fiscus.ids import require_uuid, uuid7
from fiscus.ledger.answers import BudgetBatchDecided, to_answer, to_answer_json
from fiscus.ledger.commands import Check, InvalidRecord, RecordBatch
from fiscus.ledger.loop import AsyncLedger
from fiscus.ledger.remote.results import EncodedAnswer
from fiscus.quotas.calls import QuotaCheckAnswer, QuotaCheckBatchAnswer
from fiscus.ratelimits.calls import RateLimitBatchAnswer, RateLimitCheckAnswer
from fiscus.runtime.logs import get_logger
from fiscus.runtime.repeated import repeated
from fiscus.runtime.turns import NEXT_STEP, TurnClock
from fiscus.wire.correlation import correlation_id_of
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode
from fiscus.wire.headers import FieldLines, headers_of, lines_of, raw
from fiscus.wire.paths import path_below_mount
from fiscus.wire.problems import PROBLEM_JSON, render_problem, request_failed

log = get_logger(__name__)

_MAX_SHOWN: Final = 256


class Reply(Struct, frozen=True):
    """What is answered, with all its headers but those of the server."""

    status: int
    head: FieldLines
    payload: bytes


class DecisionLane:
    """Answers the decision endpoints; as an ASGI layer it passes on everything else.

    `answer` is the whole of a decision. Connections of `fast_lane.connections` call it without
    ASGI between, which takes as long again as many a decision.
    """

    def __init__(
        self,
        engine: Engine,
        authenticator: Authenticator,
        limiter: LoopLimiter,
        api_limits: ApiLimits,
        metrics: Metrics,
        rest: ASGIApp,
    ) -> None:
        self.max_body_bytes: Final = engine.settings.max_body_bytes
        self._clock = TurnClock(engine.clock)
        self._to_us = repeated(to_us)
        self._ledger = engine.ledger
        self._limit_checks = LimitChecks(engine.limiter, limiter)
        self._authenticator = authenticator
        self._api_limits = api_limits
        self._metrics = metrics
        self._rest = rest
        self._async_ledger: AsyncLedger | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        matched = match_endpoint(path_below_mount(scope)) if is_post else None
        if matched is None:
            await self._rest(scope, receive, send)
            return
        path: str = scope["path"]
        headers = HeaderFields(scope["headers"])

        async def read() -> bytes:
            return await read_body(headers, receive, self.max_body_bytes)

        wrong = sent_twice(scope["headers"], headers)
        if wrong is None and b"if-match" in headers:
            wrong = if_match_is_not_taken()
        reply = await self.answer(matched, path, scope["query_string"], headers, read, wrong)
        head = {"status": reply.status, "headers": raw(headers_of(reply.head))}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": reply.payload})

    async def answer(
        self,
        matched: EndpointMatch,
        path: str,
        query: bytes,
        headers: HeaderFields,
        sent: bytes | Callable[[], Awaitable[bytes]],
        wrong: FiscusError | None = None,
    ) -> Reply:
        """Decide what `match_endpoint` found and answer, also for what went wrong; raises nothing.

        `headers` have lower-case names; `sent` is the body, or gives it, once the caller is known;
        `wrong` is what they are refused for. Awaits nothing but futures, those only when something
        has to be waited for, and `NEXT_STEP`.
        """
        started = perf_counter()
        decision, path_id = matched
        correlation_id = correlation_id_of(headers)
        principal: Principal | None = None
        tenant_id: str | None = None
        gate: Gate | None = None
        told = ""
        try:
            if wrong is not None:
                raise wrong
            now = self._clock.now()
            principal = self._authenticator.cached(headers, now)
            if principal is None:
                principal = await self._authenticator.authenticate(headers, now)
            tenant_id = principal.tenant_id
            gate = self._api_limits.gate(principal, decision.limited_as, self._to_us(now))
            # a check of rate limits is decided at once with the API's own limits
            at_once = decision.command is None
            if not at_once:
                await gate.admit()
            try:
                principal.require(decision.action)
                enforce = bool(query) and wants_enforcement(decision, query)
                body = _asked_for(
                    decision,
                    sent if isinstance(sent, bytes) else await _read(sent, path, correlation_id),
                )
                tenant_id = decision.tenant_of(principal, body)
                call = DecisionCall(
                    body,
                    principal,
                    tenant_id,
                    "" if path_id is None else _as_id(decision, path_id),
                    now,
                    None if at_once else idempotency_key_of(headers),
                )
                await NEXT_STEP
                if at_once:
                    outcome, told = await self._limited(call, gate)
                else:
                    outcome = await self._committed(decision, call, path, correlation_id)
            except FiscusError:
                await gate.admit()  # what cannot be decided counts too
                raise
            allowed = getattr(outcome, "allowed", True)
            if enforce and not allowed:
                raise refusal_of(replace(outcome, correlation_id=correlation_id))
            status, content_type = decision.status, "application/json"
            more = told or gate.left()
            payload = _encoded(outcome, correlation_id)
            word = "allowed" if allowed else "denied"
        except FiscusError as error:
            content_type, status, more, payload = self._failed(
                error, principal, tenant_id, path, correlation_id, told or _left(gate)
            )
            word = _outcome_of(error)
        except Exception:
            log.exception("request_failed", path=path, correlation_id=correlation_id)
            content_type, status, more, payload = self._failed(
                request_failed(), principal, tenant_id, path, correlation_id, _left(gate)
            )
            word = "error"
        self._metrics.decided(decision.operation, word, perf_counter() - started)
        return Reply(status, _head(content_type, payload, correlation_id, more), payload)

    def refuse(self, error: FiscusError, url: bytes, status: int | None) -> Reply:
        """The answer to what cannot be read as a request; `url` is what was read of its own."""
        correlation_id = uuid7()
        path = url.partition(b"?")[0].decode("ascii", "replace")[:_MAX_SHOWN] or "/"
        status, more, payload = render_problem(
            error, correlation_id=correlation_id, tenant_id=None, instance=path, status=status
        )
        log.warning(
            "request_refused",
            reason=error.message,
            status=status,
            path=path,
            correlation_id=correlation_id,
        )
        self._metrics.requested("none", "none", status)
        head = _head(PROBLEM_JSON, payload, correlation_id, lines_of(more))
        return Reply(status, head, payload)

    def _failed(
        self,
        error: FiscusError,
        principal: Principal | None,
        tenant_id: str | None,
        path: str,
        correlation_id: str,
        told: FieldLines,
    ) -> tuple[str, int, FieldLines, bytes]:
        """Content type, status, further headers and body of the answer to `error`."""
        try:
            note_refusal(
                error, self._metrics, principal=principal, path=path, correlation_id=correlation_id
            )
            status, more, payload = render_problem(
                error, correlation_id=correlation_id, tenant_id=tenant_id, instance=path
            )
        except Exception:  # one that cannot be told: who asked would wait without end
            log.exception("request_failed", path=path, correlation_id=correlation_id)
            status, more, payload = render_problem(
                request_failed(), correlation_id=correlation_id, tenant_id=None, instance=path
            )
        more = [one for one in headers_of(told) if one[0] != "Retry-After"] + more
        return PROBLEM_JSON, status, lines_of(more), payload

    async def _limited(
        self, call: DecisionCall, gate: Gate
    ) -> tuple[RateLimitCheckAnswer | RateLimitBatchAnswer, FieldLines]:
        """The limiter's answer, with the header fields of its policies."""
        answered = await self._limit_checks.answer(call, gate)
        self._metrics.limited(answered[0])
        await NEXT_STEP
        return answered

    async def _committed(
        self, decision: DecisionEndpoint, call: DecisionCall, path: str, correlation_id: str
    ) -> Any:
        """The ledger's answer; bytes are JSON with the correlation id, of what was allowed."""
        assert decision.command is not None
        command = decision.command(call)
        if type(command) is RecordBatch:
            note_refused_items(
                (one.error for one in command.records if type(one) is InvalidRecord),
                self._metrics,
                principal=call.principal,
                path=path,
                correlation_id=correlation_id,
            )
        outcome = await self._ledger_for_loop().execute(command)
        if isinstance(outcome, FiscusError):
            raise outcome
        if isinstance(outcome, EncodedAnswer):
            if outcome.allowed:
                return outcome
            answer = decode(outcome.answer, decision.answer)
        elif isinstance(outcome, BudgetsDecided) and outcome.allowed:
            assert isinstance(command, Check)
            return answer_as_json(outcome, command, correlation_id).encode()
        elif isinstance(outcome, BudgetBatchDecided) and outcome.allowed:
            return EncodedAnswer(to_answer_json(command, outcome), True)
        else:
            answer = to_answer(command, outcome)
        if isinstance(answer, CheckAnswer | CheckBatchAnswer):
            self._metrics.checked(answer)
        elif isinstance(answer, QuotaCheckAnswer | QuotaCheckBatchAnswer):
            self._metrics.quotas_checked(answer)
        return answer

    def _ledger_for_loop(self) -> AsyncLedger:
        if self._async_ledger is None:
            self._async_ledger = self._ledger.for_running_loop()
        return self._async_ledger


def _head(content_type: str, payload: bytes, correlation_id: str, more: FieldLines) -> FieldLines:
    return (
        f"Content-Type: {content_type}\r\nContent-Length: {len(payload)}\r\n"
        f"X-Correlation-ID: {correlation_id}\r\n{more}"
    )


def _encoded(outcome: Any, correlation_id: str) -> bytes:
    if type(outcome) is bytes:
        return outcome
    if type(outcome) is EncodedAnswer:
        return outcome.with_correlation_id(correlation_id)
    return encode(replace(outcome, correlation_id=correlation_id))


def _left(gate: Gate | None) -> FieldLines:
    """What is told of the API's own limits; nothing of a call that did not come as far."""
    return "" if gate is None else gate.left()


def _outcome_of(error: FiscusError) -> str:
    if isinstance(error, ApiLimited):
        return "limited"
    return "denied" if isinstance(error, Refused) else "error"


async def _read(sent: Callable[[], Awaitable[bytes]], path: str, correlation_id: str) -> bytes:
    """The body. A server that stops waits for it no longer, which is an error of ours."""
    try:
        return await sent()
    except asyncio.CancelledError:
        log.warning("request_cut_off", path=path, correlation_id=correlation_id)
        raise request_failed() from None


def _asked_for(decision: DecisionEndpoint, body: bytes) -> Any:
    if not body and decision.may_be_empty:
        body = b"{}"
    return decode(body, decision.request)


def _as_id(decision: DecisionEndpoint, path_id: str) -> str:
    name = decision.id_name
    return require_uuid(path_id, name, name.removesuffix("_id"))


__all__ = ["DecisionLane", "Reply"]

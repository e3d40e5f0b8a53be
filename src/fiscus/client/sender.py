"""How a call goes to a server: sent, sent again within bounds, its answer decoded."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Final, TypeVar, cast

import httpx
from msgspec import Struct
from msgspec.structs import asdict

from fiscus.client.arguments import given_key
from fiscus.client.backend import NotPicklable
from fiscus.client.problems import NOT_SENT, error_of, not_an_answer, unreachable
from fiscus.client.retries import NOTHING_DONE_STATUSES, RETRIED_STATUSES, Attempts, RetryPolicy
from fiscus.client.transports import Reply, Request, Transport
from fiscus.errors import UNKNOWN_OUTCOME, FiscusError, ValidationError, may_be_done
from fiscus.ids import uuid7
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode
from fiscus.wire.paths import BASE_PATH

T = TypeVar("T")

_DONE: Final = 204
"""The status of what answers nothing."""


class Sender(NotPicklable):
    """One server. Calls with an effect carry an idempotency key, the same in every try."""

    def __init__(self, url: str, transport: Transport, policy: RetryPolicy) -> None:
        self.url: Final = url
        self._transport = transport
        self._policy = policy

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: list[tuple[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        patience_seconds: float | None = None,
    ) -> Reply:
        """Any call, by its path below the base path: sent, and sent again within the policy.

        One that is not repeatable is sent again only when it surely had no effect.
        """
        request = Request(
            method,
            BASE_PATH + path,
            None if body is None else encode(body),
            query or [],
            {"Content-Type": "application/json", **(headers or {})},
        )
        policy = self._policy
        if patience_seconds is not None:
            policy = policy._replace(total_seconds=min(patience_seconds, policy.total_seconds))
        attempts = Attempts(policy, monotonic())
        perhaps_done = False
        while True:
            reply = await self._try(request, attempts.timeout_seconds(monotonic()))
            if isinstance(reply, Reply):
                return reply
            error, may_repeat, nothing_done = reply
            perhaps_done = perhaps_done or may_be_done(error)
            pause = attempts.pause_seconds(monotonic(), error.retry_after_seconds)
            if pause is None or not may_repeat or not (repeatable or nothing_done):
                if perhaps_done:  # by an earlier try, it may be
                    error.details = {**error.details, **UNKNOWN_OUTCOME}
                raise error
            await self._transport.pause(pause)

    async def _get(self, path: str, kind: type[T], query: Struct) -> T:
        return answer_of(await self.call("GET", path, query=_parameters(asdict(query))), kind)

    async def _post(
        self,
        path: str,
        body: Struct,
        kind: type[T],
        *,
        key: str | None = None,
        patience_seconds: float | None = None,
    ) -> T:
        key = uuid7() if key is None else given_key(key)
        reply = await self.call(
            "POST",
            path,
            body=body,
            headers={"Idempotency-Key": key},
            patience_seconds=patience_seconds,
        )
        return answer_of(reply, kind)

    async def uninterrupted(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._transport.uninterrupted(call)

    async def close(self) -> None:
        await self._transport.close()

    async def _try(
        self, request: Request, timeout_seconds: float
    ) -> Reply | tuple[FiscusError, bool, bool]:
        """The answer; or the error, whether to try again, and whether it surely had no effect."""
        try:
            reply = await self._transport.send(request, timeout_seconds)
        except httpx.RequestError as failure:
            error = unreachable(self.url, failure)
            error.__cause__ = failure
            return error, True, isinstance(failure, NOT_SENT)
        if 200 <= reply.status < 300:
            return reply
        error = error_of(reply.status, reply.headers, reply.body)
        return (
            error,
            reply.status in RETRIED_STATUSES,
            reply.status in NOTHING_DONE_STATUSES and error.retriable and not may_be_done(error),
        )


def answer_of(reply: Reply, kind: type[T]) -> T:
    """A success as what the call answers; raises `InternalError` when it is none of Fiscus."""
    try:
        return decode(reply.body, kind)
    except ValidationError as error:
        raise not_an_answer(error) from None


def require_done(reply: Reply) -> None:
    """Raises `InternalError` unless a call that answers nothing was done."""
    if reply.status != _DONE:
        raise not_an_answer(
            ValidationError(f"its status is {reply.status}, not 204", field="status")
        )


def _parameters(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A query as its parameters; a mapping is one for each key."""
    parameters: list[tuple[str, str]] = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, dict):
            pairs = cast("dict[str, str]", value)
            parameters.extend((name, _pair(key, text)) for key, text in pairs.items())
        elif isinstance(value, datetime):
            parameters.append((name, value.isoformat()))
        else:
            parameters.append((name, str(value)))
    return parameters


def _pair(key: str, text: str) -> str:
    """`key:text`, or JSON where that would be read as another key."""
    if ":" in key or key.startswith("{"):
        return encode({key: text}).decode()
    return f"{key}:{text}"

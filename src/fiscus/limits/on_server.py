"""Limits whose policies and counters are on a Fiscus server, or in an engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import time_ns
from typing import Any, Final, NoReturn

from fiscus.client.asynchronous.api import AsyncApi
from fiscus.client.blocking.api import BlockingApi
from fiscus.clock import to_us
from fiscus.errors import InternalError, RateLimitViolated, ServiceUnavailable, ValidationError
from fiscus.limits.base import KeyOf, Limit, check_count, check_text
from fiscus.limits.results import LimitInfo, LimitResult
from fiscus.ratelimits.calls import MAX_RESOURCE_KEY, RateLimitCheckAnswer, fitting
from fiscus.ratelimits.model import OnCountersFailure
from fiscus.ratelimits.rules import MAX_LIMIT, Verdict

_RETRY_US: Final = 1_000_000
_FAILURES: Final = (ServiceUnavailable, InternalError, RateLimitViolated)
"""No decision: the server cannot be reached, failed, or is asked too often by this key."""


class ServerLimit(Limit):
    """Every policy that applies to an operation, as `Client.check_rate_limit` decides them.

    The key of a hit is the `resource_key` of the check, the empty one none. With a client that
    blocks, the calls for event loops run in a thread; with an `AsyncClient` there are only those.
    """

    def __init__(
        self,
        client: BlockingApi | AsyncApi,
        operation: Mapping[str, Any],
        *,
        key: KeyOf | None,
        on_store_failure: OnCountersFailure,
        timeout_seconds: float,
    ) -> None:
        super().__init__(key)
        self._client = client
        self._operation = dict(operation)
        self._on_failure = on_store_failure
        self._timeout_seconds = timeout_seconds

    def hit(self, key: str = "", count: int = 1) -> LimitResult:
        check_count(count, 0)
        try:
            answer = self._blocking().check_rate_limit(
                **self._fields(key, count), patience_seconds=self._timeout_seconds
            )
        except _FAILURES:
            return self._without_server()
        return _result(answer)

    async def hit_async(self, key: str = "", count: int = 1) -> LimitResult:
        if isinstance(self._client, BlockingApi):
            return await asyncio.to_thread(self.hit, key, count)
        check_count(count, 0)
        try:
            answer = await self._client.check_rate_limit(
                **self._fields(key, count), patience_seconds=self._timeout_seconds
            )
        except _FAILURES:
            return self._without_server()
        return _result(answer)

    def adjust(self, key: str, count: int) -> LimitResult:
        check_count(count, -MAX_LIMIT)
        return _result(self._blocking().adjust_rate_limit(**self._fields(key, count)))

    async def adjust_async(self, key: str, count: int) -> LimitResult:
        if isinstance(self._client, BlockingApi):
            return await asyncio.to_thread(self.adjust, key, count)
        check_count(count, -MAX_LIMIT)
        return _result(await self._client.adjust_rate_limit(**self._fields(key, count)))

    def reset(self, key: str = "") -> NoReturn:
        raise ValidationError(
            "The counters of a server are reset by policy",
            field="reset",
            suggested_action="Call POST /rate-limits/{policy_id}/reset.",
        )

    async def reset_async(self, key: str = "") -> NoReturn:
        self.reset(key)

    def close(self) -> None:
        """Nothing: the client belongs to the one who gave it."""

    def _blocking(self) -> BlockingApi:
        if not isinstance(self._client, BlockingApi):
            raise TypeError("with an AsyncClient, use the methods that end in _async")
        return self._client

    def _fields(self, key: str, count: int) -> dict[str, Any]:
        return {**self._operation, "resource_key": _resource_key(key), "request_count": count}

    def _without_server(self) -> LimitResult:
        now_us = time_ns() // 1000
        if self._on_failure is OnCountersFailure.ALLOW:
            return LimitResult(True, (), (), now_us, degraded=True)
        verdict = Verdict(False, 0, _RETRY_US, now_us + _RETRY_US, 0, None)
        return LimitResult(False, (verdict,), (), now_us, degraded=True)


def _resource_key(key: str) -> str | None:
    """A key as the server takes them: none for the empty one, a hash for one that it would refuse,
    such as a header that a client has made too long."""
    check_text(key, "key")
    return fitting(key, MAX_RESOURCE_KEY) if key else None


def _result(answer: RateLimitCheckAnswer) -> LimitResult:
    """An answer as what each policy said; policies that only shadow decide nothing."""
    infos: list[LimitInfo] = []
    verdicts: list[Verdict] = []
    lines = sorted(answer.policies, key=lambda line: line.policy_id != answer.policy_id)
    for line in lines:
        if line.shadow:
            continue
        wait_us = None if line.retry_after is None else line.retry_after * 1_000_000
        if wait_us is not None and answer.retry_after_ms is not None:
            # lines tell whole seconds; none waits for longer than the policy that decides
            wait_us = min(wait_us, answer.retry_after_ms * 1000)
        infos.append(LimitInfo(line.policy_id, line.limit_value, line.time_window_seconds))
        verdicts.append(
            Verdict(
                line.decision != "deny",
                line.remaining_requests,
                wait_us,
                to_us(line.reset_time),
                answer.delay_ms,
                None,
            )
        )
    return LimitResult(
        answer.allowed, tuple(verdicts), tuple(infos), time_ns() // 1000, answer.degraded
    )


__all__ = ["ServerLimit"]

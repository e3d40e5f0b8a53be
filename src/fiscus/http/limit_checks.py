"""Checks of rate limits in the fast lane: prepared, decided with the API's own limit, answered."""

from __future__ import annotations

from msgspec.structs import replace

from fiscus.errors import FiscusError, too_many
from fiscus.http.api_limits import Admitted, ApiLimits, headers_left
from fiscus.http.decisions import Call
from fiscus.http.limiting import LoopLimiter
from fiscus.problems import Headers
from fiscus.ratelimits.calls import (
    MAX_CHECKS,
    RateLimitBatchAnswer,
    RateLimitBatchRequest,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
)
from fiscus.ratelimits.headers import rate_limit_headers
from fiscus.ratelimits.limiter import Limiter, Prepared
from fiscus.ratelimits.port import Take


class LimitChecks:
    """Answers checks of rate limits for the coroutines of one event loop."""

    def __init__(self, limiter: Limiter, loop_limiter: LoopLimiter, api_limits: ApiLimits) -> None:
        self._limiter = limiter
        self._loop_limiter = loop_limiter
        self._api_limits = api_limits

    async def answer(
        self, call: Call, now_us: int, gate: Take | None
    ) -> tuple[RateLimitCheckAnswer | RateLimitBatchAnswer, Headers]:
        """Decide a check of rate limits, or a batch of them; with the headers that tell of it."""
        if isinstance(call.body, RateLimitBatchRequest):
            return await self._batch(call, call.body, now_us, gate)
        try:
            tenant_id = call.principal.tenant_for(call.body.tenant_id)
            if not self._limiter.is_ready(tenant_id):
                await self._loop_limiter.ready(tenant_id, call.now)
            one = self._prepare(call.body, tenant_id, call, now_us)
        except FiscusError:
            if gate is not None:  # a call that cannot be decided counts too
                await self._admit(gate, now_us)
            raise
        takes: tuple[Take, ...] = (one.take,) if one.policies else ()
        admitted: Admitted | None = None
        if gate is not None and one.take.tenant_id == gate.tenant_id:
            takes = (gate, *(replace(take, gated=True) for take in takes))
        elif gate is not None:
            admitted = await self._admit(gate, now_us)
            gate = None
        outcome = await self._loop_limiter.decide(takes, now_us) if takes else None
        if gate is not None:
            judged = None if outcome is None else outcome[0]
            admitted = self._api_limits.judge(gate, judged, now_us)
        taken = outcome[-1] if outcome is not None and one.policies else None
        answer = self._limiter.answer(one, taken, now_us)
        return answer, rate_limit_headers(answer, now_us) or headers_left(admitted)

    async def _batch(
        self, call: Call, batch: RateLimitBatchRequest, now_us: int, gate: Take | None
    ) -> tuple[RateLimitBatchAnswer, Headers]:
        admitted = None if gate is None else await self._admit(gate, now_us)
        if len(batch.checks) > MAX_CHECKS:
            raise too_many("checks", len(batch.checks), MAX_CHECKS)
        prepared: list[Prepared] = []
        for check in batch.checks:
            tenant_id = call.principal.tenant_for(check.tenant_id)
            if not self._limiter.is_ready(tenant_id):
                await self._loop_limiter.ready(tenant_id, call.now)
            prepared.append(self._prepare(check, tenant_id, call, now_us))
        taken = await self._loop_limiter.decide_each(tuple(one.take for one in prepared), now_us)
        answer = self._limiter.answer_batch(prepared, taken, now_us)
        return answer, headers_left(admitted)

    async def _admit(self, gate: Take, now_us: int) -> Admitted:
        outcome = await self._loop_limiter.decide((gate,), now_us)
        return self._api_limits.judge(gate, None if outcome is None else outcome[0], now_us)

    def _prepare(
        self, request: RateLimitCheckRequest, tenant_id: str, call: Call, now_us: int
    ) -> Prepared:
        principal = call.principal
        return self._limiter.prepare(
            request,
            tenant_id,
            call.now,
            now_us,
            principal.key_id,
            principal.highest_priority,
        )


__all__ = ["LimitChecks"]

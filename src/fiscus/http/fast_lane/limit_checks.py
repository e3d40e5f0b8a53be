"""Checks of rate limits in the fast lane: prepared, decided with the API's own limit, answered."""

from __future__ import annotations

from msgspec.structs import replace

from fiscus.errors import too_many
from fiscus.http.api_limits import Gate
from fiscus.http.fast_lane.decisions import DecisionCall
from fiscus.http.limiting import LoopLimiter
from fiscus.match_limits import limit_for_checks
from fiscus.ratelimits.calls import (
    MAX_CHECKS,
    RateLimitBatchAnswer,
    RateLimitBatchRequest,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
)
from fiscus.ratelimits.headers import rate_limit_lines
from fiscus.ratelimits.limiter import POLICIES, Limiter, Prepared
from fiscus.ratelimits.port import Take
from fiscus.runtime.turns import NEXT_STEP
from fiscus.wire.headers import FieldLines


class LimitChecks:
    """Answers checks of rate limits for the coroutines of one event loop."""

    def __init__(self, limiter: Limiter, loop_limiter: LoopLimiter) -> None:
        self._limiter = limiter
        self._loop_limiter = loop_limiter

    async def answer(
        self, call: DecisionCall, gate: Gate
    ) -> tuple[RateLimitCheckAnswer | RateLimitBatchAnswer, FieldLines]:
        """Decide a check of rate limits, or a batch of them; with the headers of its policies.

        `gate` is what the call has to pass. What fails before that is for the caller to count.
        """
        if isinstance(call.body, RateLimitBatchRequest):
            await gate.admit()
            return await self._batch(call, call.body, gate.now_us), ""
        tenant_id, now_us = call.tenant_id, gate.now_us
        if not self._limiter.is_ready(tenant_id):
            await self._loop_limiter.ready(tenant_id, call.now)
        one = self._prepare(call.body, tenant_id, call, now_us)
        takes: tuple[Take, ...] = (one.take,) if one.policies else ()
        own = gate.limits
        together = own is not None and own.take.tenant_id == tenant_id
        if own is not None and together:
            takes = (own.take, *(replace(take, gated=True) for take in takes))
        else:
            await gate.admit()
        outcome = await self._loop_limiter.decide(takes, now_us) if takes else None
        if together:
            gate.judge(None if outcome is None else outcome[0])
        taken = outcome[-1] if outcome is not None and one.policies else None
        await NEXT_STEP
        answer = self._limiter.answer(one, taken, now_us)
        return answer, rate_limit_lines(answer, now_us)

    async def _batch(
        self, call: DecisionCall, batch: RateLimitBatchRequest, now_us: int
    ) -> RateLimitBatchAnswer:
        if len(batch.checks) > MAX_CHECKS:
            raise too_many("checks", len(batch.checks), MAX_CHECKS)
        match_limit = limit_for_checks(len(batch.checks), POLICIES)
        prepared: list[Prepared] = []
        were_read: set[str] = set()
        for check in batch.checks:
            tenant_id = call.principal.tenant_for(check.tenant_id)
            if tenant_id not in were_read:
                await self._loop_limiter.ready(tenant_id, call.now)
                were_read.add(tenant_id)
            prepared.append(self._prepare(check, tenant_id, call, now_us))
            match_limit.add(len(prepared[-1].policies), len(prepared))
        taken = await self._loop_limiter.decide_each(tuple(one.take for one in prepared), now_us)
        return self._limiter.answer_batch(prepared, taken, now_us)

    def _prepare(
        self, request: RateLimitCheckRequest, tenant_id: str, call: DecisionCall, now_us: int
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

"""Decides what Envoy asks: all descriptors of a request together, or none.

A request is over the limit when one of its descriptors is, and then nothing is taken for any of
them: a client that one limit refuses does not use up the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import chain
from math import inf
from typing import Final, NamedTuple, Protocol

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from msgspec.structs import replace

from fiscus.access.model import Principal
from fiscus.clock import to_us
from fiscus.envoy.mapping import DescriptorMapping, Mapped
from fiscus.envoy.reading import DescriptorGroup
from fiscus.errors import ServiceUnavailable
from fiscus.priorities import PRIORITIES, Priority
from fiscus.ratelimits.calls import (
    AdjustRequest,
    PolicyLine,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
)
from fiscus.ratelimits.headers import rate_limit_lines
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.rules import Verdict, deciding
from fiscus.wire.headers import headers_of

_MOST: Final = 2**32 - 1
"""The largest number that Envoy's fields hold."""
_UNITS: Final = {
    1: RateLimitResponse.RateLimit.SECOND,
    60: RateLimitResponse.RateLimit.MINUTE,
    3_600: RateLimitResponse.RateLimit.HOUR,
    86_400: RateLimitResponse.RateLimit.DAY,
    7 * 86_400: RateLimitResponse.RateLimit.WEEK,
    30 * 86_400: RateLimitResponse.RateLimit.MONTH,
    31 * 86_400: RateLimitResponse.RateLimit.MONTH,  # as a calendar month's length is given
    365 * 86_400: RateLimitResponse.RateLimit.YEAR,
}


class Observer(Protocol):
    """Is told what happens; see `http.monitoring.metrics.Metrics`."""

    def decided(self, operation: str, outcome: str, seconds: float) -> None: ...

    def limited(self, answer: RateLimitCheckAnswer) -> None: ...

    def access_denied(self, reason: str) -> None: ...


class _Place(NamedTuple):
    """A check, and the number of the descriptor it is of."""

    number: int
    request: RateLimitCheckRequest


class _Back(NamedTuple):
    """A correction, and the number of the descriptor it is of."""

    number: int
    request: AdjustRequest


class RateLimitService:
    """`ShouldRateLimit`, without gRPC around it."""

    def __init__(self, limiter: Limiter, mapping: DescriptorMapping, observer: Observer) -> None:
        self._limiter = limiter
        self._mapping = mapping
        self._observer = observer

    def decide(self, asked: DescriptorGroup, caller: Principal, now: datetime) -> RateLimitResponse:
        """Decide a request.

        Raises `Forbidden` when a descriptor stands for another tenant than the caller's, before
        anything is decided, and `ServiceUnavailable` when a tenant's policies cannot be read or
        something cannot be given back; it is not `retriable` when some may have been done.
        """
        tenants: dict[str, list[_Place]] = {}
        back: dict[str, list[_Back]] = {}
        for index, (entries, hits) in enumerate(asked.descriptors):
            found = self._mapping.find(asked.domain, entries, max(hits, 0))
            if found is None:
                continue
            tenant_id = caller.tenant_for(found.tenant_id)
            if hits < 0:
                back.setdefault(tenant_id, []).append(_Back(index, _correction(found, hits)))
            else:
                request = _claiming_at_most(caller.highest_priority, found.request)
                tenants.setdefault(tenant_id, []).append(_Place(index, request))
        answers: dict[int, RateLimitCheckAnswer] = {}
        try:
            self._give_back(back, caller, now, answers)
            self._decide_tenants(tenants, caller, now, answers)
        except ServiceUnavailable as error:
            # what was given back or taken before this would be once more
            error.retriable = error.retriable and not answers
            raise
        return self._response(len(asked.descriptors), answers, now)

    def _give_back(
        self,
        tenants: dict[str, list[_Back]],
        caller: Principal,
        now: datetime,
        answers: dict[int, RateLimitCheckAnswer],
    ) -> None:
        """Each tenant's corrections as one: what was taken once is given back once."""
        for tenant_id, places in tenants.items():
            requests = [place.request for place in places]
            corrected = self._limiter.adjust_together(
                requests, tenant_id, now, key_id=caller.key_id
            )
            for place, answer in zip(places, corrected, strict=True):
                answers[place.number] = answer

    def _decide_tenants(
        self,
        tenants: dict[str, list[_Place]],
        caller: Principal,
        now: datetime,
        answers: dict[int, RateLimitCheckAnswer],
    ) -> None:
        """Each tenant's checks as one, in order; once one is denied, the others only look."""
        denied = False
        for tenant_id, places in tenants.items():
            requests = [
                replace(place.request, request_count=0) if denied else place.request
                for place in places
            ]
            decided = self._limiter.check_together(
                requests, tenant_id, now, key_id=caller.key_id, priority=caller.highest_priority
            )
            for place, answer in zip(places, decided, strict=True):
                answers[place.number] = answer
                self._observer.limited(answer)
                denied = denied or not answer.allowed

    def _response(
        self, count: int, answers: dict[int, RateLimitCheckAnswer], now: datetime
    ) -> RateLimitResponse:
        response = RateLimitResponse(overall_code=RateLimitResponse.OK)
        for index in range(count):
            status = response.statuses.add(code=RateLimitResponse.OK)
            answer = answers.get(index)
            if answer is None:
                continue
            if not answer.allowed:
                status.code = response.overall_code = RateLimitResponse.OVER_LIMIT
            _tell_limit(status, answer, now)
        if any(answer.degraded for answer in answers.values()):
            response.dynamic_metadata.fields["degraded"].bool_value = True
        if self._mapping.response_headers:
            for name, value in _headers(answers.values(), now):
                response.response_headers_to_add.add(key=name, value=value)
        return response


def _correction(found: Mapped, hits: int) -> AdjustRequest:
    request = found.request
    return AdjustRequest(
        resource_type=request.resource_type,
        request_count=hits,
        resource_key=request.resource_key,
        project_id=request.project_id,
        user_id=request.user_id,
        feature_id=request.feature_id,
        api_key_id=request.api_key_id,
    )


def _claiming_at_most(highest: Priority, request: RateLimitCheckRequest) -> RateLimitCheckRequest:
    """A priority may come from a header: one above the key's is the key's, and no error."""
    claimed = request.priority
    if claimed is None or PRIORITIES.index(claimed) >= PRIORITIES.index(highest):
        return request
    return replace(request, priority=highest)


def _tell_limit(
    status: RateLimitResponse.DescriptorStatus, answer: RateLimitCheckAnswer, now: datetime
) -> None:
    """The deciding policy's limit, what is left of it and when it is whole again."""
    line = next((one for one in answer.policies if one.policy_id == answer.policy_id), None)
    if line is None:
        return
    status.current_limit.requests_per_unit = min(line.limit_value, _MOST)
    status.current_limit.name = line.policy_id
    unit = _UNITS.get(line.time_window_seconds)
    if unit is not None:
        status.current_limit.unit = unit
    status.limit_remaining = min(answer.remaining_requests or 0, _MOST)
    status.duration_until_reset.FromTimedelta(max(line.reset_time - now, timedelta()))


def _headers(answers: Iterable[RateLimitCheckAnswer], now: datetime) -> list[tuple[str, str]]:
    """The headers of the answer that decides, telling the policies of all."""
    limited = [one for one in answers if one.policy_id is not None]
    if not limited:
        return []
    decides = limited[deciding([_verdict(one) for one in limited])]
    lines: dict[str, PolicyLine] = {}
    for line in sorted(chain.from_iterable([one.policies for one in limited]), key=_strictness):
        lines[line.policy_id] = line  # of counters of one policy, the strictest
    told = replace(
        decides,
        policies=list(lines.values()),
        remaining_requests=min(one.remaining_requests or 0 for one in limited),
    )
    return headers_of(rate_limit_lines(told, to_us(now)))


def _strictness(line: PolicyLine) -> tuple[float, int]:
    """Who waits longest is told of, as in `Retry-After`; of equals, who has the least left."""
    wait = inf if line.retry_after is None else line.retry_after
    return wait, -line.remaining_requests


def _verdict(answer: RateLimitCheckAnswer) -> Verdict:
    """What an answer says, as one rule would."""
    wait_ms = answer.retry_after_ms
    wait_us = None if wait_ms is None else wait_ms * 1000
    return Verdict(
        answer.allowed, answer.remaining_requests or 0, wait_us, 0, answer.delay_ms, None
    )


__all__ = ["Observer", "RateLimitService"]

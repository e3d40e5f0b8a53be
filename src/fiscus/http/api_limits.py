"""Limits on Fiscus's own API, by its own limiter."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from fiscus.access.model import Principal, Role
from fiscus.errors import RateLimitViolated
from fiscus.http.limiting import LoopLimiter
from fiscus.priorities import PRIORITIES, Priority
from fiscus.problems import Headers
from fiscus.ratelimits.headers import HeaderLine, headers_of, whole_seconds
from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Algorithm, Rule, Verdict, make_rule
from fiscus.settings import Settings

_MINUTE_US: Final = 60_000_000
_NORMAL: Final = PRIORITIES.index(Priority.NORMAL)
_MAX_CALLERS: Final = 65_536
_EXEMPT: Final = frozenset({Role.SERVICE, Role.PLATFORM_ADMIN})


class ApiLimit(StrEnum):
    """The limits, all per minute; the last five are per tenant and kind of call."""

    TENANT = "api-tenant"
    USER = "api-user"
    API_KEY = "api-key"
    BUDGET_CHECKS = "api-budget-checks"
    RATE_LIMIT_CHECKS = "api-rate-limit-checks"
    QUOTA_CHECKS = "api-quota-checks"
    COST_RECORDS = "api-cost-records"
    REPORTS = "api-reports"


class Admitted(NamedTuple):
    """A call that was counted, and what its limits said."""

    take: Take
    taken: Taken
    now_us: int

    def headers(self) -> Headers:
        """The header fields that tell what is left."""
        return _headers(self.take, self.taken, self.now_us, _least(self.taken))


class ApiLimits:
    """Which limits hold for a call, and whether there is room in all of them.

    A call counts once, also one with a batch. Principals of the role `service`, and the platform's
    own admins, are exempt from the general limits (tenant, user, API key), not from those of their
    kind of call.
    """

    def __init__(self, settings: Settings, limiter: LoopLimiter) -> None:
        self._limiter = limiter
        given: dict[ApiLimit, int] = {
            ApiLimit.TENANT: settings.api_limit_tenant,
            ApiLimit.USER: settings.api_limit_user,
            ApiLimit.API_KEY: settings.api_limit_api_key,
            ApiLimit.BUDGET_CHECKS: settings.api_limit_budget_checks,
            ApiLimit.RATE_LIMIT_CHECKS: settings.api_limit_rate_limit_checks,
            ApiLimit.QUOTA_CHECKS: settings.api_limit_quota_checks,
            ApiLimit.COST_RECORDS: settings.api_limit_cost_records,
            ApiLimit.REPORTS: settings.api_limit_reports,
        }
        self._rules: dict[ApiLimit, Rule] = {
            limit: make_rule(Algorithm.TOKEN_BUCKET, per_minute, _MINUTE_US)
            for limit, per_minute in given.items()
            if per_minute
        }
        self._takes: dict[tuple[Principal, ApiLimit | None], Take | None] = {}

    def take(self, principal: Principal, limit: ApiLimit | None) -> Take | None:
        """What a call takes; None when no limit holds. `limit` is that of its kind, if any."""
        known = self._takes.get((principal, limit), _UNKNOWN)
        if known is not _UNKNOWN:
            return known
        held: list[tuple[ApiLimit, str]] = []
        if _EXEMPT.isdisjoint(principal.roles):
            by_key = principal.key_id is not None
            held.append((ApiLimit.TENANT, principal.tenant_id))
            held.append((ApiLimit.API_KEY if by_key else ApiLimit.USER, principal.subject))
        if limit is not None:
            held.append((limit, principal.tenant_id))
        held = [one for one in held if one[0] in self._rules]
        take = None
        if held:
            take = Take(
                principal.tenant_id,
                tuple(f"{one}:{owner}" for one, owner in held),
                tuple(self._rules[one] for one, _ in held),
                1,
                _NORMAL,
            )
        while len(self._takes) >= _MAX_CALLERS:
            del self._takes[next(iter(self._takes))]
        self._takes[principal, limit] = take
        return take

    async def admit(
        self, principal: Principal, limit: ApiLimit | None, now_us: int
    ) -> Admitted | None:
        """Count a call; None when no limit holds for it.

        Raises `RateLimitViolated` when there is no room.
        """
        take = self.take(principal, limit)
        if take is None:
            return None
        outcome = await self._limiter.decide((take,), now_us)
        taken = None if outcome is None else outcome[0]
        return self.judge(take, taken, now_us)

    def judge(self, take: Take, taken: Taken | None, now_us: int) -> Admitted:
        """As `admit`, when the counters were asked; None: they could not be reached."""
        if taken is None:
            taken = self._limiter.decide_here(take, now_us)
        if taken.admitted:
            return Admitted(take, taken, now_us)
        wait_us = max(one.wait_us or 0 for one in taken.verdicts if not one.allowed)
        index = next(
            place
            for place, one in enumerate(taken.verdicts)
            if not one.allowed and one.wait_us == wait_us
        )
        name = _name(take.keys[index])
        rule = take.rules[index]
        raise ApiLimitExceeded(
            f"More than {rule.limit} calls a minute are held up by the limit {name}",
            headers=_headers(take, taken, now_us, index),
            details={"limit": name, "limit_value": rule.limit, "time_window_seconds": 60},
            retry_after_seconds=whole_seconds(wait_us),
        )


class ApiLimitExceeded(RateLimitViolated):
    """One of the API's own limits has no room; `headers` tell which."""

    def __init__(
        self,
        message: str,
        *,
        headers: Headers,
        details: dict[str, object],
        retry_after_seconds: int,
    ) -> None:
        super().__init__(
            message,
            answer=None,
            details=details,
            suggested_action="Try again after the time in Retry-After, or send batches.",
            retry_after_seconds=retry_after_seconds,
        )
        self.headers = headers


_UNKNOWN: Final = Take("", (), (), 0, 0)
"""Told apart from None, which is known to be no limit."""


def headers_left(admitted: Admitted | None) -> Headers:
    """What is told of a call's limits, if any hold."""
    return [] if admitted is None else admitted.headers()


def _least(taken: Taken) -> int:
    verdicts = taken.verdicts
    if len(verdicts) == 1:
        return 0
    return min(range(len(verdicts)), key=lambda index: verdicts[index].remaining)


def _headers(take: Take, taken: Taken, now_us: int, deciding: int) -> Headers:
    verdicts, rules = taken.verdicts, take.rules
    lines = [
        HeaderLine(_name(key), rule.limit, 60, one.remaining, whole_seconds(_until(one, now_us)))
        for key, rule, one in zip(take.keys, rules, verdicts, strict=True)
    ]
    if deciding:
        lines.insert(0, lines.pop(deciding))
    verdict = verdicts[deciding]
    return headers_of(
        lines,
        limit=rules[deciding].limit,
        remaining=verdict.remaining,
        reset_epoch_seconds=whole_seconds(verdict.reset_us),
        retry_after_seconds=None,  # comes with the problem
    )


def _name(key: str) -> str:
    return key.partition(":")[0]


def _until(verdict: Verdict, now_us: int) -> int:
    if verdict.allowed or verdict.wait_us is None:
        return max(0, verdict.reset_us - now_us)
    return verdict.wait_us


__all__ = ["Admitted", "ApiLimit", "ApiLimitExceeded", "ApiLimits", "headers_left"]

"""Limits on Fiscus's own API, by its own limiter."""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import Final

from msgspec import Struct

from fiscus.access.model import Principal, Role
from fiscus.errors import RateLimitViolated
from fiscus.http.limiting import LoopLimiter
from fiscus.priorities import PRIORITIES, Priority
from fiscus.ratelimits.headers import PolicyStatus, limit_lines, policy_told, whole_seconds
from fiscus.ratelimits.port import Take, Taken
from fiscus.ratelimits.rules import Algorithm, Rule, deciding, make_rule
from fiscus.settings import Settings
from fiscus.wire.headers import FieldLines

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


class ApiLimited(RateLimitViolated):
    """A call was refused by the API's own limits, and nothing was decided."""

    limit: str
    """The name of the limit that held it up."""


class Limits(Struct, frozen=True):
    """The limits of a caller's calls of one kind."""

    take: Take
    """What a call takes of all of them."""
    names: tuple[str, ...]


class Gate(Struct):
    """The limits that hold for one call, which counts once."""

    limits: Limits | None
    limiter: LoopLimiter
    now_us: int
    taken: Taken | None = None
    """What its limits said; None before the call was counted."""

    async def admit(self) -> None:
        """Count the call, unless it was. Raises `ApiLimited` when there is no room."""
        if self.limits is None or self.taken is not None:
            return
        outcome = await self.limiter.decide((self.limits.take,), self.now_us)
        self.judge(None if outcome is None else outcome[0])

    def judge(self, taken: Taken | None) -> None:
        """As `admit`, when the counters were asked; None: they could not be reached."""
        assert self.limits is not None
        if taken is None:
            taken = self.limiter.decide_locally(self.limits.take, self.now_us)
        self.taken = taken
        if not taken.admitted:
            raise _exceeded(self.limits, taken)

    def left(self) -> FieldLines:
        """The header fields that tell what is left; none before the call was counted."""
        limits, taken = self.limits, self.taken
        if limits is None or taken is None:
            return ""
        names, rules, now_us = limits.names, limits.take.rules, self.now_us
        statuses: list[PolicyStatus] = []
        for index, verdict in enumerate(taken.verdicts):
            name, limit, wait_us = names[index], rules[index].limit, verdict.wait_us
            wait_seconds, reset_us = wait_us and whole_seconds(wait_us), verdict.reset_us
            statuses.append(
                policy_told(name, limit, 60, verdict.remaining, wait_seconds, reset_us, now_us)
            )
        first = deciding(taken.verdicts)
        if first:
            statuses.insert(0, statuses.pop(first))
        reset_seconds = whole_seconds(taken.verdicts[first].reset_us)
        # when to try again comes with the problem
        return limit_lines(statuses, statuses[0].remaining, reset_seconds, None)


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
        # ordered: a dict finds its first only past the places of those that were first before
        self._limits: OrderedDict[tuple[Principal, ApiLimit | None], Limits | None] = OrderedDict()

    def gate(self, principal: Principal, limit: ApiLimit | None, now_us: int) -> Gate:
        """What a call has to pass. `limit` is that of its kind, if any."""
        known = self._limits.get((principal, limit), _UNKNOWN)
        if known is _UNKNOWN:
            known = self._find(principal, limit)
        return Gate(known, self._limiter, now_us)

    def _find(self, principal: Principal, limit: ApiLimit | None) -> Limits | None:
        held: list[tuple[ApiLimit, str]] = []
        if _EXEMPT.isdisjoint(principal.roles):
            held.append((ApiLimit.TENANT, principal.tenant_id))
            if principal.key_id is not None:
                held.append((ApiLimit.API_KEY, principal.key_id))
            else:  # another tenant may have a user of the same name
                held.append((ApiLimit.USER, f"{principal.tenant_id}/{principal.subject}"))
        if limit is not None:
            held.append((limit, principal.tenant_id))
        held = [one for one in held if one[0] in self._rules]
        limits = None
        if held:
            take = Take(
                principal.tenant_id,
                tuple(f"{one}:{owner}" for one, owner in held),
                tuple(self._rules[one] for one, _ in held),
                1,
                _NORMAL,
            )
            limits = Limits(take, tuple(str(one) for one, _ in held))
        while len(self._limits) >= _MAX_CALLERS:
            self._limits.popitem(last=False)
        self._limits[principal, limit] = limits
        return limits


_UNKNOWN: Final = Limits(Take("", (), (), 0, 0), ())
"""Told apart from None, which is known to be no limit."""


def _exceeded(limits: Limits, taken: Taken) -> ApiLimited:
    first = deciding(taken.verdicts)
    name, limit = limits.names[first], limits.take.rules[first].limit
    wait_us = taken.verdicts[first].wait_us
    error = ApiLimited(
        f"More than {limit} calls a minute are held up by the limit {name}",
        answer=None,
        details={"limit": name, "limit_value": limit, "time_window_seconds": 60},
        suggested_action="Try again after the time in Retry-After, or send batches; whoever runs "
        f"Fiscus sets the limit by FISCUS_API_LIMIT_{ApiLimit(name).name}.",
        retry_after_seconds=None if wait_us is None else whole_seconds(wait_us),
    )
    error.limit = name
    return error


__all__ = ["ApiLimit", "ApiLimited", "ApiLimits", "Gate"]

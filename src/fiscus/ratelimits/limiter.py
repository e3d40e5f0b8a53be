"""The limiter: checks of requests against policies, with counters behind a port.

Counters in this process decide at once. Counters in Redis are asked for all checks that wait, in
one round trip; when they do not answer in time, each policy says what then.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from fiscus.clock import Clock, from_us, to_us
from fiscus.errors import Forbidden, ServiceUnavailable, too_many
from fiscus.match_limits import limit_for_checks
from fiscus.priorities import PRIORITIES, Priority
from fiscus.ratelimits.answers import NONE_APPLIES, check_answer, decided_answer
from fiscus.ratelimits.calls import (
    MAX_CHECKS,
    AdjustRequest,
    CounterView,
    RateLimitBatchAnswer,
    RateLimitBatchRequest,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
)
from fiscus.ratelimits.counter_loop import CounterLoop, Outcome, Takes, portions
from fiscus.ratelimits.degraded import DegradedTakes
from fiscus.ratelimits.housekeeping import Housekeeping
from fiscus.ratelimits.joint_takes import join_corrections, join_takes, usage_of, verdicts_of
from fiscus.ratelimits.matching import Caller, LivePolicy, MatchedPolicy, matched_policy
from fiscus.ratelimits.model import OnCountersFailure, PolicyState
from fiscus.ratelimits.policies import PolicyCache, PolicySource
from fiscus.ratelimits.policy_port import UsageStore
from fiscus.ratelimits.port import CounterStore, CountersUnavailable, Take, Taken
from fiscus.ratelimits.rules import Verdict
from fiscus.ratelimits.unreachable import not_corrected, unavailable
from fiscus.ratelimits.usage_writer import UsageWriter
from fiscus.runtime.breaker import BreakerState
from fiscus.runtime.cache_stats import CacheStats

_RANK: Final = {priority: index for index, priority in enumerate(PRIORITIES)}
_NORMAL: Final = _RANK[Priority.NORMAL]
POLICIES: Final = "rate limit policies"
"""What checks meet, in words."""


class Prepared(Struct, frozen=True, gc=False):
    """A check whose policies are known and whose counters are not asked yet."""

    policies: tuple[MatchedPolicy, ...]
    take: Take


class Limiter:
    """Checks against the policies of `policies`, whose counters are in `counters`.

    `stand_in` is counters in this process, for policies that count `local` while those elsewhere
    cannot be reached; counters that are `immediate` need none. `usage` is told, a minute later,
    what was seen. `timeout_seconds` is how long a check waits for counters elsewhere. With
    `virtual_time` the times that callers pass are the counters' clock; else counters elsewhere go
    by their server's. Call `start` for the work in the background.
    """

    def __init__(
        self,
        policies: PolicySource,
        counters: CounterStore,
        clock: Clock,
        *,
        stand_in: CounterStore | None = None,
        usage: UsageStore | None = None,
        timeout_seconds: float = 0.01,
        virtual_time: bool = False,
    ) -> None:
        self.immediate: Final = counters.immediate or virtual_time
        """Checks are decided on the caller's thread, which never waits for others."""
        self.loop: Final = None if self.immediate else CounterLoop(counters, clock, timeout_seconds)
        self._counters = counters
        self._cache = PolicyCache(policies)
        self._degraded = DegradedTakes(counters if stand_in is None else stand_in)
        self._usage = None if usage is None else UsageWriter(usage)
        self._tally = None if self._usage is None else self._usage.tally
        self.housekeeping: Final = Housekeeping(
            self._cache, (counters, self._degraded), self._usage, clock
        )

    # -- checks

    def check(
        self,
        request: RateLimitCheckRequest,
        tenant_id: str,
        now: datetime,
        *,
        key_id: str | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> RateLimitCheckAnswer:
        """Decide one check. `priority` is the highest that the caller may claim.

        Raises `Forbidden` for a higher one, and `ServiceUnavailable` when the tenant's policies are
        not known and cannot be read.
        """
        now_us = to_us(now)
        self._cache.make_ready(tenant_id, now)
        prepared = self.prepare(request, tenant_id, now, now_us, key_id, priority)
        outcome = self.decide((prepared.take,), now_us) if prepared.policies else None
        return self.answer(prepared, None if outcome is None else outcome[0], now_us)

    def check_batch(
        self,
        request: RateLimitBatchRequest,
        tenant_ids: Sequence[str],
        now: datetime,
        *,
        key_id: str | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> RateLimitBatchAnswer:
        """Decide checks in order, each for itself; `tenant_ids` are theirs, one by one.

        Raises `PayloadTooLarge` for more than 500, or when too many policies apply to them in all.
        """
        if len(request.checks) > MAX_CHECKS:
            raise too_many("checks", len(request.checks), MAX_CHECKS)
        now_us = to_us(now)
        for tenant_id in set(tenant_ids):
            self._cache.make_ready(tenant_id, now)
        match_limit = limit_for_checks(len(request.checks), POLICIES)
        prepared: list[Prepared] = []
        for check, tenant_id in zip(request.checks, tenant_ids, strict=True):
            prepared.append(self.prepare(check, tenant_id, now, now_us, key_id, priority))
            match_limit.add(len(prepared[-1].policies), len(prepared))
        taken = self.decide_each(tuple(one.take for one in prepared), now_us)
        return self.answer_batch(prepared, taken, now_us)

    def check_together(
        self,
        requests: Sequence[RateLimitCheckRequest],
        tenant_id: str,
        now: datetime,
        *,
        key_id: str | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> list[RateLimitCheckAnswer]:
        """Decide several requests of a tenant as one: all are taken, or none.

        A counter that several of them name is taken from once, by the one that asks for the most,
        and each of them is judged by its own count and priority. The answers of requests that have
        room are `allowed` also when another is not; then nothing was taken. Raises
        `PayloadTooLarge` when too many policies apply to them in all.
        """
        now_us = to_us(now)
        self._cache.make_ready(tenant_id, now)
        match_limit = limit_for_checks(len(requests), POLICIES)
        prepared: list[Prepared] = []
        for request in requests:
            prepared.append(self.prepare(request, tenant_id, now, now_us, key_id, priority))
            match_limit.add(len(prepared[-1].policies), len(prepared))
        take, policies = join_takes([(one.take, one.policies) for one in prepared])
        outcome = self.decide((take,), now_us) if policies else None
        taken = None if outcome is None else outcome[0]
        degraded = taken is None
        if taken is None:
            taken = self._without_counters(take, policies, now_us)
        if self._tally is not None:
            for place, count, verdict in usage_of(take, taken):
                policy, rule = (policies[place],), (take.rules[place],)
                self._tally.count(policy, rule, (verdict,), count, taken.admitted, now_us)
        told = verdicts_of(take, taken)
        answers: list[RateLimitCheckAnswer] = []
        for one in prepared:
            asked = one.take
            verdicts = [told[key, asked.count, asked.priority] for key in asked.keys]
            answers.append(
                decided_answer(one.policies, one.take, verdicts, taken.admitted, now_us, degraded)
            )
        return answers

    def adjust(
        self,
        request: AdjustRequest,
        tenant_id: str,
        now: datetime,
        *,
        key_id: str | None = None,
    ) -> RateLimitCheckAnswer:
        """Correct a charge after the fact; what is left afterwards.

        Raises `ServiceUnavailable` when the counters cannot be reached; it is `retriable` when
        surely nothing was corrected.
        """
        return self.adjust_together([request], tenant_id, now, key_id=key_id)[0]

    def adjust_together(
        self,
        requests: Sequence[AdjustRequest],
        tenant_id: str,
        now: datetime,
        *,
        key_id: str | None = None,
    ) -> list[RateLimitCheckAnswer]:
        """Correct what `check_together` took, in one step; what is left afterwards.

        A counter that several of them name is corrected once, by the largest correction. Errors as
        of `adjust`, and `PayloadTooLarge` as of `check_together`.
        """
        now_us = to_us(now)
        self._cache.make_ready(tenant_id, now)
        match_limit = limit_for_checks(len(requests), POLICIES)
        asked: list[tuple[tuple[MatchedPolicy, ...], Take]] = []
        for one in requests:
            policies = self._matching(one, tenant_id, now, now_us, key_id)
            match_limit.add(len(policies), len(asked) + 1)
            take = _take(policies, tenant_id, one.resource_key, one.request_count, now_us)
            asked.append((policies, take))
        joint = join_corrections([take for _, take in asked])
        left: dict[str, Verdict] = {}
        if joint.keys:
            try:
                verdicts = self._counters.adjust(joint, self._counters_now(now_us))
            except CountersUnavailable as error:
                raise not_corrected(error) from error
            left = dict(zip(joint.keys, verdicts, strict=True))
        return [
            check_answer(True, policies, take.rules, [left[key] for key in take.keys], 0, _NORMAL)
            if policies
            else NONE_APPLIES
            for policies, take in asked
        ]

    # -- single counters

    def counter(
        self, state: PolicyState, scope_id: str, resource_key: str | None, now: datetime
    ) -> CounterView:
        """A look at one counter of a policy. Raises `ServiceUnavailable`."""
        now_us = to_us(now)
        policies = (matched_policy(LivePolicy(state), scope_id),)
        take = _take(policies, state.policy.tenant_id, resource_key, 0, now_us)
        outcome = self.decide((take,), now_us)
        if outcome is None or outcome[0] is None:
            raise unavailable()
        verdict = outcome[0].verdicts[0]
        return CounterView(
            scope_id=scope_id,
            resource_key=resource_key,
            limit_value=take.rules[0].limit,
            remaining_requests=verdict.remaining,
            reset_time=from_us(verdict.reset_us),
        )

    def forget(self, state: PolicyState, scope_id: str, resource_key: str | None) -> None:
        """Make one counter unused. Raises `ServiceUnavailable`."""
        one = matched_policy(LivePolicy(state), scope_id)
        try:
            self._counters.forget(state.policy.tenant_id, [one.key(resource_key)])
        except CountersUnavailable as error:
            raise unavailable() from error

    # -- policies and usage

    def changed(self, tenant_id: str) -> None:
        """Policies of the tenant changed: read them again before its next check."""
        self._cache.changed(tenant_id)

    def is_ready(self, tenant_id: str) -> bool:
        """Whether the tenant's policies are known as they are, so that nothing has to be read."""
        return self._cache.is_ready(tenant_id)

    def read_policies(self, tenant_id: str, now: datetime) -> None:
        """Make a tenant's policies ready for `prepare`, in any case by reading them.

        Raises `ServiceUnavailable`.
        """
        self._cache.read(tenant_id, now)

    def flush_usage(self, policy_id: str | None = None) -> None:
        """Write what was counted so far, of one policy or of all.

        What may have been written is not written again. Raises `ServiceUnavailable`; nothing is
        lost then.
        """
        if self._usage is not None:
            self._usage.flush(policy_id)

    @property
    def lookups(self) -> CacheStats:
        """How often policies were looked for."""
        return self._cache.lookups

    @property
    def breaker_state(self) -> BreakerState:
        return BreakerState.CLOSED if self.loop is None else self.loop.breaker_state

    # -- the steps of a check, for edges that await the counters

    def prepare(
        self,
        request: RateLimitCheckRequest,
        tenant_id: str,
        now: datetime,
        now_us: int,
        key_id: str | None,
        highest: Priority,
    ) -> Prepared:
        """Find the policies of a check, which were made ready for it, and their counters.

        Errors as of `check`.
        """
        rank = _RANK[highest if request.priority is None else request.priority]
        if rank < _RANK[highest]:
            raise Forbidden(
                f"This credential may claim at most priority {highest}",
                details={"field": "priority"},
                suggested_action=f"Send priority {highest} or lower, or leave it out.",
            )
        policies = self._matching(request, tenant_id, now, now_us, key_id)
        take = _take(policies, tenant_id, request.resource_key, request.request_count, now_us, rank)
        return Prepared(policies, take)

    def decide(self, takes: Takes, now_us: int) -> Outcome:
        """Ask the counters; may wait for them when they are not `immediate`."""
        if self.loop is not None:
            return self.loop.execute(takes)
        try:
            return self._counters.decide_all(takes, now_us)
        except CountersUnavailable as error:  # of counters elsewhere, in virtual time
            raise unavailable() from error

    def decide_each(self, takes: Takes, now_us: int) -> list[Taken | None]:
        """As `decide`, portion by portion; None where the counters cannot be reached."""
        taken: list[Taken | None] = []
        for portion in portions(takes):
            try:
                outcome = self.decide(portion, now_us)
            except ServiceUnavailable:
                if not taken:
                    raise
                outcome = None  # what came before stands
            taken += outcome or [None] * len(portion)
        return taken

    def decide_locally(self, take: Take, now_us: int) -> Taken:
        """Decide by counters of this process, while those elsewhere cannot be reached."""
        failure = (OnCountersFailure.LOCAL,) * len(take.rules)
        return self._degraded.decide(take, failure, now_us)

    def answer(self, prepared: Prepared, taken: Taken | None, now_us: int) -> RateLimitCheckAnswer:
        """The answer to a check, counted; without counters, by each policy's failure policy."""
        take = prepared.take
        policies = prepared.policies
        degraded = taken is None
        if not policies:
            return NONE_APPLIES
        if taken is None:
            taken = self._without_counters(take, policies, now_us)
        verdicts, admitted = taken.verdicts, taken.admitted
        if self._tally is not None:
            self._tally.count(policies, take.rules, verdicts, take.count, admitted, now_us)
        return decided_answer(policies, take, verdicts, admitted, now_us, degraded)

    def answer_batch(
        self, prepared: Sequence[Prepared], taken: Sequence[Taken | None], now_us: int
    ) -> RateLimitBatchAnswer:
        results = [
            self.answer(one, decided, now_us) for one, decided in zip(prepared, taken, strict=True)
        ]
        return RateLimitBatchAnswer(allowed=all(one.allowed for one in results), results=results)

    def _without_counters(
        self, take: Take, policies: Sequence[MatchedPolicy], now_us: int
    ) -> Taken:
        failure = [one.policy.state.policy.on_store_failure for one in policies]
        return self._degraded.decide(take, failure, now_us)

    # -- life

    def start(self) -> None:
        """Refresh policies and write usage in threads of their own, until `close`."""
        self.housekeeping.start()

    def close(self) -> None:
        """Write what was counted and stop. The counters are closed by who opened them."""
        self.housekeeping.stop()
        if self.loop is not None:
            self.loop.close()
        if self._usage is not None:
            self._usage.close()

    def _counters_now(self, now_us: int) -> int | None:
        return now_us if self.immediate else None

    def _matching(
        self,
        request: RateLimitCheckRequest | AdjustRequest,
        tenant_id: str,
        now: datetime,
        now_us: int,
        key_id: str | None,
    ) -> tuple[MatchedPolicy, ...]:
        caller = Caller(
            tenant_id,
            request.resource_type,
            request.project_id,
            request.user_id,
            request.feature_id,
            key_id if request.api_key_id is None else request.api_key_id,
        )
        return self._cache.matching(caller, now, now_us)


def _take(
    policies: tuple[MatchedPolicy, ...],
    tenant_id: str,
    resource_key: str | None,
    count: int,
    now_us: int,
    priority: int = _NORMAL,
) -> Take:
    return Take(
        tenant_id,
        tuple([one.key(resource_key) for one in policies]),
        tuple([one.policy.rule_now(now_us) for one in policies]),
        count,
        priority,
    )

"""The limiter: checks of requests against policies, with counters behind a port.

Counters in this process decide at once. Counters in Redis are asked for all checks that wait, in
one round trip; when they do not answer in time, each policy says what then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from fiscus.clock import Clock, from_us, to_us
from fiscus.errors import FiscusError, Forbidden, OutcomeUnknown, ServiceUnavailable, too_many
from fiscus.match_limits import limit_for_checks
from fiscus.priorities import PRIORITIES, Priority
from fiscus.ratelimits.answers import NONE_APPLIES, check_answer
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
from fiscus.ratelimits.matching import Caller, LivePolicy, MatchedPolicy, applied
from fiscus.ratelimits.model import OnCountersFailure, PolicyState
from fiscus.ratelimits.policies import PolicyCache, PolicySource
from fiscus.ratelimits.policy_port import UsageRow, UsageStore
from fiscus.ratelimits.port import CounterStore, CountersUnavailable, Take, Taken
from fiscus.ratelimits.rules import Verdict
from fiscus.ratelimits.together import corrected, counted, joined, said
from fiscus.ratelimits.unreachable import not_corrected, unavailable
from fiscus.ratelimits.usage import MAX_ROWS, UsageTally
from fiscus.runtime.breaker import BreakerState
from fiscus.runtime.cache_stats import CacheStats
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

_RANK: Final = {priority: index for index, priority in enumerate(PRIORITIES)}
_NORMAL: Final = _RANK[Priority.NORMAL]
_REFRESH_SECONDS: Final = 1.0
_SWEEP_EVERY: Final = 10
"""Refreshes between two sweeps."""
_FLUSH_SECONDS: Final = 60.0
"""Between two writes of what was counted: usage is kept by the minute."""
_FLUSH_ROWS: Final = 500
_FLUSH_PAUSE_SECONDS: Final = 0.05
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
        self._clock = clock
        self._cache = PolicyCache(policies)
        self._degraded = DegradedTakes(counters if stand_in is None else stand_in)
        self._usage = usage
        self._tally = UsageTally()
        self._unwritten: list[UsageRow] = []
        self._flushing = threading.Lock()
        self._claim: Callable[[], bool] | None = None
        self.is_alone = True
        """False when others on the same data may count beside these counters in process."""
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

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
        take, policies = joined([(one.take, one.policies) for one in prepared])
        outcome = self.decide((take,), now_us) if policies else None
        taken = None if outcome is None else outcome[0]
        degraded = taken is None
        if taken is None:
            taken = self._without_counters(take, policies, now_us)
        if self._usage is not None:
            for place, count, verdict in counted(take, taken):
                policy, rule = (policies[place],), (take.rules[place],)
                self._tally.count(policy, rule, (verdict,), count, taken.admitted, now_us)
        told = said(take, taken)
        answers: list[RateLimitCheckAnswer] = []
        for one in prepared:
            asked = one.take
            verdicts = [told[key, asked.count, asked.priority] for key in asked.keys]
            answers.append(self._told(one, verdicts, taken.admitted, now_us, degraded))
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
        joint = corrected([take for _, take in asked])
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
        policies = (applied(LivePolicy(state), scope_id),)
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
        one = applied(LivePolicy(state), scope_id)
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
        self._flush(policy_id, pause_seconds=0.0)

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
        if self._usage is not None:
            self._tally.count(policies, take.rules, verdicts, take.count, admitted, now_us)
        return self._told(prepared, verdicts, admitted, now_us, degraded)

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

    def _told(
        self,
        prepared: Prepared,
        verdicts: Sequence[Verdict],
        taken: bool,
        now_us: int,
        degraded: bool,
    ) -> RateLimitCheckAnswer:
        """The answer to a check that was decided, alone or with others: all were taken, or none."""
        take, policies = prepared.take, prepared.policies
        if not policies:
            return NONE_APPLIES
        admitted = taken or all(
            verdict.allowed or rule.shadow
            for verdict, rule in zip(verdicts, take.rules, strict=True)
        )
        answer = check_answer(
            admitted, policies, take.rules, verdicts, take.count, take.priority, degraded=degraded
        )
        if admitted or answer.retry_after is not None:
            return answer
        later = [
            _until_larger(policy, verdict, take, now_us)
            for policy, verdict in zip(policies, verdicts, strict=True)
        ]
        return check_answer(
            admitted, policies, take.rules, later, take.count, take.priority, degraded=degraded
        )

    # -- life

    def start(self) -> None:
        """Refresh policies and write usage in threads of their own, until `close`."""
        if not self._threads:
            # usage of many callers takes longer to write than a changed policy may take to bind
            for work in (self._housekeeping, self._write_usage):
                thread = threading.Thread(target=work, name="fiscus-limiter", daemon=True)
                thread.start()
                self._threads.append(thread)

    def keep_alone(self, claim: Callable[[], bool]) -> None:
        """Have the work in the background ask again and again whether only this process counts:
        what it was told by may be lost with a connection."""
        self._claim = claim

    def close(self) -> None:
        """Write what was counted and stop. The counters are closed by who opened them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self.loop is not None:
            self.loop.close()
        try:
            self.flush_usage()
        except ServiceUnavailable as error:
            log.warning("usage_not_written", rows=len(self._unwritten), reason=error.message)

    def _flush(self, policy_id: str | None, *, pause_seconds: float) -> None:
        """Write what was counted in portions, with a pause after each that leaves the interpreter
        to the checks, and the turn to who asks for the usage of one policy."""
        if self._usage is None:
            return
        with self._flushing:
            self._unwritten += self._tally.take(policy_id)
            given_up = len(self._unwritten) - MAX_ROWS
            if given_up > 0:
                del self._unwritten[:given_up]
                log.warning("usage_given_up", rows=given_up)
        while self._write_some(self._usage, policy_id):
            if pause_seconds:
                self._stop.wait(pause_seconds)

    def _write_some(self, usage: UsageStore, policy_id: str | None) -> bool:
        """Write a portion, with what there is of one policy first; whether there was any."""
        with self._flushing:
            rows = self._unwritten
            if policy_id is not None:
                rows = sorted(rows, key=lambda row: row.policy_id != policy_id)
            if not rows or policy_id not in {None, rows[0].policy_id}:
                return False
            portion = rows[:_FLUSH_ROWS]
            try:
                usage.add(portion)
            except OutcomeUnknown as error:
                # not again: twice, it would be more than the policies let pass
                log.warning("usage_in_doubt", rows=len(portion), reason=error.message)
            self._unwritten = rows[_FLUSH_ROWS:]
            return True

    def _housekeeping(self) -> None:
        rounds = 0
        while not self._stop.wait(_REFRESH_SECONDS):
            rounds += 1
            _tried("refresh", lambda: self._cache.refresh(self._clock.now()))
            _tried("claim", self._claim_again)
            if rounds % _SWEEP_EVERY == 0:
                _tried("sweep", self._sweep)

    def _sweep(self) -> None:
        now_us = to_us(self._clock.now())
        self._counters.sweep(now_us)
        self._degraded.sweep(now_us)

    def _write_usage(self) -> None:
        while not self._stop.wait(_FLUSH_SECONDS):
            _tried("flush", lambda: self._flush(None, pause_seconds=_FLUSH_PAUSE_SECONDS))

    def _claim_again(self) -> None:
        is_alone = self._claim is None or self._claim()
        if self.is_alone and not is_alone:
            log.warning("counters_not_claimed")
        elif is_alone and not self.is_alone:
            log.info("counters_claimed")
        self.is_alone = is_alone

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


def _tried(job: str, do: Callable[[], object]) -> None:
    """Do a part of the housekeeping; that one fails keeps no other from being done."""
    try:
        do()
    except FiscusError as error:
        log.warning("limiter_housekeeping_failed", job=job, reason=error.message)
    except Exception:
        log.exception("limiter_housekeeping_failed", job=job)


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


def _until_larger(applied: MatchedPolicy, verdict: Verdict, take: Take, now_us: int) -> Verdict:
    """A denial for ever lasts until the policy's limit is larger by itself, if it ever is."""
    if verdict.allowed or verdict.wait_us is not None:
        return verdict
    begins_us = applied.policy.larger_from_us(take.count, take.priority, now_us)
    return verdict if begins_us is None else replace(verdict, wait_us=begins_us - now_us)

"""From what the counters said to the answer of a check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from fiscus.clock import from_us
from fiscus.ratelimits.calls import PolicyLine, RateLimitCheckAnswer
from fiscus.ratelimits.headers import whole_seconds
from fiscus.ratelimits.matching import MatchedPolicy
from fiscus.ratelimits.model import OnCountersFailure
from fiscus.ratelimits.port import Take
from fiscus.ratelimits.rules import Rule, Verdict, decides

NONE_APPLIES: Final = RateLimitCheckAnswer(
    allowed=True,
    remaining_requests=None,
    limit_value=None,
    policy_id=None,
    retry_after=0,
    retry_after_ms=0,
    reset_time=None,
    delay_ms=0,
    message="No policy applies",
    policies=[],
    degraded=False,
)


def check_answer(
    admitted: bool,
    policies: Sequence[MatchedPolicy],
    rules: Sequence[Rule],
    verdicts: Sequence[Verdict],
    count: int,
    priority: int,
    *,
    degraded: bool = False,
) -> RateLimitCheckAnswer:
    """The answer to a check that policies apply to; all sequences are in the order of their ids.

    The deciding policy is the one that denies with the longest wait, else the one with the least
    left; of equals, the one with the least id. Shadow policies decide nothing.
    """
    lines: list[PolicyLine] = []
    deciding = -1
    remaining = delay_ms = 0
    for index, verdict in enumerate(verdicts):
        rule = rules[index]
        lines.append(_line(policies[index], rule, verdict, priority))
        if rule.shadow:
            continue
        delay_ms = max(delay_ms, verdict.delay_ms)
        if deciding < 0:
            deciding, remaining = index, verdict.remaining
            continue
        if decides(verdict, verdicts[deciding]):
            deciding = index
        remaining = min(remaining, verdict.remaining)
    if deciding < 0:
        return replace(
            NONE_APPLIES,
            message="Allowed: the policies that apply only shadow",
            policies=lines,
            degraded=degraded,
        )
    verdict, rule = verdicts[deciding], rules[deciding]
    wait_us = 0 if admitted else verdict.wait_us
    line = lines[deciding]
    return RateLimitCheckAnswer(  # by position: with names it takes six times as long
        admitted,
        remaining,
        rule.limit,
        line.policy_id,
        None if wait_us is None else whole_seconds(wait_us),
        None if wait_us is None else -(-wait_us // 1000),
        line.reset_time,
        delay_ms if admitted else 0,
        "Allowed"
        if admitted
        else (_uncounted(policies[deciding], verdict) if degraded else None)
        or _why(rule, verdict, count, rule.ceilings[priority]),
        lines,
        degraded,
    )


def decided_answer(
    policies: Sequence[MatchedPolicy],
    take: Take,
    verdicts: Sequence[Verdict],
    taken: bool,
    now_us: int,
    degraded: bool,
) -> RateLimitCheckAnswer:
    """The answer to a check that was decided, alone or with others: all were taken, or none."""
    if not policies:
        return NONE_APPLIES
    admitted = taken or all(
        verdict.allowed or rule.shadow for verdict, rule in zip(verdicts, take.rules, strict=True)
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


def _line(matched: MatchedPolicy, rule: Rule, verdict: Verdict, priority: int) -> PolicyLine:
    if verdict.allowed:
        decision = "allow"
    else:
        decision = "shadow_deny" if rule.shadow else "deny"
    wait_us = verdict.wait_us
    return PolicyLine(  # by position, as above
        matched.policy.state.policy.policy_id,
        decision,
        rule.shadow,
        rule.algorithm,
        rule.limit,
        rule.window_us // 1_000_000,
        rule.ceilings[priority],
        verdict.remaining,
        None if wait_us is None else whole_seconds(wait_us),
        from_us(verdict.reset_us),
    )


def _uncounted(matched: MatchedPolicy, verdict: Verdict) -> str | None:
    """What is said of a denial for want of counters; None of one that they would deny for ever,
    and of one by counters of this process."""
    failure = matched.policy.state.policy.on_store_failure
    if verdict.wait_us is None or failure is not OnCountersFailure.DENY:
        return None
    seconds = whole_seconds(verdict.wait_us)
    return f"Denied: the counters cannot be reached; try again in {seconds} s"


def _why(rule: Rule, verdict: Verdict, count: int, ceiling: int) -> str:
    limit = f"{rule.limit} per {rule.window_us // 1_000_000} s"
    if verdict.wait_us is None:
        return (
            f"Denied: {count} at once can never pass a limit of {limit}; "
            f"at most {ceiling} can be in use"
        )
    return (
        f"Denied: {count} asked for, {verdict.remaining} left of {limit}; "
        f"try again in {whole_seconds(verdict.wait_us)} s"
    )


def _until_larger(matched: MatchedPolicy, verdict: Verdict, take: Take, now_us: int) -> Verdict:
    """A denial for ever lasts until the policy's limit is larger by itself, if it ever is."""
    if verdict.allowed or verdict.wait_us is not None:
        return verdict
    begins_us = matched.policy.larger_from_us(take.count, take.priority, now_us)
    return verdict if begins_us is None else replace(verdict, wait_us=begins_us - now_us)

"""The header fields that tell an HTTP client of its rate limits.

`RateLimit-Policy` and `RateLimit` as in draft-ietf-httpapi-ratelimit-headers-10, structured fields
(RFC 9651) with a member per policy, and the older `X-RateLimit-Limit` and `-Reset` of the policy
that decides, with what all of them leave as `-Remaining`. `Retry-After` (RFC 9110) comes with a
denial only, and not with one that no waiting would help.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from fiscus.clock import to_us
from fiscus.ratelimits.calls import RateLimitCheckAnswer
from fiscus.wire.headers import FieldLines

_MAX_TOLD: Final = 10
"""Policies that are told: servers and proxies bound the size of headers."""


class PolicyStatus(Struct, frozen=True, gc=False):
    """How one policy stands, as header fields say it."""

    name: str
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int
    """From now, rounded up: until it would admit a denied request, else until it is unused."""


def policy_told(
    name: str,
    limit: int,
    window_seconds: int,
    remaining: int,
    wait_seconds: int | None,
    reset_us: int,
    now_us: int,
) -> PolicyStatus:
    """What is told at `now_us` of a policy; `wait_seconds` are 0 if it allows, None for ever."""
    if wait_seconds:
        # the draft wants the same moment here as in Retry-After
        return PolicyStatus(name, limit, window_seconds, remaining, wait_seconds)
    until_us = reset_us - now_us if reset_us > now_us else 0
    return PolicyStatus(name, limit, window_seconds, remaining, -(-until_us // 1_000_000))


def rate_limit_lines(answer: RateLimitCheckAnswer, now_us: int) -> FieldLines:
    """The header fields of an answer made at `now_us`; none when no policy applies.

    Shadow policies are left out: the client is not held to them.
    """
    reset_time = answer.reset_time
    if answer.policy_id is None or reset_time is None:
        return ""
    reset_us = to_us(reset_time)
    statuses: list[PolicyStatus] = []
    for one in answer.policies:
        if one.shadow:
            continue
        wait_seconds = one.retry_after
        if wait_seconds or one.reset_time is reset_time:
            until_us = reset_us  # of one that waits it is not told
        else:
            until_us = to_us(one.reset_time)
        statuses.append(
            policy_told(
                one.policy_id,
                one.limit_value,
                one.time_window_seconds,
                one.remaining_requests,
                wait_seconds,
                until_us,
                now_us,
            )
        )
    if len(statuses) > 1:
        statuses.sort(key=lambda one: one.name != answer.policy_id)
    return limit_lines(
        statuses,
        answer.remaining_requests or 0,
        whole_seconds(reset_us),
        None if answer.allowed else answer.retry_after,
    )


def limit_lines(
    statuses: Sequence[PolicyStatus],
    remaining: int,
    reset_epoch_seconds: int,
    retry_after_seconds: int | None,
) -> FieldLines:
    """The header fields of the policies in `statuses`, at least one; the first decides.

    `remaining` is what could be taken now, `reset_epoch_seconds` when the first would be unused;
    `retry_after_seconds` is None unless the request was denied.
    """
    first = statuses[0]
    if len(statuses) == 1:  # most; the lines below would say the same
        before = _before_remaining(first.name, first.limit, first.window_seconds)
        limits = f"{first.remaining};t={first.reset_seconds}"
    else:
        statuses = statuses[:_MAX_TOLD]
        members = [_policy_member(one.name, one.limit, one.window_seconds) for one in statuses]
        before = f"RateLimit-Policy: {', '.join(members)}\r\nRateLimit: "
        limits = ", ".join(
            [f"{sf_string(one.name)};r={one.remaining};t={one.reset_seconds}" for one in statuses]
        )
    later = "" if retry_after_seconds is None else f"Retry-After: {retry_after_seconds}\r\n"
    return (
        f"{before}{limits}\r\nX-RateLimit-Limit: {first.limit}\r\n"
        f"X-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {reset_epoch_seconds}\r\n{later}"
    )


@lru_cache(maxsize=8192)
def _before_remaining(name: str, limit: int, window_seconds: int) -> str:
    """What both structured fields begin with when one policy is told: the same in each answer."""
    policy = _policy_member(name, limit, window_seconds)
    return f"RateLimit-Policy: {policy}\r\nRateLimit: {sf_string(name)};r="


def _policy_member(name: str, limit: int, window_seconds: int) -> str:
    return f"{sf_string(name)};q={limit};w={window_seconds}"


def whole_seconds(us: int) -> int:
    """Microseconds as seconds, rounded up."""
    return -(-us // 1_000_000)


@lru_cache(maxsize=8192)
def sf_string(text: str) -> str:
    """A String of RFC 9651; what it cannot hold becomes `?`."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(one if one.isascii() and one.isprintable() else "?" for one in text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


__all__ = [
    "PolicyStatus",
    "limit_lines",
    "policy_told",
    "rate_limit_lines",
    "sf_string",
    "whole_seconds",
]

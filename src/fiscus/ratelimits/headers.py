"""The header fields that tell an HTTP client of its rate limits.

`RateLimit-Policy` and `RateLimit` as in draft-ietf-httpapi-ratelimit-headers-10, structured fields
(RFC 9651) with a line per policy, and the older `X-RateLimit-Limit`, `-Remaining` and `-Reset` of
the policy that decides. `Retry-After` (RFC 9110) comes with a denial only, and not with one that no
waiting would help.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from fiscus.clock import to_us
from fiscus.ratelimits.calls import RateLimitCheckAnswer

_MOST_LINES: Final = 10
"""Policies that are told: servers and proxies bound the size of headers."""


class HeaderLine(NamedTuple):
    """What is told of one policy."""

    name: str
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int
    """From now, rounded up: until it would admit a denied request, else until it is unused."""


def rate_limit_headers(answer: RateLimitCheckAnswer, now_us: int) -> list[tuple[str, str]]:
    """The header fields of an answer made at `now_us`; none when no policy applies.

    Shadow policies are left out: the client is not held to them.
    """
    reset_time = answer.reset_time
    if answer.policy_id is None or reset_time is None:
        return []
    reset_us = to_us(reset_time)
    lines: list[HeaderLine] = []
    for one in answer.policies:
        if one.shadow:
            continue
        if one.decision == "deny" and one.retry_after is not None:
            # the draft wants the same moment here as in Retry-After
            seconds = one.retry_after
        else:
            until_us = reset_us if one.reset_time is reset_time else to_us(one.reset_time)
            seconds = max(0, whole_seconds(until_us - now_us))
        lines.append(
            HeaderLine(
                one.policy_id,
                one.limit_value,
                one.time_window_seconds,
                one.remaining_requests,
                seconds,
            )
        )
    if len(lines) > 1:
        lines.sort(key=lambda line: line.name != answer.policy_id)
    return headers_of(
        lines,
        limit=answer.limit_value or 0,
        remaining=answer.remaining_requests or 0,
        reset_epoch_seconds=whole_seconds(reset_us),
        retry_after_seconds=None if answer.allowed else answer.retry_after,
    )


def headers_of(
    lines: Sequence[HeaderLine],
    *,
    limit: int,
    remaining: int,
    reset_epoch_seconds: int,
    retry_after_seconds: int | None,
) -> list[tuple[str, str]]:
    """The header fields of `lines`, the policy that decides first.

    `limit`, `remaining` and `reset_epoch_seconds` are of that policy; `retry_after_seconds` is None
    unless the request was denied.
    """
    headers = [
        ("X-RateLimit-Limit", str(limit)),
        ("X-RateLimit-Remaining", str(remaining)),
        ("X-RateLimit-Reset", str(reset_epoch_seconds)),
    ]
    if len(lines) == 1:  # most; the lines below would say the same
        name, quota, window, left, reset = lines[0]
        policies = _policy_member(name, quota, window)
        limits = f"{sf_string(name)};r={left};t={reset}"
        headers = [("RateLimit-Policy", policies), ("RateLimit", limits), *headers]
    elif lines:  # a structured field without members is not sent
        told = lines[:_MOST_LINES]
        policies = ", ".join([_policy_member(*line[:3]) for line in told])
        limits = ", ".join(
            [f"{sf_string(name)};r={left};t={reset}" for name, _, _, left, reset in told]
        )
        headers = [("RateLimit-Policy", policies), ("RateLimit", limits), *headers]
    if retry_after_seconds is not None:
        headers.append(("Retry-After", str(retry_after_seconds)))
    return headers


@lru_cache(maxsize=8192)
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


__all__ = ["HeaderLine", "headers_of", "rate_limit_headers", "sf_string", "whole_seconds"]

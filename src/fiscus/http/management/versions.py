"""Versions of definitions as HTTP has them: `ETag` in answers, `If-Match` in requests."""

from __future__ import annotations

import re
from typing import Any, Final

from fiscus.errors import ValidationError
from fiscus.http.management.endpoints import Call

_ETAG: Final = re.compile(r'"(\d{1,18})"')


def expected_version(call: Call[Any, Any], in_body: int | None) -> int | None:
    """The version a PUT replaces, from `If-Match` or the body; None replaces any.

    Raises `ValidationError` for an unreadable `If-Match`, and when the two differ.
    """
    given = _if_match(call)
    if given in (None, "*"):
        return in_body
    match = _ETAG.fullmatch(given)
    if match is None:
        raise ValidationError(
            "If-Match is not an ETag of this resource",
            field="If-Match",
            suggested_action='Send the ETag that a GET answered, with its quotes, such as "3".',
        )
    version = int(match[1])
    if in_body is not None and in_body != version:
        raise ValidationError(
            "If-Match and version differ",
            field="version",
            suggested_action="Send the version once.",
        )
    return version


def is_for_what_exists(call: Call[Any, Any]) -> bool:
    """Whether a PUT is to make nothing new, whatever version there is: `If-Match: *`."""
    return _if_match(call) == "*"


def _if_match(call: Call[Any, Any]) -> str | None:
    given: str | None = call.request.headers.get("if-match")
    return None if given is None else given.strip()


def etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}

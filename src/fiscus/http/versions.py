"""Versions of definitions as HTTP has them: `ETag` in answers, `If-Match` in requests."""

from __future__ import annotations

import re
from typing import Any, Final

from fiscus.errors import ValidationError
from fiscus.http.endpoints import Call

_ETAG: Final = re.compile(r'"(\d{1,18})"')


def expected_version(call: Call[Any, Any], in_body: int | None) -> int | None:
    """The version a PUT replaces, from `If-Match` or the body; None replaces any.

    Raises `ValidationError` for an unreadable `If-Match`, and when the two differ.
    """
    given: str | None = call.request.headers.get("if-match")
    if given is None or given.strip() == "*":
        return in_body
    match = _ETAG.fullmatch(given.strip())
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


def refuse_if_match(call: Call[Any, Any]) -> None:
    """Raises `ValidationError` when a deletion carries `If-Match`, which would have no effect."""
    if "if-match" in call.request.headers:
        raise ValidationError(
            "If-Match is not taken when deleting",
            field="If-Match",
            suggested_action="Leave If-Match out; force=false already protects what is in use.",
        )


def etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}

"""Header fields of which a request may have one, as of two whoever reads them might take another;
and one that most requests may not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fiscus.errors import FiscusError, Unauthorized, ValidationError

_CREDENTIALS: Final = frozenset({b"x-api-key", b"authorization"})
_ONCE: Final = _CREDENTIALS | {
    b"x-idempotency-key",
    b"idempotency-key",
    b"if-match",
    b"content-encoding",
    b"transfer-encoding",
}


def sent_twice(
    sent: Sequence[tuple[bytes, bytes]], fields: Mapping[bytes, bytes]
) -> FiscusError | None:
    """What to answer when one of them is in `sent` twice; `fields` are the same by their names."""
    if len(sent) == len(fields):
        return None
    seen: set[bytes] = set()
    for name, _ in sent:
        if name not in _ONCE or name not in seen:
            seen.add(name)
        elif name in _CREDENTIALS:
            return Unauthorized(
                "Two credentials were sent", suggested_action="Send one credential."
            )
        else:
            field = name.decode().title()
            return ValidationError(
                f"{field} was sent twice", field=field, suggested_action=f"Send {field} once."
            )
    return None


def if_match_is_not_taken() -> ValidationError:
    """Whoever sends it counts on it."""
    return ValidationError(
        "If-Match is taken only where a PUT replaces a version",
        field="If-Match",
        suggested_action="Leave If-Match out: it would have no effect here.",
    )


__all__ = ["if_match_is_not_taken", "sent_twice"]

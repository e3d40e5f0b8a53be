"""Header fields of which a request may have one: of two, whoever reads them might take another."""

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


__all__ = ["sent_twice"]

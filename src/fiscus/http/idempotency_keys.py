"""The idempotency key that a request carries in one of two headers."""

from __future__ import annotations

from collections.abc import Mapping

from fiscus.errors import ValidationError


def idempotency_key_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The key, unchecked; None when there is none. Raises `ValidationError` for two that differ."""
    given, short = headers.get(b"x-idempotency-key"), headers.get(b"idempotency-key")
    if given is None:
        given = short
    elif short is not None and given != short:
        raise ValidationError(
            "X-Idempotency-Key and Idempotency-Key differ",
            field="X-Idempotency-Key",
            suggested_action="Send one of the two headers.",
        )
    return None if given is None else given.decode("latin-1")


__all__ = ["idempotency_key_of"]

"""Idempotency: a repeated request gets the answer of the first.

Answers are stored in the transaction of their effect, so that a key is known exactly when its
effect is.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, NamedTuple

from fiscus.errors import IdempotencyConflict, ValidationError
from fiscus.wire import encode_canonical


class IdempotencyKey(NamedTuple):
    """Where an answer is kept."""

    tenant_id: str
    operation: str
    key: str


class Idempotency(NamedTuple):
    """A request's key, the hash of its canonical body and until when the answer is kept."""

    at: IdempotencyKey
    body_hash: str
    expires_at: datetime


class StoredAnswer(NamedTuple):
    """The answer of an earlier request with the same key."""

    body_hash: str
    answer: bytes
    expires_at: datetime


def idempotency(
    tenant_id: str, operation: str, key: str, body: Any, expires_at: datetime
) -> Idempotency:
    """`key` for `operation`, with the hash of the canonical decoded body."""
    if not 1 <= len(key) <= 256 or not key.isprintable():
        raise ValidationError(
            "The idempotency key must be 1 to 256 printable characters",
            field="idempotency_key",
            suggested_action="Send a UUID, for instance.",
        )
    digest = hashlib.sha256(encode_canonical(body)).hexdigest()
    return Idempotency(IdempotencyKey(tenant_id, operation, key), digest, expires_at)


def require_same_body(wanted: Idempotency, stored: StoredAnswer) -> None:
    """Raises `IdempotencyConflict` when the key was used with another body."""
    if stored.body_hash != wanted.body_hash:
        raise IdempotencyConflict(
            "This idempotency key was used with another body",
            details={"idempotency_key": wanted.at.key},
            suggested_action="Use a new key for a new request.",
        )

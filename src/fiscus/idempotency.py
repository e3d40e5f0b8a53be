"""Idempotency: a repeated request gets the answer of the first.

Answers are stored in the transaction of their effect, so that a key is known exactly when its
effect is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, cast

from msgspec import Struct
from msgspec.structs import replace

from fiscus.clock import to_us
from fiscus.errors import IdempotencyConflict, ValidationError
from fiscus.wire.encoding import encode_canonical

KEEP_ANSWERS: Final = timedelta(hours=24)
KEEP_CHECKS: Final = timedelta(minutes=5)
"""At least; the answer to a check is kept for as long as it reserves."""
KEEP_ALLOCATIONS: Final = timedelta(days=7)


class Keyed(NamedTuple):
    """An operation that may have a key, over whatever it is asked for."""

    operation: str
    """Stored with its keys: one that is changed forgets them."""
    keep: timedelta = KEEP_ANSWERS


ADD_EMERGENCY: Final = Keyed("add_emergency")
ALLOCATE_QUOTA: Final = Keyed("allocate_quota", KEEP_ALLOCATIONS)
ASK_FOR_QUOTA: Final = Keyed("ask_for_quota")
CREATE_API_KEY: Final = Keyed("create_api_key")
CREATE_BUDGET: Final = Keyed("create_budget")
CREATE_POLICY: Final = Keyed("create_policy")
DISTRIBUTE_QUOTAS: Final = Keyed("distribute_quotas", KEEP_ALLOCATIONS)
EXTEND: Final = Keyed("extend")
QUOTA_CHECK: Final = Keyed("quota_check")
QUOTA_RELEASE: Final = Keyed("quota_release")
RECORD: Final = Keyed("record")
RELEASE: Final = Keyed("release")
SETTLE: Final = Keyed("settle")


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
    """`key` for `operation`, with the hash of the canonical decoded body: what is asked, whether
    the body names its tenant and its key itself or leaves them to the credential and a header.

    `body` is a request, or a list or tuple of what tells the request from others. Raises
    `ValidationError` for a key that is none.
    """
    require_key(key)
    digest = hashlib.sha256(encode_canonical(_canonical(body, tenant_id))).hexdigest()
    return Idempotency(IdempotencyKey(tenant_id, operation, key), digest, expires_at)


def require_key(key: str) -> None:
    """Raises `ValidationError` unless `key` is the same in a header and in a body: ASCII, with
    spaces only between other characters."""
    if (
        not 1 <= len(key) <= 256
        or not (key.isascii() and key.isprintable())
        or key[0] == " "
        or key[-1] == " "
    ):
        raise ValidationError(
            "The idempotency key must be 1 to 256 visible ASCII characters, with spaces only "
            "between them",
            field="idempotency_key",
            suggested_action="Send a UUID, for instance.",
        )


def if_keyed(
    tenant_id: str, asked: Keyed, key: str | None, body: Any, now: datetime
) -> Idempotency | None:
    """As `idempotency`, of an answer that is kept for as long as others of what is asked; None
    without a key."""
    if key is None:
        return None
    return idempotency(tenant_id, asked.operation, key, body, now + asked.keep)


def _canonical(body: Any, tenant_id: str) -> Any:
    if isinstance(body, list | tuple):
        # the items of a batch keep their keys, which are their own
        parts = cast("Sequence[Any]", body)
        return [_said(one, tenant_id) if isinstance(one, Struct) else one for one in parts]
    return _said(body, tenant_id, idempotency_key=None) if isinstance(body, Struct) else body


def _said(request: Struct, tenant_id: str, **others: object) -> Struct:
    """A request with its tenant and `others` filled in, as far as it has them, and times in UTC."""
    fields = request.__struct_fields__
    filled: dict[str, object] = {"tenant_id": tenant_id, **others}
    same = {name: filled[name] for name in filled if name in fields}
    for name in fields:
        value = getattr(request, name)
        if isinstance(value, datetime) and value.tzinfo is not None:
            same[name] = to_us(value)
    return replace(request, **same)


def require_same_body(wanted: Idempotency, stored: StoredAnswer) -> None:
    """Raises `IdempotencyConflict` when the key was used with another body."""
    if stored.body_hash != wanted.body_hash:
        raise IdempotencyConflict(
            "This idempotency key was used with another body",
            details={"idempotency_key": wanted.at.key},
            suggested_action="Use a new key for a new request.",
        )

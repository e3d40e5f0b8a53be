"""Answers kept under idempotency keys, in the transaction of their effect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.idempotency import Idempotency, IdempotencyKey, StoredAnswer, require_same_body
from fiscus.stores.sql.tables import idempotency_keys as t
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode

T = TypeVar("T")


def once(
    make: Callable[[Connection], T],
    kind: type[T],
    idempotency: Idempotency | None,
    now: datetime,
) -> Callable[[Connection], T]:
    """`make`, as a change that a repeated request does not do again but gets the answer of.

    Raises `IdempotencyConflict` when the key was used with another body.
    """
    if idempotency is None:
        return make

    def change(connection: Connection) -> T:
        answer = stored_answer(connection, idempotency, now)
        if answer is not None:
            return decode(answer, kind)
        made = make(connection)
        keep_answer(connection, idempotency, encode(made))
        return made

    return change


def stored_answer(connection: Connection, wanted: Idempotency, now: datetime) -> bytes | None:
    """The answer kept for this key, or None when there is none whose window still runs.

    Raises `IdempotencyConflict` when the key was used with another body.
    """
    row = connection.execute(
        sa.select(t.c.body_hash, t.c.answer, t.c.expires_at).where(*_at(wanted.at))
    ).one_or_none()
    if row is None or row.expires_at <= now:
        return None
    stored = StoredAnswer(row.body_hash, row.answer.encode(), row.expires_at)
    require_same_body(wanted, stored)
    return stored.answer


def keep_answer(connection: Connection, wanted: Idempotency, answer: bytes) -> None:
    """Keep an answer under a key that is new, or whose window has ended."""
    connection.execute(sa.delete(t).where(*_at(wanted.at)))
    connection.execute(
        sa.insert(t).values(
            tenant_id=wanted.at.tenant_id,
            operation=wanted.at.operation,
            key=wanted.at.key,
            body_hash=wanted.body_hash,
            answer=answer.decode(),
            expires_at=wanted.expires_at,
        )
    )


def _at(key: IdempotencyKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        t.c.tenant_id == key.tenant_id,
        t.c.operation == key.operation,
        t.c.key == key.key,
    )

"""API keys: their hashes, never themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fiscus.access.model import ApiKey, Role
from fiscus.errors import Conflict, NotFound
from fiscus.idempotency import Idempotency
from fiscus.ids import is_uuid
from fiscus.paging import Page, PageRequest
from fiscus.priorities import Priority
from fiscus.stores.sql.at_once import rows_at_once
from fiscus.stores.sql.database import ALL_TENANTS, Database
from fiscus.stores.sql.idempotency import once
from fiscus.stores.sql.paging import SortKey, parse_uuid, read_page
from fiscus.stores.sql.tables import api_keys as t

_ORDER: Final = (SortKey(t.c.key_id, parse_uuid),)
_AT_ONCE: Final = 500


class SqlApiKeys:
    """`access.port.ApiKeyStore` on SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, key: ApiKey, key_hash: str, *, idempotency: Idempotency | None = None
    ) -> ApiKey:
        """As the port says. A repeated request gets the key made before without its secret, which
        was shown once and is kept nowhere: its `key_id` differs from the one passed in."""

        def change(connection: Connection) -> ApiKey:
            if _first(connection, t.c.key_hash == key_hash) is not None:
                raise Conflict(
                    "This API key exists already", suggested_action="Use another secret."
                )
            connection.execute(sa.insert(t).values(key_hash=key_hash, **_columns(key)))
            return key

        # A hash is unique among all tenants, so all must be seen.
        return self._database.write(ALL_TENANTS, once(change, ApiKey, idempotency, key.created_at))

    def find(self, key_hash: str) -> ApiKey | None:
        with self._database.read(ALL_TENANTS) as connection:
            row = _first(connection, t.c.key_hash == key_hash)
        return None if row is None else _key(row)

    def find_many(self, key_hashes: Sequence[str]) -> dict[str, ApiKey]:
        found: dict[str, ApiKey] = {}
        with self._database.read(ALL_TENANTS) as connection:
            for start in range(0, len(key_hashes), _AT_ONCE):
                some = key_hashes[start : start + _AT_ONCE]
                rows = rows_at_once(connection, tuple(t.c), t.c.key_hash.in_(some))
                found.update({row.key_hash: _key(row) for row in rows})
        return found

    def get(self, tenant_id: str, key_id: str) -> ApiKey:
        with self._database.read(tenant_id) as connection:
            return _get(connection, tenant_id, key_id)

    def list(self, tenant_id: str, page: PageRequest) -> Page[ApiKey]:
        with self._database.read(tenant_id) as connection:
            return read_page(
                connection,
                sa.select(t).where(t.c.tenant_id == tenant_id),
                _ORDER,
                page,
                read=_keys,
                position=lambda key: [key.key_id],
            )

    def revoke(self, tenant_id: str, key_id: str, now: datetime) -> ApiKey:
        def change(connection: Connection) -> ApiKey:
            key = _get(connection, tenant_id, key_id)
            if key.revoked_at is None:
                connection.execute(
                    sa.update(t)
                    .where(t.c.tenant_id == tenant_id, t.c.key_id == key_id)
                    .values(revoked_at=now)
                )
            return _get(connection, tenant_id, key_id)

        return self._database.write(tenant_id, change)


def _get(connection: Connection, tenant_id: str, key_id: str) -> ApiKey:
    row = (
        _first(connection, t.c.tenant_id == tenant_id, t.c.key_id == key_id)
        if is_uuid(key_id)
        else None
    )
    if row is None:
        raise NotFound(
            f"No API key {key_id} exists",
            details={"key_id": key_id},
            suggested_action="Use the key_id that was answered when the key was made.",
        )
    return _key(row)


def _first(connection: Connection, *where: sa.ColumnElement[bool]) -> Row[Any] | None:
    return connection.execute(sa.select(t).where(*where)).one_or_none()


def _columns(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "hint": key.hint,
        "roles": ",".join(key.roles),
        "created_by": key.created_by,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "highest_priority": key.highest_priority.value,
    }


def _keys(rows: Sequence[Row[Any]]) -> list[ApiKey]:
    return [_key(row) for row in rows]


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        tenant_id=row.tenant_id,
        name=row.name,
        hint=row.hint,
        roles=[Role(role) for role in row.roles.split(",")],
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        highest_priority=Priority(row.highest_priority),
    )

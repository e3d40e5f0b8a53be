"""Tenants' settings, and the version that every change of a tenant's definitions moves on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fiscus.errors import Conflict, NotFound
from fiscus.money import parse_currency
from fiscus.periods import parse_timezone
from fiscus.scopes import parse_id
from fiscus.stores.sql.at_once import rows_at_once
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.tables import tenants as t
from fiscus.tenants import Tenant, TenantSettings, TenantSpec


class SqlTenants:
    """`tenants.TenantStore` on SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, tenant_id: str) -> Tenant:
        with self._database.read(tenant_id) as connection:
            row = _find(connection, tenant_id)
        if row is None:
            raise NotFound(
                f"Nothing was set for tenant {tenant_id}",
                details={"tenant_id": tenant_id},
                suggested_action="Set its settings with PUT; until then the defaults hold.",
            )
        return _tenant(row)

    def settings(self, tenant_id: str) -> TenantSettings:
        with self._database.read(tenant_id) as connection:
            return settings_of(connection, tenant_id)

    def put(
        self, tenant_id: str, spec: TenantSpec, *, expected_version: int | None, now: datetime
    ) -> Tenant:
        parse_id(tenant_id, "tenant_id")
        settings = TenantSettings(
            currency=parse_currency(spec.currency),
            timezone=parse_timezone(spec.timezone),
            require_budget=spec.require_budget,
            require_quota=spec.require_quota,
            rollup_tags=sorted(set(spec.rollup_tags)),
        )
        expected = spec.version if expected_version is None else expected_version

        def change(connection: Connection) -> Tenant:
            row = _find(connection, tenant_id)
            version = 0 if row is None else row.version
            if expected is not None and expected != version:
                raise stale_version("tenant", tenant_id, version)
            if row is None:
                _insert(connection, tenant_id, settings, now)
            else:
                connection.execute(
                    sa.update(t)
                    .where(t.c.tenant_id == tenant_id)
                    .values(
                        **_columns(settings),
                        version=version + 1,
                        definitions_version=row.definitions_version + 1,
                        updated_at=now,
                    )
                )
            changed = _find(connection, tenant_id)
            assert changed is not None
            return _tenant(changed)

        return self._database.write(tenant_id, change)


def settings_of(connection: Connection, tenant_id: str) -> TenantSettings:
    """The tenant's settings, or the defaults where nothing was set."""
    row = _find(connection, tenant_id)
    if row is None:
        return TenantSettings()
    return TenantSettings(
        currency=row.currency,
        timezone=row.timezone,
        require_budget=row.require_budget,
        require_quota=row.require_quota,
        rollup_tags=json.loads(row.rollup_tags),
    )


def next_definitions_version(connection: Connection, tenant_id: str, now: datetime) -> int:
    """Move the tenant's definitions on, so that caches read what changed; the new version."""
    version = connection.execute(
        sa.update(t)
        .where(t.c.tenant_id == tenant_id)
        .values(definitions_version=t.c.definitions_version + 1)
        .returning(t.c.definitions_version)
    ).scalar_one_or_none()
    if version is None:
        _insert(connection, tenant_id, TenantSettings(), now)
        return 1
    return version


def definitions_versions(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, int]:
    """The versions of the tenants' definitions; without those that nothing was defined for."""
    columns = (t.c.tenant_id, t.c.definitions_version)
    rows = rows_at_once(connection, columns, t.c.tenant_id.in_(tenant_ids))
    return {row.tenant_id: row.definitions_version for row in rows}


def stale_version(kind: str, name: str, current: int) -> Conflict:
    """The definition changed since the caller read it."""
    return Conflict(
        f"The {kind} is at version {current}, not at the one being replaced",
        details={f"{kind}_id": name, "current_version": current},
        suggested_action=f"Read the {kind} again and apply the change to what it says now.",
    )


def _find(connection: Connection, tenant_id: str) -> Row[Any] | None:
    return connection.execute(sa.select(t).where(t.c.tenant_id == tenant_id)).one_or_none()


def _insert(
    connection: Connection, tenant_id: str, settings: TenantSettings, now: datetime
) -> None:
    connection.execute(
        sa.insert(t).values(
            tenant_id=tenant_id,
            **_columns(settings),
            version=1,
            definitions_version=1,
            created_at=now,
            updated_at=now,
        )
    )


def _columns(settings: TenantSettings) -> dict[str, Any]:
    return {
        "currency": settings.currency,
        "timezone": settings.timezone,
        "require_budget": settings.require_budget,
        "require_quota": settings.require_quota,
        "rollup_tags": json.dumps(settings.rollup_tags),
    }


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(
        tenant_id=row.tenant_id,
        currency=row.currency,
        timezone=row.timezone,
        require_budget=row.require_budget,
        require_quota=row.require_quota,
        rollup_tags=json.loads(row.rollup_tags),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )

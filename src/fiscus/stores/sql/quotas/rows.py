"""Rows of quotas' definitions: found, written with their versions, and checked for overlap.

Every write also moves the tenant's `definitions_version` on, by which ledgers see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from fiscus.errors import Conflict, NotFound
from fiscus.ids import is_uuid
from fiscus.quotas.definitions import renew_from
from fiscus.quotas.model import Quota, RenewalStatus
from fiscus.stores.sql.column_types import UtcTime
from fiscus.stores.sql.quotas.tables import quota_versions
from fiscus.stores.sql.quotas.tables import quotas as t
from fiscus.stores.sql.tenants import next_definitions_version
from fiscus.stores.sql.versions import Versions
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode

versions: Final = Versions(quota_versions, Quota, "quota")

_PLAN_ANEW: Final = sa.text("SET LOCAL plan_cache_mode = force_custom_plan")


def find(
    connection: Connection, tenant_id: str, quota_id: str, *, deleted_too: bool = False
) -> Quota:
    """A quota as it stands; raises `NotFound`."""
    definition = None
    if is_uuid(quota_id):
        query = sa.select(t.c.definition).where(
            t.c.quota_id == quota_id, t.c.tenant_id == tenant_id
        )
        if not deleted_too:
            query = query.where(t.c.deleted_at.is_(None))
        definition = connection.execute(query).scalar_one_or_none()
    if definition is None:
        raise NotFound(
            f"No quota {quota_id} exists",
            details={"quota_id": quota_id},
            suggested_action="Use the quota_id that was answered when the quota was allocated.",
        )
    return decode(definition, Quota)


def insert(
    connection: Connection, tenant_id: str, made: Sequence[Quota], by: str, now: datetime
) -> None:
    """New quotas of one tenant, in two statements however many they are."""
    definitions_version = next_definitions_version(connection, tenant_id, now)
    rows = [
        {
            "quota_id": quota.quota_id,
            "tenant_id": tenant_id,
            "renewed_from": quota.renewed_from,
            "created_at": quota.created_at,
            **_columns(quota, definitions_version),
        }
        for quota in made
    ]
    connection.execute(sa.insert(t), rows)
    versions.keep(connection, made, by)


def put(
    connection: Connection, quota: Quota, by: str, now: datetime, *, deleted: bool = False
) -> None:
    """The next version of a quota; its last when `deleted`."""
    columns = _columns(quota, next_definitions_version(connection, quota.tenant_id, now))
    if deleted:
        columns |= {"deleted_at": now, "renew_at": None}
    _update(connection, quota, columns)
    versions.keep(connection, [quota], by)


def mark_renewal(
    connection: Connection,
    quota: Quota,
    status: RenewalStatus,
    now: datetime,
    error: str | None = None,
) -> None:
    """How the renewal of a quota ended. That is no new version: nobody changed what it says."""
    marked = replace(quota, renewal_status=status)
    columns = {
        "definitions_version": next_definitions_version(connection, quota.tenant_id, now),
        "renewal_status": status.value,
        "renew_at": None,
        "renewal_error": error,
        "definition": encode(marked).decode(),
    }
    _update(connection, quota, columns)


class TakenPeriods:
    """Which of some new quotas would overlap one that is there; read in one query.

    Quotas overlap when their periods do in one place: the same scope and resource.
    """

    def __init__(self, connection: Connection, tenant_id: str, wanted: Sequence[Quota]) -> None:
        self._there = _overlapped(connection, tenant_id, wanted) if wanted else {}
        self._taken: dict[tuple[str, str, str], list[Quota]] = {}

    def take(self, quota: Quota) -> None:
        """Take a wanted quota's period. Raises `Conflict` when another has some of it: one that is
        there, or one taken before."""
        place = (quota.scope_type.value, quota.scope_id, quota.resource_type)
        taken = self._taken.setdefault(place, [])
        there = self._there.get(quota.quota_id)
        for other in taken if there is None else [there]:
            if quota.period_start < other.period_end and other.period_start < quota.period_end:
                raise _overlap(quota, other)
        taken.append(quota)


def _overlapped(
    connection: Connection, tenant_id: str, wanted: Sequence[Quota]
) -> dict[str, Quota]:
    """A quota that is there, by id of the wanted one that it overlaps."""
    if connection.dialect.name == "postgresql":
        # else a plan made while the table was small may be kept for as long as the connection
        connection.execute(_PLAN_ANEW)
    w = (
        sa.values(
            sa.column("quota_id", sa.Text()),
            sa.column("scope_type", sa.Text()),
            sa.column("scope_id", sa.Text()),
            sa.column("resource_type", sa.Text()),
            sa.column("period_start", UtcTime()),
            sa.column("period_end", UtcTime()),
            name="given",
        )
        .data(
            [
                (
                    quota.quota_id,
                    quota.scope_type.value,
                    quota.scope_id,
                    quota.resource_type,
                    quota.period_start,
                    quota.period_end,
                )
                for quota in wanted
            ]
        )
        .cte("wanted")
    )
    # One look-up by ix_quotas_place for each: as a join, a PostgreSQL that has not analyzed the
    # table yet would read all of the tenant's quotas instead.
    there = (
        sa.select(t.c.definition)
        .where(
            t.c.tenant_id == tenant_id,
            t.c.scope_id == w.c.scope_id,
            t.c.resource_type == w.c.resource_type,
            t.c.period_end > w.c.period_start,
            t.c.period_start < w.c.period_end,
            t.c.scope_type == w.c.scope_type,
            t.c.deleted_at.is_(None),
        )
        .limit(1)
        .scalar_subquery()
    )
    found = sa.select(w.c.quota_id, there.label("there")).subquery()
    query = sa.select(found.c.quota_id, found.c.there).where(found.c.there.is_not(None))
    return {row.quota_id: decode(row.there, Quota) for row in connection.execute(query)}


def _overlap(quota: Quota, other: Quota) -> Conflict:
    return Conflict(
        f"The {quota.scope_type} {quota.scope_id} has a quota of {quota.resource_type} already "
        "whose period overlaps this one",
        details={
            "quota_id": other.quota_id,
            "scope_type": quota.scope_type.value,
            "scope_id": quota.scope_id,
            "resource_type": quota.resource_type,
            "period_start": other.period_start.isoformat(),
            "period_end": other.period_end.isoformat(),
        },
        suggested_action="Change that quota, or allocate for a period that it does not touch.",
    )


def _update(connection: Connection, quota: Quota, columns: dict[str, Any]) -> None:
    connection.execute(
        sa.update(t)
        .where(t.c.quota_id == quota.quota_id, t.c.tenant_id == quota.tenant_id)
        .values(columns)
    )


def _columns(quota: Quota, definitions_version: int) -> dict[str, Any]:
    """What each version sets; renewal starts afresh with it."""
    pending = quota.renewal_status is RenewalStatus.PENDING
    return {
        "version": quota.version,
        "definitions_version": definitions_version,
        "scope_type": quota.scope_type.value,
        "scope_id": quota.scope_id,
        "resource_type": quota.resource_type,
        "period_start": quota.period_start,
        "period_end": quota.period_end,
        "auto_renew": quota.auto_renew,
        "renewal_status": quota.renewal_status.value,
        "renew_at": renew_from(quota) if pending else None,
        "renewal_tries": 0,
        "renewal_error": None,
        "definition": encode(quota).decode(),
        "updated_at": quota.updated_at,
    }

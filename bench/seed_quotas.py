"""Fill an empty database with tenants and quotas, in bulk, as `seed` does with budgets."""

from __future__ import annotations

from datetime import UTC, datetime

from bench.seed import SETTINGS, insert_tenants, writing
from bench.workload import PLENTY, QUOTA_RESOURCE, Place
from fiscus.ids import uuid7
from fiscus.quotas.definitions import define
from fiscus.quotas.model import Quota, QuotaSpec
from fiscus.stores.sql import migrate
from fiscus.stores.sql.quotas import rows as quota_rows
from fiscus.wire.converting import convert


def fill_quotas(url: str, tenants: int, projects: int) -> list[list[Place]]:
    """Migrate the database and give each tenant a quota of its own and one per project.

    Answers, tenant by tenant, the places of its projects. All quotas are monthly, with plenty of
    room. The rows are those that one batch of allocations for each tenant leaves.
    """
    migrate.upgrade(url)
    now = datetime.now(UTC)
    places: list[list[Place]] = []
    quotas: dict[str, list[Quota]] = {}
    for number in range(tenants):
        tenant_id = f"tenant-{number:05d}"
        own = _quota(tenant_id, "tenant", tenant_id, now)
        of_projects = [
            _quota(tenant_id, "project", f"project-{index:03d}", now) for index in range(projects)
        ]
        quotas[tenant_id] = [own, *of_projects]
        places.append(
            [Place(tenant_id, one.scope_id, own.quota_id, one.quota_id) for one in of_projects]
        )
    with writing(url) as connection:
        insert_tenants(connection, list(quotas), 0, now)
        for tenant_id, made in quotas.items():
            quota_rows.insert(connection, tenant_id, made, "bench", now)
    return places


def _quota(tenant_id: str, scope_type: str, scope_id: str, now: datetime) -> Quota:
    spec = convert(
        {
            "scope_type": scope_type,
            "scope_id": scope_id,
            "resource_type": QUOTA_RESOURCE,
            "allocated_amount": PLENTY,
        },
        QuotaSpec,
    )
    return define(
        spec,
        SETTINGS,
        quota_id=uuid7(),
        tenant_id=tenant_id,
        version=1,
        created_at=now,
        now=now,
    )

"""Fill an empty database with tenants and budgets, in bulk: the API would take long for 100 000.

The rows are those that creating each budget through the API leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from bench.workload import CURRENCY, PLENTY, Place
from fiscus.budgets.definitions import define
from fiscus.budgets.model import Budget, BudgetSpec
from fiscus.ids import uuid7
from fiscus.stores.sql import migrate, tables
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert
from fiscus.wire.encoding import encode

SETTINGS: Final = TenantSettings(currency=CURRENCY, timezone="UTC")
_AT_ONCE: Final = 5_000


def fill(url: str, tenants: int, projects: int) -> list[list[Place]]:
    """Migrate the database and give each tenant a budget of its own and one per project.

    Answers, tenant by tenant, the places of its projects. All budgets are monthly hard stops with
    plenty of room.
    """
    migrate.upgrade(url)
    now = datetime.now(UTC)
    places: list[list[Place]] = []
    budgets: list[tuple[Budget, int]] = []
    for number in range(tenants):
        tenant_id = f"tenant-{number:05d}"
        own = _budget(tenant_id, "tenant", tenant_id, now)
        budgets.append((own, 1))
        places.append([])
        for index in range(projects):
            project = _budget(tenant_id, "project", f"project-{index:03d}", now)
            budgets.append((project, index + 2))
            places[-1].append(
                Place(tenant_id, project.allocated_to_id, own.budget_id, project.budget_id)
            )
    with writing(url) as connection:
        insert_tenants(connection, [one[0].tenant_id for one in places], projects + 1, now)
        for start in range(0, len(budgets), _AT_ONCE):
            _insert(connection, budgets[start : start + _AT_ONCE])
    return places


def insert_tenants(
    connection: sa.Connection, tenant_ids: list[str], definitions: int, now: datetime
) -> None:
    """Tenants whose `definitions` definitions are all there."""
    connection.execute(
        sa.insert(tables.tenants),
        [
            {
                "tenant_id": tenant_id,
                "currency": SETTINGS.currency,
                "timezone": SETTINGS.timezone,
                "require_budget": False,
                "require_quota": False,
                "rollup_tags": "[]",
                "version": 1,
                "definitions_version": definitions,
                "created_at": now,
                "updated_at": now,
            }
            for tenant_id in tenant_ids
        ],
    )


@contextmanager
def writing(url: str) -> Iterator[sa.Connection]:
    """One transaction that sees all tenants' rows, as the owner of the tables."""
    parsed = sa.make_url(url)
    options: dict[str, str] = {}
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        options = {"options": "-c timezone=UTC -c fiscus.tenants=*"}
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, connect_args=options)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def analyze(url: str) -> None:
    """Give the planner its statistics, as PostgreSQL does by itself within some minutes."""
    with writing(url) as connection:
        connection.execute(sa.text("ANALYZE"))


def count(url: str, table: str) -> int:
    """How many rows a table has, of all tenants."""
    with writing(url) as connection:
        return connection.execute(
            sa.select(sa.func.count()).select_from(tables.metadata.tables[table])
        ).scalar_one()


def _budget(tenant_id: str, scope_type: str, scope_id: str, now: datetime) -> Budget:
    spec = convert(
        {
            "budget_name": f"{scope_type} {scope_id}",
            "budget_amount": PLENTY,
            "period_type": "monthly",
            "allocated_to_type": scope_type,
            "allocated_to_id": scope_id,
            "enforcement_action": "hard_stop",
        },
        BudgetSpec,
    )
    return define(
        spec,
        SETTINGS,
        budget_id=uuid7(),
        tenant_id=tenant_id,
        version=1,
        created_at=now,
        now=now,
    )


def _insert(connection: sa.Connection, budgets: list[tuple[Budget, int]]) -> None:
    connection.execute(
        sa.insert(tables.budgets),
        [
            {
                "budget_id": budget.budget_id,
                "tenant_id": budget.tenant_id,
                "version": budget.version,
                "definitions_version": definitions_version,
                "budget_name": budget.budget_name,
                "budget_amount": budget.budget_amount,
                "currency": budget.currency,
                "period_type": budget.period_type.value,
                "allocated_to_type": budget.allocated_to_type.value,
                "allocated_to_id": budget.allocated_to_id,
                "enforcement_action": budget.enforcement_action.value,
                "definition": encode(budget).decode(),
                "created_at": budget.created_at,
                "updated_at": budget.updated_at,
            }
            for budget, definitions_version in budgets
        ],
    )
    connection.execute(
        sa.insert(tables.budget_versions),
        [
            {
                "budget_id": budget.budget_id,
                "version": budget.version,
                "tenant_id": budget.tenant_id,
                "definition": encode(budget).decode(),
                "changed_by": "bench",
                "changed_at": budget.updated_at,
            }
            for budget, _ in budgets
        ],
    )

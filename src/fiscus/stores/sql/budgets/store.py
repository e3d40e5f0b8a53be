"""Budgets' definitions with all their versions, and how far they are used.

Every change is one transaction that also moves the tenant's `definitions_version` on, by which
ledgers see it from their next group on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection, Row

from fiscus.budgets.calls import Utilization
from fiscus.budgets.definitions import define, unlike_usage
from fiscus.budgets.model import Budget, BudgetSpec
from fiscus.budgets.port import BudgetFilter, BudgetUse
from fiscus.errors import Conflict, NotFound
from fiscus.idempotency import Idempotency
from fiscus.ids import is_uuid, uuid7
from fiscus.paging import Page, PageRequest
from fiscus.stores.sql.budgets.utilization import (
    has_usage,
    open_reservations,
    read_utilization,
    used_currently,
)
from fiscus.stores.sql.budgets.versions import versions
from fiscus.stores.sql.database import ALL_TENANTS, Database
from fiscus.stores.sql.idempotency import once
from fiscus.stores.sql.most_used import LOOK_SECONDS, budgets_used_most
from fiscus.stores.sql.paging import SortKey, parse_uuid, read_page
from fiscus.stores.sql.tables import budgets as t
from fiscus.stores.sql.tenants import next_definitions_version, settings_of, stale_version
from fiscus.stores.sql.versions import replaces_none
from fiscus.tenants import TenantSettings
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode

_ORDER: Final = (SortKey(t.c.budget_id, parse_uuid),)


class SqlBudgets:
    """`budgets.port.BudgetStore` on SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        tenant_id: str,
        spec: BudgetSpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> Budget:
        if spec.version is not None:
            raise replaces_none("budget")

        def change(connection: Connection) -> Budget:
            budget = define(
                spec,
                settings_of(connection, tenant_id),
                budget_id=uuid7(),
                tenant_id=tenant_id,
                version=1,
                created_at=now,
                now=now,
            )
            definitions_version = next_definitions_version(connection, tenant_id, now)
            connection.execute(
                sa.insert(t).values(
                    budget_id=budget.budget_id,
                    tenant_id=tenant_id,
                    created_at=now,
                    **_columns(budget, definitions_version),
                )
            )
            versions.keep(connection, [budget], by)
            return budget

        return self._database.write(tenant_id, once(change, Budget, idempotency, now))

    def get(self, tenant_id: str, budget_id: str, version: int | None = None) -> Budget:
        with self._database.read(tenant_id) as connection:
            if version is None:
                return _get(connection, tenant_id, budget_id)
            return versions.find(connection, tenant_id, budget_id, version)

    def list(self, tenant_id: str, wanted: BudgetFilter, page: PageRequest) -> Page[Budget]:
        query = sa.select(t.c.definition).where(
            t.c.tenant_id == tenant_id, t.c.deleted_at.is_(None), *_conditions(wanted)
        )
        with self._database.read(tenant_id) as connection:
            return read_page(
                connection,
                query,
                _ORDER,
                page,
                read=_budgets,
                position=lambda budget: [budget.budget_id],
            )

    def replace(
        self,
        tenant_id: str,
        budget_id: str,
        spec: BudgetSpec,
        *,
        expected_version: int | None,
        by: str,
        now: datetime,
    ) -> Budget:
        expected = spec.version if expected_version is None else expected_version

        def change(connection: Connection) -> Budget:
            old = _get(connection, tenant_id, budget_id)
            if expected is not None and expected != old.version:
                raise stale_version("budget", budget_id, old.version)
            new = define(
                spec,
                TenantSettings(currency=old.currency, timezone=old.timezone),
                budget_id=budget_id,
                tenant_id=tenant_id,
                version=old.version + 1,
                created_at=old.created_at,
                now=now,
            )
            fields = unlike_usage(old, new)
            if fields:
                self._database.without_groups(connection, tenant_id)
                if has_usage(connection, old, now):
                    raise _in_use(budget_id, fields)
            self._put(connection, new, by, now)
            return new

        return self._database.write(tenant_id, change)

    def delete(
        self, tenant_id: str, budget_id: str, *, force: bool, by: str, now: datetime
    ) -> None:
        def change(connection: Connection) -> None:
            old = _get(connection, tenant_id, budget_id)
            if not force:
                self._database.without_groups(connection, tenant_id)
                _require_unused(connection, old, now)
            last = replace(old, version=old.version + 1, updated_at=now)
            self._put(connection, last, by, now, deleted_at=now)

        self._database.write(tenant_id, change)

    def utilization(
        self,
        tenant_id: str,
        budget_id: str,
        page: PageRequest,
        *,
        scope_id: str | None,
        now: datetime,
    ) -> Utilization:
        with self._database.read(tenant_id) as connection:
            budget = _get(connection, tenant_id, budget_id)
            return read_utilization(connection, budget, page, scope_id=scope_id, now=now)

    def most_used(self, now: datetime, most: int) -> list[BudgetUse]:
        with self._database.read_in_time(LOOK_SECONDS, ALL_TENANTS) as connection:
            return budgets_used_most(connection, now, most)

    def _put(
        self,
        connection: Connection,
        budget: Budget,
        by: str,
        now: datetime,
        deleted_at: datetime | None = None,
    ) -> None:
        definitions_version = next_definitions_version(connection, budget.tenant_id, now)
        connection.execute(
            sa.update(t)
            .where(t.c.budget_id == budget.budget_id, t.c.tenant_id == budget.tenant_id)
            .values(deleted_at=deleted_at, **_columns(budget, definitions_version))
        )
        versions.keep(connection, [budget], by)


def _get(connection: Connection, tenant_id: str, budget_id: str) -> Budget:
    definition = None
    if is_uuid(budget_id):
        definition = connection.execute(
            sa.select(t.c.definition).where(
                t.c.budget_id == budget_id, t.c.tenant_id == tenant_id, t.c.deleted_at.is_(None)
            )
        ).scalar_one_or_none()
    if definition is None:
        raise NotFound(
            f"No budget {budget_id} exists",
            details={"budget_id": budget_id},
            suggested_action="Use the budget_id that was answered when the budget was made.",
        )
    return decode(definition, Budget)


def _columns(budget: Budget, definitions_version: int) -> dict[str, Any]:
    return {
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
        "updated_at": budget.updated_at,
    }


def _conditions(wanted: BudgetFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = [
        column == value
        for column, value in (
            (t.c.allocated_to_type, wanted.allocated_to_type),
            (t.c.allocated_to_id, wanted.allocated_to_id),
            (t.c.period_type, wanted.period_type),
            (t.c.enforcement_action, wanted.enforcement_action),
            (t.c.currency, wanted.currency),
        )
        if value is not None
    ]
    if wanted.name_contains is not None:
        found.append(t.c.budget_name.icontains(wanted.name_contains, autoescape=True))
    return found


def _budgets(rows: Sequence[Row[Any]]) -> list[Budget]:
    return [decode(row.definition, Budget) for row in rows]


def _require_unused(connection: Connection, budget: Budget, now: datetime) -> None:
    reservations = open_reservations(connection, budget, now)
    if reservations or used_currently(connection, budget, now):
        raise Conflict(
            "The budget has open reservations or usage in the current period",
            details={"budget_id": budget.budget_id, "open_reservations": reservations},
            suggested_action="Settle or release its reservations and wait for the next period, "
            "or delete with force=true.",
        )


def _in_use(budget_id: str, fields: list[str]) -> Conflict:
    return Conflict(
        f"The budget has usage, so {', '.join(fields)} cannot change",
        details={"budget_id": budget_id, "fields": fields},
        suggested_action="Make a new budget, and end this one with end_date.",
    )

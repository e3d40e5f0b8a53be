"""Reservations as people look at them; the ledger makes and changes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Row

from fiscus.budgets.calls import HeldLine, ReservationView
from fiscus.budgets.model import ReservationStatus, status_at
from fiscus.budgets.port import ReservationFilter
from fiscus.errors import NotFound
from fiscus.ids import is_uuid
from fiscus.money import plain
from fiscus.paging import Page, PageRequest
from fiscus.stores.sql.budgets.lines import holds_of, read_lines
from fiscus.stores.sql.database import ALL_TENANTS, Database
from fiscus.stores.sql.paging import SortKey, parse_uuid, read_page
from fiscus.stores.sql.tables import reservations as t
from fiscus.wire.decoding import decode_any

_ORDER: Final = (SortKey(t.c.reservation_id, parse_uuid),)


class SqlReservations:
    """`budgets.port.ReservationStore` on SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(
        self, tenant_id: str, wanted: ReservationFilter, page: PageRequest, now: datetime
    ) -> Page[ReservationView]:
        with self._database.read(tenant_id) as connection:
            return read_page(
                connection,
                sa.select(t).where(t.c.tenant_id == tenant_id, *_conditions(wanted, now)),
                _ORDER,
                page,
                read=lambda rows: [_view(row, now) for row in rows],
                position=lambda view: [view.reservation_id],
            )

    def get(self, tenant_id: str, reservation_id: str, now: datetime) -> ReservationView:
        if is_uuid(reservation_id):
            with self._database.read(tenant_id) as connection:
                query = sa.select(t).where(
                    t.c.reservation_id == reservation_id, t.c.tenant_id == tenant_id
                )
                row = connection.execute(query).first()
            if row is not None:
                return _view(row, now)
        raise NotFound(
            f"No reservation {reservation_id} exists",
            details={"reservation_id": reservation_id},
            suggested_action="Use the reservation_id that the check answered.",
        )

    def tenants_with_due(self, now: datetime) -> list[str]:
        query = (
            sa.select(t.c.tenant_id)
            .where(t.c.status == sa.text("'pending'"), t.c.expires_at <= now)
            .distinct()
            .order_by(t.c.tenant_id)
        )
        with self._database.read(ALL_TENANTS) as connection:
            return list(connection.execute(query).scalars())


def _conditions(wanted: ReservationFilter, now: datetime) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    # Spelled out, so that the index of the pending ones is used.
    pending = t.c.status == sa.text("'pending'")
    if wanted.status is ReservationStatus.PENDING:
        found += [pending, t.c.expires_at > now]
    elif wanted.status is ReservationStatus.EXPIRED:
        is_due = sa.and_(pending, t.c.expires_at <= now)
        found.append(sa.or_(t.c.status == wanted.status.value, is_due))
    elif wanted.status is not None:
        found.append(t.c.status == wanted.status.value)
    for column, value in (
        (t.c.project_id, wanted.project_id),
        (t.c.user_id, wanted.user_id),
        (t.c.feature_id, wanted.feature_id),
        (t.c.operation_id, wanted.operation_id),
    ):
        if value is not None:
            found.append(column == value)
    if wanted.budget_id is not None:
        if not is_uuid(wanted.budget_id):
            return [sa.false()]
        found.append(holds_of(wanted.budget_id))
    return found


def _view(row: Row[Any], now: datetime) -> ReservationView:
    return ReservationView(
        reservation_id=row.reservation_id,
        tenant_id=row.tenant_id,
        status=status_at(ReservationStatus(row.status), row.expires_at, now),
        resource_type=row.resource_type,
        estimated_cost=plain(row.estimated_cost),
        currency=row.currency,
        project_id=row.project_id,
        user_id=row.user_id,
        feature_id=row.feature_id,
        service_name=row.service_name,
        tags=decode_any(row.tags) if row.tags else {},
        operation_id=row.operation_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        record_id=row.record_id,
        actual_cost=None if row.actual_cost is None else plain(row.actual_cost),
        budgets=[HeldLine.of(line) for line in read_lines(row.lines)],
    )

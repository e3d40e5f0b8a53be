"""Reservations in the ledger: give back, extend, expire."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from fiscus.budgets.calls import HeldLine, ReservationView
from fiscus.budgets.model import Reservation, ReservationStatus, status_at
from fiscus.budgets.rules import free
from fiscus.errors import Conflict, NotFound
from fiscus.ledger.commands import Expire, Expired, Extend, Release, Settle
from fiscus.ledger.workspace import Workspace


def plan_on_reservation(workspace: Workspace, command: Settle | Release | Extend) -> None:
    workspace.need_reservation(command.reservation_id, command.tenant_id)


def require_reservation(workspace: Workspace, reservation_id: str, tenant_id: str) -> Reservation:
    """The reservation, or `NotFound`; another tenant's is not found either."""
    reservation = workspace.reservation(reservation_id, tenant_id)
    if reservation is None:
        raise NotFound(
            f"No reservation {reservation_id} exists",
            details={"reservation_id": reservation_id},
            suggested_action="Use the reservation_id that the check answered.",
        )
    return reservation


def close(workspace: Workspace, reservation: Reservation, status: ReservationStatus) -> Reservation:
    """Free what a pending reservation holds and give it its last status."""
    for line in reservation.lines:
        balance = workspace.held_balance(line.key)
        if balance is not None:
            workspace.put_balance(free(balance, line.amount))
    closed = replace(reservation, status=status)
    workspace.put_reservation(closed)
    return closed


def free_due(workspace: Workspace, tenant_id: str, now: datetime, most: int | None = None) -> int:
    """Expire the tenant's reservations that are due, so that no verdict rests on them."""
    workspace.require_due_loaded(tenant_id, now, most)
    due = workspace.due(tenant_id, now)
    for reservation in due:
        close(workspace, reservation, ReservationStatus.EXPIRED)
    return len(due)


def current(workspace: Workspace, reservation: Reservation, now: datetime) -> Reservation:
    """The reservation, expired first when it is due."""
    status = status_at(reservation.status, reservation.expires_at, now)
    return reservation if status is reservation.status else close(workspace, reservation, status)


def apply_release(workspace: Workspace, command: Release) -> ReservationView:
    """Release a pending reservation. One that is closed already stays as it is."""
    found = require_reservation(workspace, command.reservation_id, command.tenant_id)
    reservation = current(workspace, found, command.now)
    if reservation.status is ReservationStatus.SETTLED:
        raise _closed(reservation, "released")
    if reservation.status is ReservationStatus.PENDING:
        reservation = close(workspace, reservation, ReservationStatus.RELEASED)
    return view_reservation(reservation)


def apply_extend(workspace: Workspace, command: Extend) -> ReservationView:
    """Move the expiry of a pending reservation to `ttl_seconds` from now."""
    found = require_reservation(workspace, command.reservation_id, command.tenant_id)
    reservation = current(workspace, found, command.now)
    if reservation.status is not ReservationStatus.PENDING:
        raise _closed(reservation, "extended")
    expires_at = command.now + timedelta(seconds=command.ttl_seconds)
    extended = replace(reservation, expires_at=expires_at)
    workspace.put_reservation(extended)
    return view_reservation(extended)


def apply_expire(workspace: Workspace, command: Expire) -> Expired:
    """Free some of what is due; a tenant with more is asked for again."""
    count = free_due(workspace, command.tenant_id, command.now, command.most)
    return Expired(count=count)


def _closed(reservation: Reservation, verb: str) -> Conflict:
    return Conflict(
        f"The reservation is {reservation.status} and cannot be {verb}",
        details={
            "reservation_id": reservation.reservation_id,
            "status": str(reservation.status),
        },
        suggested_action="Check again to reserve anew.",
    )


def view_reservation(reservation: Reservation) -> ReservationView:
    """A reservation as answers show it."""
    operation = reservation.operation
    return ReservationView(
        reservation_id=reservation.reservation_id,
        tenant_id=reservation.tenant_id,
        status=reservation.status,
        resource_type=operation.resource_type,
        estimated_cost=reservation.estimated_cost,
        currency=reservation.currency,
        project_id=operation.project_id,
        user_id=operation.user_id,
        feature_id=operation.feature_id,
        service_name=operation.service_name,
        tags=dict(operation.tags),
        operation_id=reservation.operation_id,
        created_at=reservation.created_at,
        expires_at=reservation.expires_at,
        record_id=reservation.record_id,
        actual_cost=reservation.actual_cost,
        budgets=[HeldLine.of(line) for line in reservation.lines],
    )

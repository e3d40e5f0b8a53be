"""Requests for more of a quota: asked by one person, decided by another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection, Row

from fiscus.errors import Conflict, Forbidden, NotFound
from fiscus.ids import is_uuid, uuid7
from fiscus.money import add, parse_positive, plain
from fiscus.paging import Page, PageRequest
from fiscus.quotas.calls import QuotaRequestSpec
from fiscus.quotas.model import QuotaRequest, RequestStatus
from fiscus.quotas.port import QuotaRequestFilter
from fiscus.stores.sql.paging import SortKey, parse_uuid, read_page
from fiscus.stores.sql.quotas import rows
from fiscus.stores.sql.quotas.tables import quota_requests as t

# ix_quota_requests_newest
_ORDER: Final = (SortKey(t.c.request_id, parse_uuid),)


def ask(
    connection: Connection, tenant_id: str, spec: QuotaRequestSpec, *, by: str, now: datetime
) -> QuotaRequest:
    """Raises `NotFound` and `ValidationError`."""
    quota = rows.find(connection, tenant_id, spec.quota_id)
    request = QuotaRequest(
        request_id=uuid7(),
        tenant_id=tenant_id,
        quota_id=quota.quota_id,
        additional_amount=parse_positive(spec.additional_amount, "additional_amount"),
        reason=spec.reason,
        status=RequestStatus.PENDING,
        requested_by=by,
        requested_at=now,
        decided_by=None,
        decided_at=None,
        comment=None,
    )
    connection.execute(
        sa.insert(t).values(
            request_id=request.request_id,
            tenant_id=tenant_id,
            quota_id=request.quota_id,
            additional_amount=request.additional_amount,
            reason=request.reason,
            status=request.status.value,
            requested_by=request.requested_by,
            requested_at=request.requested_at,
        )
    )
    return request


def decide(
    connection: Connection,
    tenant_id: str,
    request_id: str,
    *,
    approve: bool,
    comment: str | None,
    by: str,
    now: datetime,
) -> QuotaRequest:
    """Approve, by which the quota's allocation grows as a new version, or reject.

    Raises `NotFound`; `Forbidden` to the one who asked; `Conflict` when it was decided already, and
    for an approval that comes when the quota is over or deleted.
    """
    request = _find(connection, tenant_id, request_id)
    if by == request.requested_by:
        raise Forbidden(
            "Who asked for more cannot decide it",
            details={"request_id": request_id},
            suggested_action="Have another tenant_admin decide it.",
        )
    if request.status is not RequestStatus.PENDING:
        raise Conflict(
            f"The request was {request.status} already",
            details={"request_id": request_id, "status": request.status.value},
            suggested_action="Ask again with a new request, if more is needed.",
        )
    if approve:
        _grow(connection, request, by, now)
    decided = replace(
        request,
        status=RequestStatus.APPROVED if approve else RequestStatus.REJECTED,
        decided_by=by,
        decided_at=now,
        comment=comment,
    )
    connection.execute(
        sa.update(t)
        .where(t.c.request_id == request_id, t.c.tenant_id == tenant_id)
        .values(status=decided.status.value, decided_by=by, decided_at=now, comment=comment)
    )
    return decided


def read_requests(
    connection: Connection, tenant_id: str, wanted: QuotaRequestFilter, page: PageRequest
) -> Page[QuotaRequest]:
    """A page of a tenant's requests, newest first."""
    query = sa.select(t).where(t.c.tenant_id == tenant_id)
    if wanted.status is not None:
        query = query.where(t.c.status == wanted.status.value)
    if wanted.quota_id is not None:
        known = is_uuid(wanted.quota_id)
        query = query.where(t.c.quota_id == wanted.quota_id if known else sa.false())
    return read_page(
        connection,
        query,
        _ORDER,
        page,
        read=_requests,
        position=lambda request: [request.request_id],
    )


def _find(connection: Connection, tenant_id: str, request_id: str) -> QuotaRequest:
    found: Sequence[Row[Any]] = ()
    if is_uuid(request_id):
        found = connection.execute(
            sa.select(t).where(t.c.request_id == request_id, t.c.tenant_id == tenant_id)
        ).all()
    if not found:
        raise NotFound(
            f"No request {request_id} exists",
            details={"request_id": request_id},
            suggested_action="Use the request_id that was answered when more was asked for.",
        )
    return _requests(found)[0]


def _grow(connection: Connection, request: QuotaRequest, by: str, now: datetime) -> None:
    """The next version of the request's quota, larger by what was asked for."""
    try:
        quota = rows.find(connection, request.tenant_id, request.quota_id)
    except NotFound:
        raise _too_late(request, "was deleted") from None
    if quota.period_end <= now:
        raise _too_late(request, "is over")
    amount = parse_positive(
        add(quota.allocated_amount, request.additional_amount), "additional_amount"
    )
    larger = replace(quota, version=quota.version + 1, allocated_amount=amount, updated_at=now)
    rows.put(connection, larger, by, now)


def _too_late(request: QuotaRequest, what: str) -> Conflict:
    return Conflict(
        f"The quota {what}",
        details={"request_id": request.request_id, "quota_id": request.quota_id},
        suggested_action="Reject the request, and ask for more of the quota that holds now.",
    )


def _requests(found: Sequence[Row[Any]]) -> list[QuotaRequest]:
    return [
        QuotaRequest(
            request_id=row.request_id,
            tenant_id=row.tenant_id,
            quota_id=row.quota_id,
            additional_amount=plain(row.additional_amount),
            reason=row.reason,
            status=RequestStatus(row.status),
            requested_by=row.requested_by,
            requested_at=row.requested_at,
            decided_by=row.decided_by,
            decided_at=row.decided_at,
            comment=row.comment,
        )
        for row in found
    ]

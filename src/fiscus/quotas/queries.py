"""Query parameters of the calls about quotas."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from fiscus.errors import ValidationError
from fiscus.quotas.model import RequestStatus
from fiscus.quotas.port import QuotaFilter, QuotaRequestFilter
from fiscus.scopes import ScopeType
from fiscus.wire.queries import PageQuery, ScopeId, TenantQuery
from fiscus.wire.texts import Id, Label


class QuotaListQuery(PageQuery, frozen=True, kw_only=True):
    scope_type: Annotated[
        ScopeType | None, Meta(description="Only quotas for this type of scope.")
    ] = None
    scope_id: Annotated[
        ScopeId | None, Meta(description="Only quotas for this scope; `*`: those for every id.")
    ] = None
    resource_type: Annotated[Label | None, Meta(description="Only of this resource type.")] = None
    active_only: Annotated[
        bool, Meta(description="Only quotas whose period has begun and is not over.")
    ] = False

    def wanted(self, now: datetime) -> QuotaFilter:
        return QuotaFilter(
            scope_type=self.scope_type,
            scope_id=self.scope_id,
            resource_type=self.resource_type,
            active_at=now if self.active_only else None,
        )


class ReplaceQuotaQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    force: Annotated[bool, Meta(description="Also to less than what is used already.")] = False


class DeleteQuotaQuery(TenantQuery, frozen=True, kw_only=True):
    force: Annotated[
        bool, Meta(description="Also while the period runs and something of it is used.")
    ] = False


class QuotaHistoryQuery(PageQuery, frozen=True, kw_only=True):
    scope_id: Annotated[
        Id | None, Meta(description="Of a quota for `*`: only the use of this scope.")
    ] = None
    since: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only from this time on (RFC 3339)."),
    ] = None
    until: Annotated[
        Annotated[datetime, Meta(tz=True)] | None, Meta(description="Only before this time.")
    ] = None

    def check(self) -> None:
        """Raises `ValidationError` when the range is empty."""
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValidationError(
                "since is not before until",
                field="since",
                suggested_action="Send an earlier since.",
            )


class QuotaRequestQuery(PageQuery, frozen=True, kw_only=True):
    status: Annotated[RequestStatus | None, Meta(description="Only requests in this status.")] = (
        None
    )
    quota_id: Annotated[Id | None, Meta(description="Only those for this quota.")] = None

    def wanted(self) -> QuotaRequestFilter:
        return QuotaRequestFilter(status=self.status, quota_id=self.quota_id)

"""Query parameters of the calls about costs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from fiscus.costs.model import ChargeCategory
from fiscus.costs.port import CostFilter
from fiscus.costs.report_time import within_reach
from fiscus.errors import ValidationError
from fiscus.wire.queries import PageQuery
from fiscus.wire.texts import Currency, Id, Label, TagKey, TagValue


class CostQuery(PageQuery, frozen=True, kw_only=True):
    start: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only costs from this time on (RFC 3339)."),
    ] = None
    end: Annotated[
        Annotated[datetime, Meta(tz=True)] | None, Meta(description="Only costs before this time.")
    ] = None
    resource_type: Annotated[Label | None, Meta(description="Only of this resource type.")] = None
    service_name: Annotated[Label | None, Meta(description="Only of this service.")] = None
    region: Annotated[Label | None, Meta(description="Only of this region.")] = None
    project_id: Annotated[Id | None, Meta(description="Only of this project.")] = None
    user_id: Annotated[Id | None, Meta(description="Only of this user.")] = None
    feature_id: Annotated[Id | None, Meta(description="Only of this feature.")] = None
    charge_category: Annotated[
        ChargeCategory | None, Meta(description="Only of this charge category.")
    ] = None
    currency: Annotated[Currency | None, Meta(description="Only in this currency.")] = None
    operation_id: Annotated[Id | None, Meta(description="Only of this operation.")] = None
    reservation_id: Annotated[Id | None, Meta(description="Only of this reservation.")] = None
    tags: Annotated[
        dict[TagKey, TagValue],
        Meta(max_length=10, description="Only costs with all of these tags, at most 10."),
    ] = {}  # noqa: RUF012 - a struct gives each its own

    def wanted(self) -> CostFilter:
        """Raises `ValidationError` when the range is empty or out of range."""
        start = None if self.start is None else within_reach(self.start, "start")
        end = None if self.end is None else within_reach(self.end, "end")
        if start is not None and end is not None and start >= end:
            raise ValidationError(
                "start is not before end", field="start", suggested_action="Send an earlier start."
            )
        return CostFilter(
            start=start,
            end=end,
            resource_type=self.resource_type,
            service_name=self.service_name,
            region=self.region,
            project_id=self.project_id,
            user_id=self.user_id,
            feature_id=self.feature_id,
            charge_category=self.charge_category,
            currency=self.currency,
            operation_id=self.operation_id,
            reservation_id=self.reservation_id,
            tags=tuple(self.tags.items()),
        )

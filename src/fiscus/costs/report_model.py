"""The report call: what is asked for, what is answered."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from fiscus.costs.model import ChargeCategory
from fiscus.wire.texts import NO_NUL, Currency, Id, Label, Tags

MAX_DIMENSIONS: Final = 3
MAX_GROUPS: Final = 10_000
DEFAULT_GROUPS: Final = 1000

Dimension = Annotated[str, Meta(min_length=1, max_length=132, pattern=NO_NUL)]


class ReportType(StrEnum):
    """What a report is grouped by first. `detailed` adds a section per kind of owner."""

    SUMMARY = "summary"
    DETAILED = "detailed"
    BY_RESOURCE = "by_resource"
    BY_SERVICE = "by_service"
    BY_USER = "by_user"
    BY_FEATURE = "by_feature"
    BY_TIME_PERIOD = "by_time_period"


class Granularity(StrEnum):
    """Periods of local time; weeks start on ISO Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class ReportFormat(StrEnum):
    JSON = "json"
    CSV = "csv"


class ReportSource(StrEnum):
    """What a report was read from.

    `rollups`: quarter-hour sums alone. `mixed`: those, and the records of the parts of quarter
    hours at the ends of the range. `records`: every record of the range, because a tag was asked
    for that was not declared while they were recorded.
    """

    ROLLUPS = "rollups"
    MIXED = "mixed"
    RECORDS = "records"


class ReportRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which costs to add up, and how to group them."""

    tenant_id: Annotated[Id | None, Meta(description="Default: the credential's tenant.")] = None
    report_type: ReportType = ReportType.SUMMARY
    start_date: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(
            description="Default: the start of the present month in `timezone`, or of the month of "
            "an earlier `end_date`."
        ),
    ] = None
    end_date: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Exclusive. Default: the end of the present quarter hour."),
    ] = None
    granularity: Annotated[Granularity, Meta(description="Of the periods of `by_time_period`.")] = (
        Granularity.DAY
    )
    group_by: Annotated[
        list[Dimension],
        Meta(
            max_length=MAX_DIMENSIONS,
            description="`resource_type`, `service_name`, `region`, `scope`, `project`, `user`, "
            "`feature`, `tag:<key>` and one of `hour`, `day`, `week`, `month`; after what the "
            "report type groups by.",
        ),
    ] = []
    resource_type: Label | None = None
    service_name: Label | None = None
    region: Label | None = None
    project_id: Id | None = None
    user_id: Id | None = None
    feature_id: Id | None = None
    charge_category: ChargeCategory | None = None
    tags: Tags = {}
    currency: Annotated[
        Currency | None, Meta(description="What all costs are converted to; default the tenant's.")
    ] = None
    timezone: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="IANA zone of periods; default the tenant's."),
    ] = None
    compare_previous: Annotated[
        bool,
        Meta(
            description="Compare with the range before: as many months for whole months, the same "
            "part of the month before, to the same day and local time, for a part from its start, "
            "as many days for whole days, else the same length of time."
        ),
    ] = False
    format: ReportFormat = ReportFormat.JSON
    limit: Annotated[
        int, Meta(ge=1, le=MAX_GROUPS, description="The most groups answered, per section.")
    ] = DEFAULT_GROUPS


class UnconvertedCost(Struct, frozen=True, kw_only=True):
    """Costs in a currency without a known rate on their days; in no total."""

    currency: str
    cost: Decimal


class ReportGroup(Struct, frozen=True, kw_only=True):
    """The costs with one combination of values; null is "none given"."""

    key: dict[str, str | None]
    cost: Decimal
    record_count: int
    usage: dict[str, Decimal]
    share: Annotated[Decimal | None, Meta(description="Of the total cost; null when that is 0.")]
    unconverted: list[UnconvertedCost]
    previous_cost: Decimal | None = None
    change: Decimal | None = None
    change_ratio: Annotated[
        Decimal | None, Meta(description="Of the previous cost; null when that is 0.")
    ] = None


class ReportSection(Struct, frozen=True, kw_only=True):
    """Groups by the same dimensions. With what is `other_` they add up to the total exactly."""

    group_by: list[str]
    groups: list[ReportGroup]
    group_count: int
    truncated: Annotated[bool, Meta(description="Whether `limit` left groups out.")]
    other_cost: Annotated[Decimal, Meta(description="Of the groups left out.")]
    other_record_count: int
    other_usage: dict[str, Decimal]
    other_unconverted: list[UnconvertedCost]
    other_previous_cost: Decimal | None = None


class PreviousRange(Struct, frozen=True, kw_only=True):
    """The range a report is compared with."""

    start_date: datetime
    end_date: datetime
    total_cost: Decimal
    record_count: int
    change: Annotated[Decimal, Meta(description="Total cost now minus then.")]
    change_ratio: Decimal | None
    unconverted: list[UnconvertedCost]


class Report(Struct, frozen=True, kw_only=True):
    """Costs of `[start_date, end_date)`, in one currency, each converted at its own UTC day's rate.

    The total is rounded once, to 12 places; parts are rounded so that they add up to it.
    """

    report_type: ReportType
    tenant_id: str
    start_date: datetime
    end_date: datetime
    timezone: str
    currency: str
    total_cost: Decimal
    record_count: int
    usage: Annotated[dict[str, Decimal], Meta(description="Quantities by unit.")]
    unconverted: list[UnconvertedCost]
    group_by: list[str]
    groups: list[ReportGroup]
    group_count: int
    truncated: bool
    other_cost: Decimal
    other_record_count: int
    other_usage: dict[str, Decimal]
    other_unconverted: list[UnconvertedCost]
    other_previous_cost: Decimal | None
    sections: Annotated[list[ReportSection], Meta(description="Of a detailed report.")]
    previous: PreviousRange | None
    source: ReportSource
    generated_at: datetime
    correlation_id: str | None = None

    def all_sections(self) -> list[ReportSection]:
        """The report's own groups, then the sections of a detailed report."""
        own = ReportSection(
            group_by=self.group_by,
            groups=self.groups,
            group_count=self.group_count,
            truncated=self.truncated,
            other_cost=self.other_cost,
            other_record_count=self.other_record_count,
            other_usage=self.other_usage,
            other_unconverted=self.other_unconverted,
            other_previous_cost=self.other_previous_cost,
        )
        return [own, *self.sections]

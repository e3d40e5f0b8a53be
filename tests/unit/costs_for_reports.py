"""Costs in a list, and reports of them."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from fiscus.costs.fx import EcbRates
from fiscus.costs.model import ChargeCategory, CostRecord
from fiscus.costs.port import CostFilter, CostSum, CostSums, SumQuery
from fiscus.costs.report_model import Report, ReportRequest
from fiscus.costs.reports import build_report
from fiscus.costs.rollups import sum_of
from fiscus.ids import uuid7
from fiscus.operations import Operation
from fiscus.paging import Page, PageRequest
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert

NOW = datetime(2026, 3, 10, 12, 7, tzinfo=UTC)
TENANT = "acme"
RATES = EcbRates(overrides={("EUR", "USD"): Decimal("1.1"), ("GBP", "USD"): Decimal("1.3")})
BERLIN = "Europe/Berlin"


class RecordList:
    """Costs in a list, added up one by one."""

    def __init__(self, records: Iterable[CostRecord]) -> None:
        self._records = list(records)

    def get(self, tenant_id: str, record_id: str) -> CostRecord:
        raise NotImplementedError

    def list(self, tenant_id: str, wanted: CostFilter, page: PageRequest) -> Page[CostRecord]:
        raise NotImplementedError

    @contextmanager
    def sums(self, tenant_id: str) -> Generator[CostSums]:
        yield SumsOfList([one for one in self._records if one.tenant_id == tenant_id])


class SumsOfList:
    """One tenant's costs in a list."""

    def __init__(self, records: list[CostRecord]) -> None:
        self._records = records

    def by_rollups(self, query: SumQuery) -> list[CostSum] | None:
        for time_slice in query.slices:
            assert time_slice.start.minute % 15 == time_slice.end.minute % 15 == 0
        return self.by_records(query)

    def by_records(self, query: SumQuery) -> list[CostSum]:
        return [
            CostSum(
                time_slice.period,
                None if one.currency == query.target else time_slice.start.date(),
                tuple(
                    one.tags.get(name[4:]) if name.startswith("tag:") else getattr(one, name)
                    for name in query.by
                ),
                one.currency,
                one.usage_unit,
                sum_of(one),
            )
            for time_slice in query.slices
            for one in self._records
            if time_slice.start <= one.timestamp < time_slice.end
        ]


def cost(amount: str | int, at: datetime = NOW, **given: Any) -> CostRecord:
    ids = {name: given.get(name) for name in ("project_id", "user_id", "feature_id")}
    kind, scope_id = Operation(TENANT, "llm", **ids).attributed_to()
    return CostRecord(
        **{
            "record_id": uuid7(),
            "tenant_id": TENANT,
            "timestamp": at,
            "recorded_at": at,
            "resource_type": "llm",
            "cost_amount": Decimal(amount),
            "currency": "USD",
            "charge_category": ChargeCategory.USAGE,
            "attributed_to_type": kind,
            "attributed_to_id": scope_id,
        }
        | given
    )


def report(*costs: CostRecord, now: datetime = NOW, **wanted: Any) -> Report:
    request = convert(wanted, ReportRequest)
    settings = TenantSettings(rollup_tags=["team"])
    return build_report(request, RecordList(costs), RATES, settings, TENANT, now)


def costs_of(found: Report) -> dict[tuple[str | None, ...], Decimal]:
    return {tuple(group.key.values()): group.cost for group in found.groups}


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[arg-type, misc]


def local(zone: str, *numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=ZoneInfo(zone)).astimezone(UTC)  # type: ignore[arg-type, misc]

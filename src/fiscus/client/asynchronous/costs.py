"""Costs that arose, and where they went: the calls to await."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from fiscus.client.arguments import request
from fiscus.client.calls import Calls
from fiscus.client.fields import CostFilterFields, RecordFields, ReportFields
from fiscus.client.requests import record_batch_request, report_request
from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer, RecordRequest
from fiscus.costs.model import CostRecord
from fiscus.costs.queries import CostQuery
from fiscus.costs.report_model import Report
from fiscus.paging import Page


class AsyncCostCalls(Calls):
    """As `CostCalls`, awaited."""

    async def record(self, **cost: Unpack[RecordFields]) -> RecordAnswer:
        """As `BlockingApi.record`."""
        return await self._backend.record(request(RecordRequest, cost, self._tenant))

    async def record_batch(
        self, records: Sequence[RecordFields], *, idempotency_key: str | None = None
    ) -> RecordBatchAnswer:
        """As `BlockingApi.record_batch`."""
        body = record_batch_request(records, tenant=self._tenant)
        return await self._backend.record_batch(body, key=idempotency_key)

    async def records(self, **wanted: Unpack[CostFilterFields]) -> Page[CostRecord]:
        """As `BlockingApi.records`."""
        return await self._backend.records(request(CostQuery, wanted, self._tenant))

    async def report(self, **wanted: Unpack[ReportFields]) -> Report:
        """As `BlockingApi.report`."""
        return await self._backend.report(report_request(wanted, self._tenant))

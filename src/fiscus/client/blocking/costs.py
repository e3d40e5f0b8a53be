"""Costs that arose, and where they went: the calls that block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from fiscus.client.arguments import request
from fiscus.client.backend import run_blocking
from fiscus.client.calls import Calls
from fiscus.client.fields import CostFilterFields, RecordFields, ReportFields
from fiscus.client.requests import record_batch_request, report_request
from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer, RecordRequest
from fiscus.costs.model import CostRecord
from fiscus.costs.queries import CostQuery
from fiscus.costs.report_model import Report
from fiscus.paging import Page


class CostCalls(Calls):
    """Recording costs, and reading them."""

    def record(self, **cost: Unpack[RecordFields]) -> RecordAnswer:
        """Record a cost that arose; never refused for lack of budget.

        >>> client.record(resource_type="llm", project="search", cost_amount="0.0187")
        """
        return run_blocking(self._backend.record(request(RecordRequest, cost, self._tenant)))

    def record_batch(
        self, records: Sequence[RecordFields], *, idempotency_key: str | None = None
    ) -> RecordBatchAnswer:
        """Up to 1000 costs of one tenant; each stands or falls alone, see `results`.

        >>> client.record_batch([{"resource_type": "llm", "cost_amount": "0.0187"}])
        """
        body = record_batch_request(records, tenant=self._tenant)
        return run_blocking(self._backend.record_batch(body, key=idempotency_key))

    def records(self, **wanted: Unpack[CostFilterFields]) -> Page[CostRecord]:
        """A page of cost records, newest first.

        >>> page = client.records(project="search")
        >>> while token := page.pagination.next_page_token:
        ...     page = client.records(project="search", page_token=token)
        """
        return run_blocking(self._backend.records(request(CostQuery, wanted, self._tenant)))

    def report(self, **wanted: Unpack[ReportFields]) -> Report:
        """Costs of a range, added up and grouped; by default of the present month.

        >>> for group in client.report(group_by=["project"]).groups:
        ...     print(group.key["project"], group.cost)
        """
        return run_blocking(self._backend.report(report_request(wanted, self._tenant)))

"""One tenant's calls about quotas, made the way an edge makes them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from fiscus.ledger.commands import Consume, ReleaseConsumption
from fiscus.ledger.requests.quotas import (
    quota_check_batch_command,
    quota_check_command,
    release_consumption_command,
)
from fiscus.paging import PageRequest
from fiscus.quotas.calls import (
    ConsumptionView,
    HistoryRow,
    QuotaCheckAnswer,
    QuotaCheckBatchAnswer,
    QuotaCheckBatchRequest,
    QuotaCheckRequest,
    ReleaseConsumptionRequest,
)
from fiscus.quotas.model import Quota, QuotaSpec
from fiscus.wire.converting import convert
from tests.ledger.desk import BY, Desk


class QuotaDesk(Desk):
    """As `Desk`; quotas and checks are of `llm` and the project `p` unless told otherwise."""

    def quota(self, amount: object, **fields: Any) -> Quota:
        """A quota of the current month."""
        return self.engine.quotas.allocate(
            self.tenant_id, _spec(amount, fields), by=BY, now=self.engine.clock.now()
        )

    def replace_quota(self, quota: Quota, amount: object, **fields: Any) -> Quota:
        return self.engine.quotas.replace(
            self.tenant_id,
            quota.quota_id,
            _spec(amount, fields),
            expected_version=None,
            force=True,
            by=BY,
            now=self.engine.clock.now(),
        )

    def delete_quota(self, quota: Quota) -> None:
        self.engine.quotas.delete(
            self.tenant_id, quota.quota_id, force=True, by=BY, now=self.engine.clock.now()
        )

    # -- commands and calls

    def consume_command(self, amount: object, key: str | None = None, **fields: Any) -> Consume:
        request = quota_check(amount, **fields)
        return quota_check_command(request, self.tenant_id, self.engine.clock.now(), key)

    def give_back_command(
        self, consumption_id: str | None, amount: object = None, key: str | None = None
    ) -> ReleaseConsumption:
        assert consumption_id is not None
        request = convert({"amount": amount}, ReleaseConsumptionRequest)
        now = self.engine.clock.now()
        return release_consumption_command(consumption_id, request, self.tenant_id, now, key)

    def consume(self, amount: object, key: str | None = None, **fields: Any) -> QuotaCheckAnswer:
        return self.run(self.consume_command(amount, key, **fields), QuotaCheckAnswer)

    def take(self, amount: object, key: str | None = None, **fields: Any) -> str:
        """The id of a consumption that must be allowed."""
        answer = self.consume(amount, key, **fields)
        assert answer.allowed, answer.message
        assert answer.consumption_id is not None
        return answer.consumption_id

    def consume_batch(
        self, checks: list[QuotaCheckRequest], key: str | None = None
    ) -> QuotaCheckBatchAnswer:
        now = self.engine.clock.now()
        command = quota_check_batch_command(
            QuotaCheckBatchRequest(checks=checks), self.tenant_id, now, key
        )
        return self.run(command, QuotaCheckBatchAnswer)

    def give_back(
        self, consumption_id: str | None, amount: object = None, key: str | None = None
    ) -> ConsumptionView:
        return self.run(self.give_back_command(consumption_id, amount, key), ConsumptionView)

    # -- what is used

    def quota_used(self, quota: Quota) -> tuple[Decimal, Decimal]:
        """`(used, burst_used)` of a quota for one scope."""
        found = self.engine.quotas.balances(self.tenant_id, [quota.quota_id]).get(quota.quota_id)
        return (Decimal(0), Decimal(0)) if found is None else (found.used, found.burst_used)

    def history(self, quota: Quota) -> list[HistoryRow]:
        """The rows of a quota's history, oldest first."""
        history = self.engine.quotas.history(
            self.tenant_id,
            quota.quota_id,
            PageRequest(page_size=1000),
            scope_id=None,
            since=None,
            until=None,
        )
        return history.rows[::-1]


def quota_check(amount: object, **fields: Any) -> QuotaCheckRequest:
    """A check of the project `p` unless told otherwise, for batches."""
    given = {"resource_type": "llm", "required_amount": amount, "project_id": "p", **fields}
    return convert(given, QuotaCheckRequest)


def _spec(amount: object, fields: dict[str, Any]) -> QuotaSpec:
    given = {
        "resource_type": "llm",
        "allocated_amount": amount,
        "scope_type": "project",
        "scope_id": "p",
        **fields,
    }
    return convert(given, QuotaSpec)

"""Quotas: the calls that block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from fiscus.client.arguments import request, tenant_named
from fiscus.client.backend import run_blocking
from fiscus.client.calls import Calls
from fiscus.client.consuming import Consumption, Source, take_request
from fiscus.client.fields import (
    AllocateFields,
    AmountLike,
    DistributeFields,
    QuotaChanges,
    QuotaCheckFields,
    QuotaFields,
    QuotaFilterFields,
    QuotaHistoryFields,
)
from fiscus.client.requests import change_quota, quota_batch
from fiscus.paging import Page
from fiscus.quotas.calls import (
    ConsumptionView,
    DistributeAnswer,
    DistributeRequest,
    QuotaCheckAnswer,
    QuotaCheckBatchAnswer,
    QuotaCheckRequest,
    QuotaHistory,
    QuotaView,
    ReleaseConsumptionRequest,
)
from fiscus.quotas.model import QuotaSpec
from fiscus.quotas.queries import QuotaHistoryQuery, QuotaListQuery


class QuotaCalls(Calls):
    """Taking from quotas, and the quotas themselves."""

    @property
    def source(self) -> Source:
        """Where this takes amounts of quotas, for blocks that look it up late."""
        return Source(self._backend, self._tenant)

    def quota(
        self,
        resource_type: str,
        amount: AmountLike | float = 1,
        *,
        give_back_on_error: bool = False,
        **operation: Unpack[QuotaFields],
    ) -> Consumption:
        """Take an amount from every matching quota, then run a block or a function.

        >>> with client.quota("gpu_hours", 2.5, project="search"):
        ...     train()

        >>> @client.quota("reports", 1)
        ... def report(): ...

        Entering, or a call of the function, raises `QuotaExhausted` when a quota has too little
        left; its `answer` explains it. With `give_back_on_error` a block that raises, or whose task
        is cancelled, gives back what it took. Here, a float may be given: it is taken by its
        shortest text, 2.5 as "2.5".
        """
        wanted = take_request(resource_type, amount, operation)
        return Consumption(lambda: self.source, wanted, give_back_on_error=give_back_on_error)

    def check_quota(self, **operation: Unpack[QuotaCheckFields]) -> QuotaCheckAnswer:
        """May so much be used? Taken from every quota that matches, or from none.

        A denial is an answer (`allowed` is false), not an error; `consume=False` only looks.

        >>> answer = client.check_quota(resource_type="gpu_hours", required_amount="2.5")
        >>> if not answer.allowed:
        ...     print(answer.message, answer.max_allowed_amount, answer.fits_at)
        """
        body = request(QuotaCheckRequest, operation, self._tenant)
        return run_blocking(self._backend.check_quota(body))

    def check_quotas(
        self, checks: Sequence[QuotaCheckFields], *, idempotency_key: str | None = None
    ) -> QuotaCheckBatchAnswer:
        """Up to 500 checks of one tenant, decided in order in one transaction, each for itself.

        >>> client.check_quotas([{"resource_type": "gpu_hours", "required_amount": 2}])
        """
        body = quota_batch(checks, self._tenant)
        return run_blocking(self._backend.check_quotas(body, key=idempotency_key))

    def release_consumption(
        self,
        consumption_id: str,
        amount: AmountLike | None = None,
        *,
        idempotency_key: str | None = None,
        tenant: str | None = None,
    ) -> ConsumptionView:
        """Give back what a consumption took: `amount`, or all that was not given back yet.

        >>> client.release_consumption(answer.consumption_id, "0.5")
        """
        body = request(
            ReleaseConsumptionRequest, {"amount": amount}, tenant_named(tenant, self._tenant)
        )
        return run_blocking(
            self._backend.release_consumption(consumption_id, body, key=idempotency_key)
        )

    # -- definitions

    def allocate_quota(
        self, *, idempotency_key: str | None = None, **quota: Unpack[AllocateFields]
    ) -> QuotaView:
        """A new quota, for one period. Raises `Conflict` when there is one for part of it.

        >>> client.allocate_quota(
        ...     scope_type="project",
        ...     scope_id="search",
        ...     resource_type="gpu_hours",
        ...     allocated_amount=1000,
        ...     auto_renew=True,
        ... )
        """
        body = request(QuotaSpec, quota, self._tenant)
        return run_blocking(self._backend.allocate_quota(body, key=idempotency_key))

    def distribute_quota(
        self, *, idempotency_key: str | None = None, **wanted: Unpack[DistributeFields]
    ) -> DistributeAnswer:
        """Share a total out over entities: a quota for each, all or none.

        With `dry_run=True` only say who would get what.

        >>> client.distribute_quota(
        ...     resource_type="gpu_hours",
        ...     total_amount=1000,
        ...     strategy="fair_share",
        ...     entities=[
        ...         {"scope_type": "project", "scope_id": "search"},
        ...         {"scope_type": "project", "scope_id": "ads"},
        ...     ],
        ... )
        """
        body = request(DistributeRequest, wanted, self._tenant)
        return run_blocking(self._backend.distribute_quota(body, key=idempotency_key))

    def get_quota(self, quota_id: str, *, tenant: str | None = None) -> QuotaView:
        """A quota as it stands, with what is used of it; raises `NotFound`.

        >>> client.get_quota(quota.quota_id).remaining_amount
        """
        return run_blocking(self._backend.get_quota(tenant_named(tenant, self._tenant), quota_id))

    def quotas(self, **wanted: Unpack[QuotaFilterFields]) -> Page[QuotaView]:
        """A page of quotas, newest first.

        >>> client.quotas(resource_type="gpu_hours", active_only=True).items
        """
        return run_blocking(self._backend.quotas(request(QuotaListQuery, wanted, self._tenant)))

    def update_quota(
        self,
        quota_id: str,
        *,
        version: int | None = None,
        force: bool = False,
        tenant: str | None = None,
        **changes: Unpack[QuotaChanges],
    ) -> QuotaView:
        """Change some fields of a quota; its scope, resource and period stay.

        Raises `Conflict` when somebody else changed it meanwhile, or since `version`; and when it
        would be less than what is used of it, unless `force`.

        >>> client.update_quota(quota.quota_id, allocated_amount=1500)
        """
        return run_blocking(
            change_quota(
                self._backend,
                quota_id,
                changes,
                version=version,
                force=force,
                tenant=tenant_named(tenant, self._tenant),
            )
        )

    def delete_quota(
        self, quota_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """End a quota; its history stays. One in use only with `force`, else `Conflict`.

        >>> client.delete_quota(quota.quota_id, force=True)
        """
        run_blocking(
            self._backend.delete_quota(tenant_named(tenant, self._tenant), quota_id, force=force)
        )

    def quota_history(self, quota_id: str, **wanted: Unpack[QuotaHistoryFields]) -> QuotaHistory:
        """What was taken from a quota and given back, newest first, and the totals of its days.

        >>> for day in client.quota_history(quota.quota_id).days:
        ...     print(day.day, day.consumed, day.released)
        """
        query = request(QuotaHistoryQuery, wanted, self._tenant)
        return run_blocking(self._backend.quota_history(quota_id, query))

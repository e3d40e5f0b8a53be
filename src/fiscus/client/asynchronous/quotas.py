"""Quotas: the calls to await."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from fiscus.client.arguments import request, tenant_named
from fiscus.client.calls import Calls
from fiscus.client.consuming import AsyncConsumption, Source, take_request
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


class AsyncQuotaCalls(Calls):
    """As `QuotaCalls`, awaited."""

    def quota(
        self,
        resource_type: str,
        amount: AmountLike | float = 1,
        *,
        give_back_on_error: bool = False,
        **operation: Unpack[QuotaFields],
    ) -> AsyncConsumption:
        """As `BlockingApi.quota`, for `async with` and coroutine functions.

        >>> async with client.quota("gpu_hours", 2.5, project="search"):
        ...     await train()
        """
        wanted = take_request(resource_type, amount, operation)
        source = Source(self._backend, self._tenant)
        return AsyncConsumption(lambda: source, wanted, give_back_on_error=give_back_on_error)

    async def check_quota(self, **operation: Unpack[QuotaCheckFields]) -> QuotaCheckAnswer:
        """As `BlockingApi.check_quota`."""
        body = request(QuotaCheckRequest, operation, self._tenant)
        return await self._backend.check_quota(body)

    async def check_quotas(
        self, checks: Sequence[QuotaCheckFields], *, idempotency_key: str | None = None
    ) -> QuotaCheckBatchAnswer:
        """As `BlockingApi.check_quotas`."""
        body = quota_batch(checks, self._tenant)
        return await self._backend.check_quotas(body, key=idempotency_key)

    async def release_consumption(
        self,
        consumption_id: str,
        amount: AmountLike | None = None,
        *,
        idempotency_key: str | None = None,
        tenant: str | None = None,
    ) -> ConsumptionView:
        """As `BlockingApi.release_consumption`."""
        body = request(
            ReleaseConsumptionRequest, {"amount": amount}, tenant_named(tenant, self._tenant)
        )
        return await self._backend.release_consumption(consumption_id, body, key=idempotency_key)

    # -- definitions

    async def allocate_quota(
        self, *, idempotency_key: str | None = None, **quota: Unpack[AllocateFields]
    ) -> QuotaView:
        """As `BlockingApi.allocate_quota`."""
        body = request(QuotaSpec, quota, self._tenant)
        return await self._backend.allocate_quota(body, key=idempotency_key)

    async def distribute_quota(
        self, *, idempotency_key: str | None = None, **wanted: Unpack[DistributeFields]
    ) -> DistributeAnswer:
        """As `BlockingApi.distribute_quota`."""
        body = request(DistributeRequest, wanted, self._tenant)
        return await self._backend.distribute_quota(body, key=idempotency_key)

    async def get_quota(self, quota_id: str, *, tenant: str | None = None) -> QuotaView:
        """As `BlockingApi.get_quota`."""
        return await self._backend.get_quota(tenant_named(tenant, self._tenant), quota_id)

    async def quotas(self, **wanted: Unpack[QuotaFilterFields]) -> Page[QuotaView]:
        """As `BlockingApi.quotas`."""
        return await self._backend.quotas(request(QuotaListQuery, wanted, self._tenant))

    async def update_quota(
        self,
        quota_id: str,
        *,
        version: int | None = None,
        force: bool = False,
        tenant: str | None = None,
        **changes: Unpack[QuotaChanges],
    ) -> QuotaView:
        """As `BlockingApi.update_quota`."""
        return await change_quota(
            self._backend,
            quota_id,
            changes,
            version=version,
            force=force,
            tenant=tenant_named(tenant, self._tenant),
        )

    async def delete_quota(
        self, quota_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """As `BlockingApi.delete_quota`."""
        await self._backend.delete_quota(tenant_named(tenant, self._tenant), quota_id, force=force)

    async def quota_history(
        self, quota_id: str, **wanted: Unpack[QuotaHistoryFields]
    ) -> QuotaHistory:
        """As `BlockingApi.quota_history`."""
        query = request(QuotaHistoryQuery, wanted, self._tenant)
        return await self._backend.quota_history(quota_id, query)

"""Rate limits: the calls to await."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from fiscus.client.arguments import given_patience, request, tenant_named
from fiscus.client.calls import Calls
from fiscus.client.fields import (
    AdjustFields,
    PolicyChanges,
    PolicyFields,
    PolicyFilterFields,
    RateLimitFields,
)
from fiscus.client.requests import change_rate_limit, rate_limit_batch
from fiscus.paging import Page
from fiscus.ratelimits.calls import (
    AdjustRequest,
    PolicyView,
    RateLimitBatchAnswer,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
    ResetRequest,
)
from fiscus.ratelimits.model import PolicySpec
from fiscus.ratelimits.queries import PolicyListQuery


class AsyncRateLimitCalls(Calls):
    """As `RateLimitCalls`, awaited."""

    async def check_rate_limit(
        self, *, patience_seconds: float | None = None, **operation: Unpack[RateLimitFields]
    ) -> RateLimitCheckAnswer:
        """As `BlockingApi.check_rate_limit`."""
        body = request(RateLimitCheckRequest, operation, self._tenant)
        patience = given_patience(patience_seconds)
        return await self._backend.check_rate_limit(body, patience_seconds=patience)

    async def check_rate_limits(self, checks: Sequence[RateLimitFields]) -> RateLimitBatchAnswer:
        """As `BlockingApi.check_rate_limits`."""
        return await self._backend.check_rate_limits(rate_limit_batch(checks, self._tenant))

    async def adjust_rate_limit(self, **correction: Unpack[AdjustFields]) -> RateLimitCheckAnswer:
        """As `BlockingApi.adjust_rate_limit`."""
        body = request(AdjustRequest, correction, self._tenant)
        return await self._backend.adjust_rate_limit(body)

    # -- definitions

    async def create_rate_limit(
        self, *, idempotency_key: str | None = None, **policy: Unpack[PolicyFields]
    ) -> PolicyView:
        """As `BlockingApi.create_rate_limit`."""
        body = request(PolicySpec, policy, self._tenant)
        return await self._backend.create_rate_limit(body, key=idempotency_key)

    async def get_rate_limit(self, policy_id: str, *, tenant: str | None = None) -> PolicyView:
        """As `BlockingApi.get_rate_limit`."""
        return await self._backend.get_rate_limit(tenant_named(tenant, self._tenant), policy_id)

    async def rate_limits(self, **wanted: Unpack[PolicyFilterFields]) -> Page[PolicyView]:
        """As `BlockingApi.rate_limits`."""
        return await self._backend.rate_limits(request(PolicyListQuery, wanted, self._tenant))

    async def update_rate_limit(
        self,
        policy_id: str,
        *,
        version: int | None = None,
        tenant: str | None = None,
        **changes: Unpack[PolicyChanges],
    ) -> PolicyView:
        """As `BlockingApi.update_rate_limit`."""
        return await change_rate_limit(
            self._backend,
            policy_id,
            changes,
            version=version,
            tenant=tenant_named(tenant, self._tenant),
        )

    async def reset_rate_limit(
        self,
        policy_id: str,
        *,
        scope_id: str | None = None,
        resource_key: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """As `BlockingApi.reset_rate_limit`."""
        given = {"scope_id": scope_id, "resource_key": resource_key}
        body = request(ResetRequest, given, tenant_named(tenant, self._tenant))
        await self._backend.reset_rate_limit(policy_id, body)

    async def delete_rate_limit(
        self, policy_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """As `BlockingApi.delete_rate_limit`."""
        await self._backend.delete_rate_limit(
            tenant_named(tenant, self._tenant), policy_id, force=force
        )

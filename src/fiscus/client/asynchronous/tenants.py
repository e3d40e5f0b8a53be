"""Tenants, and how Fiscus is: the calls to await."""

from __future__ import annotations

from typing import Unpack

from fiscus.client.arguments import request
from fiscus.client.calls import Calls
from fiscus.client.fields import TenantFields
from fiscus.health import HealthAnswer
from fiscus.tenants import Tenant, TenantSpec


class AsyncTenantCalls(Calls):
    """As `TenantCalls`, awaited."""

    async def get_tenant(self, tenant: str) -> Tenant:
        """As `BlockingApi.get_tenant`."""
        return await self._backend.get_tenant(tenant)

    async def put_tenant(self, tenant: str, **settings: Unpack[TenantFields]) -> Tenant:
        """As `BlockingApi.put_tenant`."""
        return await self._backend.put_tenant(tenant, request(TenantSpec, settings))

    async def health(self) -> HealthAnswer:
        """As `BlockingApi.health`."""
        return await self._backend.health()

"""Tenants, and how Fiscus is: the calls that block."""

from __future__ import annotations

from typing import Unpack

from fiscus.client.arguments import request
from fiscus.client.backend import run_blocking
from fiscus.client.calls import Calls
from fiscus.client.fields import TenantFields
from fiscus.health import HealthAnswer
from fiscus.tenants import Tenant, TenantSpec


class TenantCalls(Calls):
    """The settings of tenants, and the health of what answers."""

    def get_tenant(self, tenant: str) -> Tenant:
        """A tenant's settings; raises `NotFound` when nothing was ever set.

        >>> client.get_tenant("acme").currency
        """
        return run_blocking(self._backend.get_tenant(tenant))

    def put_tenant(self, tenant: str, **settings: Unpack[TenantFields]) -> Tenant:
        """Set a tenant's settings, making the tenant where there is none.

        What is left out takes its default.

        >>> client.put_tenant("acme", currency="EUR", timezone="Europe/Vienna")
        """
        return run_blocking(self._backend.put_tenant(tenant, request(TenantSpec, settings)))

    def health(self) -> HealthAnswer:
        """How Fiscus is: `UP`, `DEGRADED` or `DOWN`, with what it needs and why.

        >>> client.health().status
        """
        return run_blocking(self._backend.health())

"""Tenants: the isolated customers, and the settings that fill in what a call leaves out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from fiscus.wire.texts import Currency, Label

TagKeys = Annotated[list[Label], Meta(max_length=10)]


class TenantSettings(Struct, frozen=True, kw_only=True):
    """What a tenant's calls default to."""

    currency: str = "USD"
    timezone: str = "UTC"
    require_budget: bool = False
    require_quota: bool = False
    rollup_tags: list[str] = []


class TenantSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that sets a tenant's settings."""

    currency: Annotated[Currency, Meta(description="Currency of new budgets and costs.")] = "USD"
    timezone: Annotated[
        str, Meta(max_length=64, description="IANA zone of new budgets and of reports.")
    ] = "UTC"
    require_budget: Annotated[bool, Meta(description="Deny operations that no budget matches.")] = (
        False
    )
    require_quota: Annotated[bool, Meta(description="Deny operations that no quota matches.")] = (
        False
    )
    rollup_tags: Annotated[
        TagKeys, Meta(description="Tag keys whose reports come from rollups; for new records.")
    ] = []
    version: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="The version being replaced.")
    ] = None


class Tenant(Struct, frozen=True, kw_only=True):
    """A tenant as answered: its settings and their version."""

    tenant_id: str
    currency: str
    timezone: str
    require_budget: bool
    require_quota: bool
    rollup_tags: list[str]
    version: int
    created_at: datetime
    updated_at: datetime
    correlation_id: str | None = None


class TenantStore(Protocol):
    def settings(self, tenant_id: str) -> TenantSettings:
        """What holds for a tenant; the defaults for one nothing was ever set for."""
        ...

    def get(self, tenant_id: str) -> Tenant:
        """Raises `NotFound` for a tenant nothing was ever set for."""
        ...

    def put(
        self, tenant_id: str, spec: TenantSpec, *, expected_version: int | None, now: datetime
    ) -> Tenant:
        """Set a tenant's settings, making the tenant where there is none.

        Raises `ValidationError`, and `Conflict` for a stale version."""
        ...

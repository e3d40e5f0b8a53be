"""Policies for tests of the limiter: a source that the test changes at will."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fiscus.errors import ServiceUnavailable
from fiscus.ids import uuid7
from fiscus.ratelimits.definitions import define
from fiscus.ratelimits.model import Emergency, PolicySpec, PolicyState
from fiscus.ratelimits.policy_port import TenantPolicies
from fiscus.tenants import TenantSettings
from fiscus.wire.decoding import decode

TENANT = "acme"
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday


def policy(policy_id: str | None = None, **fields: Any) -> PolicyState:
    """A policy of the tenant: 10 per minute for all of it, unless `fields` say otherwise."""
    emergencies: tuple[Emergency, ...] = fields.pop("emergencies", ())
    hourly_load: tuple[int, ...] = fields.pop("hourly_load", ())
    generation: int = fields.pop("generation", 1)
    body = {
        "scope_type": "tenant",
        "scope_id": TENANT,
        "resource_type": "api",
        "limit_value": 10,
        "time_window_seconds": 60,
        **fields,
    }
    definition = define(
        decode(json.dumps(body), PolicySpec),
        TenantSettings(),
        policy_id=policy_id or uuid7(),
        tenant_id=TENANT,
        version=1,
        created_at=NOON,
        now=NOON,
    )
    return PolicyState(
        policy=definition,
        generation=generation,
        emergencies=emergencies,
        hourly_load=hourly_load,
    )


class Policies:
    """A `ratelimits.policies.PolicySource` in the test's hands."""

    def __init__(self, *states: PolicyState) -> None:
        self.states: Sequence[PolicyState] = states
        self.version = 1
        self.reads = 0
        self.unreachable = False
        self.unreadable: set[str] = set()
        """Tenants whose policies cannot be had, while all else can."""
        self.broken: set[str] = set()
        """Tenants whose policies make no sense."""

    def put(self, *states: PolicyState) -> None:
        """Other policies, as from another process: nobody is told."""
        self.states = states
        self.version += 1

    def live(self, tenant_id: str, now: datetime) -> TenantPolicies:
        self.reads += 1
        if self.unreachable or tenant_id in self.unreadable:
            raise ServiceUnavailable("The store cannot be reached")
        if tenant_id in self.broken:
            raise RuntimeError("no policy")
        return TenantPolicies(self.version, self.states if tenant_id == TENANT else ())

    def versions(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        if self.unreachable:
            raise ServiceUnavailable("The store cannot be reached")
        return dict.fromkeys(tenant_ids, self.version)

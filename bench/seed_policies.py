"""Fill an empty database with tenants, rate limit policies and API keys, in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from bench.seed import SETTINGS, insert_tenants, writing
from fiscus.access.model import Role, hash_key, hint_of
from fiscus.ids import uuid7
from fiscus.ratelimits.definitions import define
from fiscus.ratelimits.model import Policy, PolicySpec
from fiscus.stores.sql import migrate, tables
from fiscus.wire.converting import convert
from fiscus.wire.encoding import encode

PER_HOUR: Final = 1_000_000_000
"""The limit of every policy: none is ever reached."""
RESOURCE: Final = "api"


class Member(NamedTuple):
    """A tenant and the key of its service."""

    tenant_id: str
    key: str


def fill_policies(url: str, tenants: int, scopes: Sequence[tuple[str, str]]) -> list[Member]:
    """Migrate the database and give each tenant a policy per scope and a key of role `service`.

    A scope is a type and an id; the id `*` is every one, `{tenant}` the tenant's own. The policies
    are token buckets for the resource type `api`.
    """
    migrate.upgrade(url)
    now = datetime.now(UTC)
    members = [
        Member(f"tenant-{number:05d}", f"benchmark-service-key-of-{number:05d}")
        for number in range(tenants)
    ]
    policies = [
        _policy(member.tenant_id, scope_type, scope_id.format(tenant=member.tenant_id), now)
        for member in members
        for scope_type, scope_id in scopes
    ]
    with writing(url) as connection:
        insert_tenants(connection, [one.tenant_id for one in members], len(scopes), now)
        connection.execute(sa.insert(tables.rate_limit_policies), list(map(_row, policies)))
        connection.execute(
            sa.insert(tables.rate_limit_policy_versions), list(map(_version_row, policies))
        )
        connection.execute(sa.insert(tables.api_keys), [_key_row(one, now) for one in members])
    return members


def _policy(tenant_id: str, scope_type: str, scope_id: str, now: datetime) -> Policy:
    return define(
        policy_spec(scope_type, scope_id, RESOURCE),
        SETTINGS,
        policy_id=uuid7(),
        tenant_id=tenant_id,
        version=1,
        created_at=now,
        now=now,
    )


def policy_spec(scope_type: str, scope_id: str, resource_type: str) -> PolicySpec:
    return convert(
        {
            "scope_type": scope_type,
            "scope_id": scope_id,
            "resource_type": resource_type,
            "limit_value": PER_HOUR,
            "time_window_seconds": 3600,
        },
        PolicySpec,
    )


def _row(policy: Policy) -> dict[str, Any]:
    return {
        "policy_id": policy.policy_id,
        "tenant_id": policy.tenant_id,
        "version": policy.version,
        "generation": 1,
        "scope_type": policy.scope_type.value,
        "scope_id": policy.scope_id,
        "resource_type": policy.resource_type,
        "algorithm": policy.algorithm.value,
        "shadow": policy.shadow,
        "definition": encode(policy).decode(),
        "follows_usage": False,
        "created_at": policy.created_at,
        "updated_at": policy.updated_at,
    }


def _version_row(policy: Policy) -> dict[str, Any]:
    return {
        "policy_id": policy.policy_id,
        "version": policy.version,
        "tenant_id": policy.tenant_id,
        "definition": encode(policy).decode(),
        "changed_by": "bench",
        "changed_at": policy.updated_at,
    }


def _key_row(member: Member, now: datetime) -> dict[str, Any]:
    return {
        "key_id": uuid7(),
        "tenant_id": member.tenant_id,
        "name": "bench",
        "key_hash": hash_key(member.key),
        "hint": hint_of(member.key),
        "roles": Role.SERVICE.value,
        "created_by": "bench",
        "created_at": now,
        "expires_at": None,
        "revoked_at": None,
        "highest_priority": "normal",
    }

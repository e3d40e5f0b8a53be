"""Rate limit policies' definitions with all their versions, and what limiters read of them.

Every change is one transaction that also moves the tenant's `definitions_version` on, by which
limiters see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection, Row

from fiscus.errors import Conflict, NotFound, ValidationError
from fiscus.idempotency import Idempotency
from fiscus.ids import is_uuid, uuid7
from fiscus.paging import Page, PageRequest
from fiscus.ratelimits.calls import EmergencySpec
from fiscus.ratelimits.definitions import check_countable, define
from fiscus.ratelimits.limits import still_hold
from fiscus.ratelimits.model import Emergency, Policy, PolicySpec, PolicyState
from fiscus.ratelimits.policy_port import PolicyFilter, TenantPolicies
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.idempotency import once
from fiscus.stores.sql.paging import SortKey, parse_uuid, read_page
from fiscus.stores.sql.ratelimits import emergencies
from fiscus.stores.sql.ratelimits.usage import used_since
from fiscus.stores.sql.tables import rate_limit_policies as t
from fiscus.stores.sql.tables import rate_limit_policy_versions
from fiscus.stores.sql.tenants import (
    definitions_versions,
    next_definitions_version,
    settings_of,
    stale_version,
)
from fiscus.stores.sql.versions import Versions, replaces_none
from fiscus.tenants import TenantSettings
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode

_versions: Final = Versions(rate_limit_policy_versions, Policy, "policy")
_ORDER: Final = (SortKey(t.c.policy_id, parse_uuid),)
_STATE: Final[list[sa.Column[Any]]] = [
    t.c.policy_id,
    t.c.generation,
    t.c.hourly_load,
    t.c.definition,
]
_IN_USE: Final = timedelta(hours=1)
_TENANTS_AT_ONCE: Final = 500

_read_load: Final = msgspec.json.Decoder(tuple[int, ...]).decode


class SqlPolicies:
    """`ratelimits.policy_port.PolicyStore` on SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        tenant_id: str,
        spec: PolicySpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> PolicyState:
        if spec.version is not None:
            raise replaces_none("policy")

        def change(connection: Connection) -> PolicyState:
            policy = define(
                spec,
                settings_of(connection, tenant_id),
                policy_id=uuid7(),
                tenant_id=tenant_id,
                version=1,
                created_at=now,
                now=now,
            )
            next_definitions_version(connection, tenant_id, now)
            connection.execute(
                sa.insert(t).values(
                    policy_id=policy.policy_id,
                    tenant_id=tenant_id,
                    generation=1,
                    created_at=now,
                    **_columns(policy),
                )
            )
            _versions.keep(connection, [policy], by)
            return PolicyState(policy=policy, generation=1)

        return self._database.write(tenant_id, once(change, PolicyState, idempotency, now))

    def get(self, tenant_id: str, policy_id: str, version: int | None = None) -> PolicyState:
        """As the port says. An earlier version comes with what holds of the policy today."""
        with self._database.read(tenant_id) as connection:
            if version is None:
                return _get(connection, tenant_id, policy_id)
            earlier = _versions.find(connection, tenant_id, policy_id, version)
            state = _get(connection, tenant_id, policy_id, deleted_too=True)
            return replace(state, policy=earlier)

    def list(self, tenant_id: str, wanted: PolicyFilter, page: PageRequest) -> Page[PolicyState]:
        query = sa.select(*_STATE).where(
            t.c.tenant_id == tenant_id, t.c.deleted_at.is_(None), *_conditions(wanted)
        )
        with self._database.read(tenant_id) as connection:
            return read_page(
                connection,
                query,
                _ORDER,
                page,
                read=lambda rows: _with_last_emergencies(connection, tenant_id, rows),
                position=lambda state: [state.policy.policy_id],
            )

    def replace(
        self,
        tenant_id: str,
        policy_id: str,
        spec: PolicySpec,
        *,
        expected_version: int | None,
        by: str,
        now: datetime,
    ) -> PolicyState:
        expected = spec.version if expected_version is None else expected_version

        def change(connection: Connection) -> PolicyState:
            old = _get(connection, tenant_id, policy_id)
            if expected is not None and expected != old.policy.version:
                raise stale_version("policy", policy_id, old.policy.version)
            new = define(
                spec,
                TenantSettings(timezone=old.policy.timezone),
                policy_id=policy_id,
                tenant_id=tenant_id,
                version=old.policy.version + 1,
                created_at=old.policy.created_at,
                now=now,
            )
            held = sum(one.additional_capacity for one in still_hold(old.emergencies, now))
            if held:
                _require_countable(new, held)
            # hours of another zone are other hours
            keeps_load = new.timezone == old.policy.timezone
            _put(
                connection,
                new,
                by,
                now,
                learned_until=None,
                **({} if keeps_load else {"hourly_load": None}),
            )
            return replace(old, policy=new, hourly_load=old.hourly_load if keeps_load else ())

        return self._database.write(tenant_id, change)

    def delete(
        self, tenant_id: str, policy_id: str, *, force: bool, by: str, now: datetime
    ) -> None:
        def change(connection: Connection) -> None:
            old = _get(connection, tenant_id, policy_id).policy
            if not force:
                _require_unused(connection, old, now)
            last = replace(old, version=old.version + 1, updated_at=now)
            _put(connection, last, by, now, deleted_at=now)

        self._database.write(tenant_id, change)

    def forget_counters(self, tenant_id: str, policy_id: str, *, by: str, now: datetime) -> None:
        def change(connection: Connection) -> None:
            _get(connection, tenant_id, policy_id)
            next_definitions_version(connection, tenant_id, now)
            connection.execute(
                sa.update(t)
                .where(t.c.policy_id == policy_id, t.c.tenant_id == tenant_id)
                .values(generation=t.c.generation + 1, reset_at=now, reset_by=by)
            )

        self._database.write(tenant_id, change)

    def add_emergency(
        self,
        tenant_id: str,
        policy_id: str,
        spec: EmergencySpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> Emergency:
        def change(connection: Connection) -> Emergency:
            state = _get(connection, tenant_id, policy_id)
            emergency = emergencies.add(connection, state, spec, by=by, now=now)
            next_definitions_version(connection, tenant_id, now)
            return emergency

        return self._database.write(tenant_id, once(change, Emergency, idempotency, now))

    def approve_emergency(
        self, tenant_id: str, policy_id: str, emergency_id: str, *, by: str, now: datetime
    ) -> Emergency:
        def change(connection: Connection) -> Emergency:
            policy = _get(connection, tenant_id, policy_id).policy
            emergency = emergencies.approve(connection, policy, emergency_id, by=by, now=now)
            next_definitions_version(connection, tenant_id, now)
            return emergency

        return self._database.write(tenant_id, change)

    def live(self, tenant_id: str, now: datetime) -> TenantPolicies:
        query = sa.select(*_STATE).where(t.c.tenant_id == tenant_id, t.c.deleted_at.is_(None))
        with self._database.read(tenant_id) as connection:
            version = definitions_versions(connection, [tenant_id]).get(tenant_id, 0)
            rows = connection.execute(query).all()
            held = emergencies.not_over(connection, tenant_id, now)
        return TenantPolicies(version, [_state(row, held.get(row.policy_id, ())) for row in rows])

    def versions(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        """As the port says; 0 for a tenant that nothing was ever defined for."""
        found = dict.fromkeys(tenant_ids, 0)
        wanted = list(found)
        for start in range(0, len(wanted), _TENANTS_AT_ONCE):
            some = wanted[start : start + _TENANTS_AT_ONCE]
            with self._database.read(*some) as connection:
                found.update(definitions_versions(connection, some))
        return found


def _get(
    connection: Connection, tenant_id: str, policy_id: str, *, deleted_too: bool = False
) -> PolicyState:
    row = None
    if is_uuid(policy_id):
        query = sa.select(*_STATE).where(t.c.policy_id == policy_id, t.c.tenant_id == tenant_id)
        if not deleted_too:
            query = query.where(t.c.deleted_at.is_(None))
        row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(
            f"No policy {policy_id} exists",
            details={"policy_id": policy_id},
            suggested_action="Use the policy_id that was answered when the policy was made.",
        )
    return _with_last_emergencies(connection, tenant_id, [row])[0]


def _with_last_emergencies(
    connection: Connection, tenant_id: str, rows: Sequence[Row[Any]]
) -> list[PolicyState]:
    last = emergencies.last_of(connection, tenant_id, [row.policy_id for row in rows])
    return [_state(row, last.get(row.policy_id, ())) for row in rows]


def _state(row: Row[Any], held: tuple[Emergency, ...]) -> PolicyState:
    return PolicyState(
        policy=decode(row.definition, Policy),
        generation=row.generation,
        emergencies=held,
        hourly_load=() if row.hourly_load is None else _read_load(row.hourly_load),
    )


def _put(connection: Connection, policy: Policy, by: str, now: datetime, **columns: object) -> None:
    next_definitions_version(connection, policy.tenant_id, now)
    connection.execute(
        sa.update(t)
        .where(t.c.policy_id == policy.policy_id, t.c.tenant_id == policy.tenant_id)
        .values(**_columns(policy), **columns)
    )
    _versions.keep(connection, [policy], by)


def _columns(policy: Policy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "scope_type": policy.scope_type.value,
        "scope_id": policy.scope_id,
        "resource_type": policy.resource_type,
        "algorithm": policy.algorithm.value,
        "shadow": policy.shadow,
        "follows_usage": policy.overrides.usage_pattern is not None,
        "definition": encode(policy).decode(),
        "updated_at": policy.updated_at,
    }


def _conditions(wanted: PolicyFilter) -> list[sa.ColumnElement[bool]]:
    return [
        column == value
        for column, value in (
            (t.c.scope_type, wanted.scope_type),
            (t.c.scope_id, wanted.scope_id),
            (t.c.resource_type, wanted.resource_type),
            (t.c.algorithm, wanted.algorithm),
            (t.c.shadow, wanted.shadow),
        )
        if value is not None
    ]


def _require_countable(policy: Policy, held: int) -> None:
    """Raises `Conflict` when a policy cannot be counted with the emergency capacity it has now."""
    try:
        check_countable(policy, held)
    except ValidationError as error:
        raise Conflict(
            f"Emergency capacity of {held} holds now, with which the policy cannot be counted: "
            f"{error.message}",
            details={"policy_id": policy.policy_id, "additional_capacity": held},
            suggested_action="Send a smaller limit_value, or replace the policy when the "
            "emergency capacity is over.",
        ) from error


def _require_unused(connection: Connection, policy: Policy, now: datetime) -> None:
    window = max(timedelta(seconds=policy.time_window_seconds), _IN_USE)
    if used_since(connection, policy, now - window):
        raise Conflict(
            "The policy is in use: checks were counted in its last window, or in the last hour",
            details={"policy_id": policy.policy_id},
            suggested_action="Wait until it is used no more, or delete with force=true.",
        )

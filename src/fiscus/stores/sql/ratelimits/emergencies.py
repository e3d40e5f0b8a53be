"""Emergency capacity of rate limit policies: asked for, approved, and what holds of it.

One policy has one at a time: who adds another waits until the last is over. So only the last of a
policy may still hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection, Row

from fiscus.errors import Conflict, Forbidden, NotFound, ValidationError
from fiscus.ids import is_uuid, uuid7
from fiscus.ratelimits.calls import EmergencySpec
from fiscus.ratelimits.definitions import check_countable, uncountable
from fiscus.ratelimits.limits import still_hold
from fiscus.ratelimits.model import UNAPPROVED_HOURS, Emergency, Policy, PolicyState
from fiscus.stores.sql.tables import rate_limit_emergencies as t


def add(
    connection: Connection, state: PolicyState, spec: EmergencySpec, *, by: str, now: datetime
) -> Emergency:
    """Emergency capacity from now on.

    Raises `ValidationError` when it cannot be counted, and `Conflict` when its policy cannot even
    without it, and while another one holds or waits for its approval.
    """
    policy = state.policy
    for other in still_hold(state.emergencies, now):
        raise Conflict(
            "The policy has emergency capacity already",
            details={
                "policy_id": policy.policy_id,
                "emergency_id": other.emergency_id,
                "ends_at": other.ends_at.isoformat(),
            },
            suggested_action="Have it approved to make it last, or wait until it ends.",
        )
    try:
        check_countable(policy)  # kept before such were refused
    except ValidationError as error:
        raise uncountable(policy.policy_id, error) from error
    check_countable(policy, spec.additional_capacity)
    ends_at = now + timedelta(minutes=spec.duration_minutes)
    emergency = Emergency(
        emergency_id=uuid7(),
        policy_id=policy.policy_id,
        tenant_id=policy.tenant_id,
        additional_capacity=spec.additional_capacity,
        reason=spec.reason,
        requested_by=by,
        starts_at=now,
        ends_at=ends_at,
        approved_by=None,
        approved_at=None,
        effective_until=_effective_until(now, ends_at, approved=False),
    )
    connection.execute(
        sa.insert(t).values(
            emergency_id=emergency.emergency_id,
            policy_id=emergency.policy_id,
            tenant_id=emergency.tenant_id,
            additional_capacity=emergency.additional_capacity,
            reason=emergency.reason,
            requested_by=emergency.requested_by,
            starts_at=emergency.starts_at,
            ends_at=emergency.ends_at,
        )
    )
    return emergency


def approve(
    connection: Connection, policy: Policy, emergency_id: str, *, by: str, now: datetime
) -> Emergency:
    """A second person's approval, by which it lasts until it ends.

    Raises `NotFound`; `Forbidden` to the one who asked; `Conflict` when it was approved already or
    is over.
    """
    emergency = _get(connection, policy, emergency_id)
    if by == emergency.requested_by:
        raise Forbidden(
            "Who asked for emergency capacity cannot approve it",
            details={"emergency_id": emergency_id},
            suggested_action="Have another system_architect approve it.",
        )
    if emergency.approved_by is not None:
        raise _decided(emergency, "was approved already")
    if not still_hold([emergency], now):
        raise _decided(emergency, "is over")
    connection.execute(
        sa.update(t)
        .where(t.c.emergency_id == emergency_id, t.c.tenant_id == policy.tenant_id)
        .values(approved_by=by, approved_at=now)
    )
    return replace(emergency, approved_by=by, approved_at=now, effective_until=emergency.ends_at)


def last_of(
    connection: Connection, tenant_id: str, policy_ids: Sequence[str]
) -> dict[str, tuple[Emergency, ...]]:
    """The last emergency of each policy that ever had one."""
    if not policy_ids:
        return {}
    last = (
        sa.select(t.c.policy_id, sa.func.max(t.c.ends_at).label("ends_at"))
        .where(t.c.policy_id.in_(policy_ids), t.c.tenant_id == tenant_id)
        .group_by(t.c.policy_id)
        .subquery()
    )
    query = sa.select(t).join(
        last, sa.and_(t.c.policy_id == last.c.policy_id, t.c.ends_at == last.c.ends_at)
    )
    return _by_policy(connection.execute(query))


def not_over(
    connection: Connection, tenant_id: str, now: datetime
) -> dict[str, tuple[Emergency, ...]]:
    """Those of a tenant that hold, or would once approved, by policy."""
    query = sa.select(t).where(t.c.tenant_id == tenant_id, t.c.ends_at > now)
    return _by_policy(connection.execute(query))


def _get(connection: Connection, policy: Policy, emergency_id: str) -> Emergency:
    row = None
    if is_uuid(emergency_id):
        row = connection.execute(
            sa.select(t).where(
                t.c.emergency_id == emergency_id,
                t.c.policy_id == policy.policy_id,
                t.c.tenant_id == policy.tenant_id,
            )
        ).one_or_none()
    if row is None:
        raise NotFound(
            f"No emergency {emergency_id} of policy {policy.policy_id} exists",
            details={"policy_id": policy.policy_id, "emergency_id": emergency_id},
            suggested_action="Use the emergency_id that was answered when it was asked for.",
        )
    return _emergency(row)


def _by_policy(rows: Iterable[Row[Any]]) -> dict[str, tuple[Emergency, ...]]:
    found: dict[str, tuple[Emergency, ...]] = {}
    for row in rows:
        found[row.policy_id] = (*found.get(row.policy_id, ()), _emergency(row))
    return found


def _emergency(row: Row[Any]) -> Emergency:
    return Emergency(
        emergency_id=row.emergency_id,
        policy_id=row.policy_id,
        tenant_id=row.tenant_id,
        additional_capacity=row.additional_capacity,
        reason=row.reason,
        requested_by=row.requested_by,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        approved_by=row.approved_by,
        approved_at=row.approved_at,
        effective_until=_effective_until(
            row.starts_at, row.ends_at, approved=row.approved_by is not None
        ),
    )


def _effective_until(starts_at: datetime, ends_at: datetime, *, approved: bool) -> datetime:
    return ends_at if approved else min(ends_at, starts_at + timedelta(hours=UNAPPROVED_HOURS))


def _decided(emergency: Emergency, what: str) -> Conflict:
    return Conflict(
        f"The emergency capacity {what}",
        details={"emergency_id": emergency.emergency_id, "ends_at": emergency.ends_at.isoformat()},
        suggested_action="Ask for new emergency capacity when it is over.",
    )

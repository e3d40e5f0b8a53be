"""Learns the usual load of policies that follow it, from `rate_limit_usage`.

A policy's weeks move on once a day, at its local midnight; asked more often, nothing is done.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.ratelimits.model import Policy
from fiscus.ratelimits.usage_patterns import (
    QUARTER_US,
    Load,
    hourly_load,
    weeks_begin,
    weeks_end,
)
from fiscus.runtime.portions import ShouldContinue, for_each_tenant
from fiscus.stores.sql.database import ALL_TENANTS, Database
from fiscus.stores.sql.tables import rate_limit_policies as policies
from fiscus.stores.sql.tables import rate_limit_usage as t
from fiscus.stores.sql.tenants import next_definitions_version
from fiscus.wire.decoding import decode

_QUARTER_SECONDS: Final = QUARTER_US // 1_000_000
_FOLLOWING: Final = (policies.c.follows_usage, policies.c.deleted_at.is_(None))


class _Learned(NamedTuple):
    """What is known of a policy's usual load at the end of its weeks."""

    policy: Policy
    until: datetime
    hourly_load: str | None
    """A JSON array; None: not known."""
    is_new: bool
    """Whether it differs from what was known before."""


def learn(database: Database, now: datetime, goes_on: ShouldContinue, late: set[str]) -> int:
    """Learn whatever is due; the number of policies whose usual load changed. `late` is as that of
    `for_each_tenant`."""
    query = sa.select(policies.c.tenant_id).where(*_FOLLOWING).distinct()
    with database.read(ALL_TENANTS) as connection:
        tenants = list(connection.execute(query.order_by(policies.c.tenant_id)).scalars())

    def learn_of(tenant_id: str) -> int:
        due = _learn_due(database, tenant_id, now)
        return _keep(database, tenant_id, due, now) if due else 0

    return for_each_tenant(tenants, learn_of, goes_on, late)


def _learn_due(database: Database, tenant_id: str, now: datetime) -> list[_Learned]:
    """Every policy of a tenant whose weeks have moved on."""
    query = sa.select(
        policies.c.definition, policies.c.hourly_load, policies.c.learned_until
    ).where(policies.c.tenant_id == tenant_id, *_FOLLOWING)
    due: list[_Learned] = []
    # adding up weeks of many users takes its time
    with database.read_at_length(tenant_id) as connection:
        for row in connection.execute(query).all():
            policy = decode(row.definition, Policy)
            until = weeks_end(now, policy.timezone)
            if row.learned_until == until:
                continue
            found = _load_of(connection, policy, until, is_sqlite=database.is_sqlite)
            load = msgspec.json.encode(found).decode() if found else None
            due.append(_Learned(policy, until, load, load != row.hourly_load))
    return due


def _keep(database: Database, tenant_id: str, learned: list[_Learned], now: datetime) -> int:
    """Keep what was learned of a tenant's policies; how many changed."""

    def change(connection: Connection) -> int:
        changed = 0
        for one in learned:
            kept = connection.execute(
                sa.update(policies)
                .where(
                    policies.c.policy_id == one.policy.policy_id,
                    policies.c.tenant_id == tenant_id,
                    # replaced meanwhile: learned anew the next time
                    policies.c.version == one.policy.version,
                )
                .values(hourly_load=one.hourly_load, learned_until=one.until)
            ).rowcount
            changed += kept if one.is_new else 0
        if changed:
            next_definitions_version(connection, tenant_id, now)
        return changed

    return database.write(tenant_id, change)


def _load_of(
    connection: Connection, policy: Policy, until: datetime, *, is_sqlite: bool
) -> tuple[int, ...]:
    mine = (t.c.policy_id == policy.policy_id, t.c.tenant_id == policy.tenant_id)
    # ix_rate_limit_usage_newest
    since = connection.execute(sa.select(sa.func.min(t.c.window_start)).where(*mine)).scalar_one()
    begin = None if since is None else weeks_begin(until, policy.timezone, since)
    if begin is None:
        return ()
    first, last = _quarters(is_sqlite=is_sqlite)
    # whole numbers as doubles: exact below 2^53, and no sum is refused beyond
    requests = sa.func.sum(sa.cast(t.c.admitted + t.c.denied, sa.Double))
    query = (
        sa.select(first, last, requests)
        .where(*mine, t.c.window_start >= begin, t.c.window_start < until)
        .group_by(sa.literal_column("1"), sa.literal_column("2"))
    )
    return hourly_load(
        (Load(int(row[0]), int(row[1]), int(row[2])) for row in connection.execute(query).all()),
        policy.timezone,
    )


def _quarters(*, is_sqlite: bool) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    """The quarter hours since 1970 in which a window begins and in which it ends."""
    if is_sqlite:
        start = sa.type_coerce(t.c.window_start, sa.BigInteger)
        end = sa.type_coerce(t.c.window_end, sa.BigInteger)
        return start // QUARTER_US, (end - 1) // QUARTER_US
    start = sa.extract("epoch", t.c.window_start)
    end = sa.extract("epoch", t.c.window_end)
    return sa.func.floor(start / _QUARTER_SECONDS), sa.func.ceil(end / _QUARTER_SECONDS) - 1

"""What was seen of rate limit policies, per scope and window: written behind, never decided by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fiscus.clock import to_us
from fiscus.ids import is_uuid
from fiscus.paging import Page, PageRequest
from fiscus.ratelimits.calls import UsageWindow
from fiscus.ratelimits.model import Policy
from fiscus.ratelimits.policy_port import UsageRow
from fiscus.runtime.portions import ShouldContinue, to_the_end
from fiscus.stores.sql.bulk import Columns
from fiscus.stores.sql.database import ALL_TENANTS, Database
from fiscus.stores.sql.paging import SortKey, parse_scope_id, parse_time, read_page, time_value
from fiscus.stores.sql.ratelimits.usage_patterns import learn
from fiscus.stores.sql.sqlite.driver import LARGEST_CHUNK
from fiscus.stores.sql.tables import rate_limit_usage as t

# ix_rate_limit_usage_newest has the policy before these two.
_ORDER: Final = (SortKey(t.c.window_start, parse_time), SortKey(t.c.scope_id, parse_scope_id))
_MOST: Final = 10**18
"""Counts stay there, so that no caller's numbers make a sum that the database refuses."""
_BATCH: Final = 1000

_USAGE: Final = Columns(
    policy_id="uuid",
    scope_id="text",
    window_start="timestamptz",
    tenant_id="text",
    window_end="timestamptz",
    checks="bigint",
    admitted="bigint",
    denied="bigint",
    shadow_denied="bigint",
)
_ADDED: Final = ", ".join(
    f"{name} = CASE WHEN kept.{name} > {_MOST} - excluded.{name} "
    f"THEN {_MOST} ELSE kept.{name} + excluded.{name} END"
    for name in ("checks", "admitted", "denied", "shadow_denied")
)
# A policy's window was changed: of two lengths, the longer holds what both saw.
_ADD: Final = f"""
    INSERT INTO rate_limit_usage AS kept ({_USAGE.list})
    SELECT {_USAGE.list} FROM {{rows}} WHERE true
    ON CONFLICT (policy_id, scope_id, window_start) DO UPDATE SET
        {_ADDED},
        window_end = CASE WHEN kept.window_end > excluded.window_end
            THEN kept.window_end ELSE excluded.window_end END
"""


class SqlRateLimitUsage:
    """`ratelimits.policy_port.UsageStore` on SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._learn_late: set[str] = set()

    def add(self, rows: Sequence[UsageRow]) -> None:
        if not rows:
            return
        summed = _summed(rows)
        add = _add_on_sqlite if self._database.is_sqlite else _add_on_postgres
        # All who add take turns, so none waits for a row that another holds.
        self._database.write(ALL_TENANTS, lambda connection: add(connection, summed))

    def windows(
        self, tenant_id: str, policy_id: str, page: PageRequest, *, scope_id: str | None
    ) -> Page[UsageWindow]:
        query = sa.select(t).where(t.c.tenant_id == tenant_id)
        query = query.where(t.c.policy_id == policy_id if is_uuid(policy_id) else sa.false())
        if scope_id is not None:
            query = query.where(t.c.scope_id == scope_id)
        with self._database.read(tenant_id) as connection:
            return read_page(
                connection,
                query,
                _ORDER,
                page,
                read=_windows,
                position=lambda window: [time_value(window.window_start), window.scope_id],
            )

    def learn(self, now: datetime, goes_on: ShouldContinue = to_the_end) -> int:
        return learn(self._database, now, goes_on, self._learn_late)

    def drop_before(self, moment: datetime, goes_on: ShouldContinue = to_the_end) -> int:
        key = sa.tuple_(t.c.policy_id, t.c.scope_id, t.c.window_start)
        # ix_rate_limit_usage_window_end
        ended = (
            sa.select(t.c.policy_id, t.c.scope_id, t.c.window_start)
            .where(t.c.window_end < moment)
            .order_by(t.c.window_end)
            .limit(_BATCH)
        )
        return self._database.drop_in_portions(sa.delete(t).where(key.in_(ended)), goes_on)


def used_since(connection: Connection, policy: Policy, moment: datetime) -> bool:
    """Whether checks were counted for a policy in a window that ended after `moment`."""
    query = (
        sa.select(sa.literal(1))
        .where(
            t.c.policy_id == policy.policy_id,
            t.c.tenant_id == policy.tenant_id,
            t.c.window_end > moment,
            t.c.checks > 0,
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def _summed(rows: Sequence[UsageRow]) -> list[tuple[Any, ...]]:
    """Rows of `_USAGE`, one per window."""
    summed: dict[tuple[str, str, datetime], list[Any]] = {}
    for tenant_id, policy_id, window in rows:
        key = (policy_id, window.scope_id, window.window_start)
        counts = (window.checks, window.admitted, window.denied, window.shadow_denied)
        known = summed.get(key)
        if known is None:
            summed[key] = [tenant_id, window.window_end, *counts]
        else:
            known[1] = max(known[1], window.window_end)
            known[2:] = [old + new for old, new in zip(known[2:], counts, strict=True)]
    return [
        (*key, tenant_id, window_end, *(min(count, _MOST) for count in counts))
        for key, (tenant_id, window_end, *counts) in summed.items()
    ]


def _add_on_sqlite(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    for start in range(0, len(rows), LARGEST_CHUNK):
        some = rows[start : start + LARGEST_CHUNK]
        values = tuple(
            to_us(value) if isinstance(value, datetime) else value for row in some for value in row
        )
        connection.exec_driver_sql(_ADD.replace("{rows}", _USAGE.values(len(some))), values)


def _add_on_postgres(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    text = _ADD.replace("{rows}", _USAGE.unnested)
    for start in range(0, len(rows), _BATCH):
        connection.exec_driver_sql(text, tuple(_USAGE.arrays(rows[start : start + _BATCH])))


def _windows(rows: Sequence[Row[Any]]) -> list[UsageWindow]:
    return [
        UsageWindow(
            scope_id=row.scope_id,
            window_start=row.window_start,
            window_end=row.window_end,
            checks=row.checks,
            admitted=row.admitted,
            denied=row.denied,
            shadow_denied=row.shadow_denied,
        )
        for row in rows
    ]

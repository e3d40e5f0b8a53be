"""The budgets and quotas that are used most at the moment, over all tenants; for metrics.

They are found by approximate numbers, as SQLite keeps amounts as text, and told by exact ones.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from fiscus.budgets.model import Budget
from fiscus.budgets.port import BudgetUse
from fiscus.money import add, ratio
from fiscus.periods import DAWN, PeriodType
from fiscus.quotas.model import Quota
from fiscus.quotas.port import QuotaUse
from fiscus.stores.sql.budgets.utilization import ABOUT_USED, current_ratio
from fiscus.stores.sql.column_types import UtcTime
from fiscus.stores.sql.quotas.balances import about_taken
from fiscus.stores.sql.quotas.tables import quota_balances, quotas
from fiscus.stores.sql.tables import budget_periods, budgets, tenants
from fiscus.wire.decoding import decode

LOOK_SECONDS: Final = 5.0
"""How long either may be looked for."""
_CANDIDATES: Final = 200
"""So many are looked at, as some may turn out not to run any more."""
_LONGEST: Final = {
    PeriodType.DAILY: timedelta(days=3),
    PeriodType.WEEKLY: timedelta(days=9),
    PeriodType.MONTHLY: timedelta(days=33),
    PeriodType.QUARTERLY: timedelta(days=94),
    PeriodType.YEARLY: timedelta(days=368),
}
"""No current period began longer ago. Of the types that are not here few budgets have many."""
_WITHOUT_RESET: Final = (PeriodType.PROJECT, PeriodType.CUSTOM)


def budgets_used_most(connection: Connection, now: datetime, most: int) -> list[BudgetUse]:
    """Those of which most is spent and reserved in the current period, the most used first."""
    found: list[BudgetUse] = []
    for definition in connection.execute(_budgets(now)).scalars():
        budget = decode(definition, Budget)
        used = current_ratio(connection, budget, now)
        if used is not None and used > 0:
            found.append(BudgetUse(budget.tenant_id, budget.budget_id, used))
            # what is due and not freed yet may have moved some up
            if len(found) == 2 * most:
                break
    found.sort(key=lambda use: use.utilization_ratio, reverse=True)
    return found[:most]


def quotas_used_most(
    connection: Connection, now: datetime, most: int, *, is_sqlite: bool
) -> list[QuotaUse]:
    """Those of which most is used, burst included, while their period runs; the most used first."""
    found: list[QuotaUse] = []
    for definition in connection.execute(_quotas(now, most, is_sqlite=is_sqlite)).scalars():
        quota = decode(definition, Quota)
        balance = connection.execute(
            sa.select(_q.used, _q.burst_used)
            .where(_q.quota_id == quota.quota_id, _q.tenant_id == quota.tenant_id)
            .order_by(about_taken.desc())
            .limit(1)
        ).one()
        used = ratio(add(balance.used, balance.burst_used), quota.allocated_amount)
        found.append(QuotaUse(quota.tenant_id, quota.quota_id, quota.resource_type, used))
    found.sort(key=lambda use: use.utilization_ratio, reverse=True)
    return found


_p: Final = budget_periods.c
_q: Final = quota_balances.c


def _budgets(now: datetime) -> sa.Select[Any]:
    """Definitions; by ix_budget_periods_newest, so that periods that are past cost nothing."""
    t = budgets.c
    since = sa.case(
        {kind.value: sa.literal(now - longest, UtcTime) for kind, longest in _LONGEST.items()},
        value=t.period_type,
        else_=sa.literal(DAWN, UtcTime),
    )
    # the end is that of the definition at the time of the row: a later one may have moved it
    moved = sa.and_(t.version > 1, t.period_type.in_([kind.value for kind in _WITHOUT_RESET]))
    used = (
        sa.select(sa.func.max(ABOUT_USED))
        .where(
            _p.budget_id == t.budget_id,
            _p.period_start > since,
            _p.period_start <= now,
            sa.or_(_p.period_end > now, moved),
        )
        .correlate(budgets)
        .scalar_subquery()
    )
    share = (used / sa.cast(t.budget_amount, sa.Float)).label("share")
    ranked = (
        sa.select(t.budget_id, share)
        .where(t.deleted_at.is_(None))
        .order_by(share.desc().nulls_last())
        .limit(_CANDIDATES)
        .subquery()
    )
    return (
        sa.select(t.definition)
        .join(ranked, ranked.c.budget_id == t.budget_id)
        .where(ranked.c.share > 0)
        .order_by(ranked.c.share.desc())
    )


def _quotas(now: datetime, most: int, *, is_sqlite: bool) -> sa.Select[Any]:
    """Definitions; by ix_quotas_running, so that periods that are past cost nothing."""
    t = quotas.c
    every = sa.select(tenants.c.tenant_id)
    # Other than as an array PostgreSQL would rather read all quotas there ever were.
    of_tenants = (
        t.tenant_id.in_(every)
        if is_sqlite
        else t.tenant_id == sa.any_(sa.func.array(every.scalar_subquery()))
    )
    used = (
        sa.select(sa.func.max(about_taken))
        .where(_q.quota_id == t.quota_id)
        .correlate(quotas)
        .scalar_subquery()
    )
    share = (used / _Allocated(t.definition)).label("share")
    ranked = (
        sa.select(t.quota_id, share)
        .where(of_tenants, t.period_end > now, t.period_start <= now, t.deleted_at.is_(None))
        .order_by(share.desc().nulls_last())
        .limit(most)
        .subquery()
    )
    return (
        sa.select(t.definition)
        .join(ranked, ranked.c.quota_id == t.quota_id)
        .where(ranked.c.share > 0)
        .order_by(ranked.c.share.desc())
    )


class _Allocated(FunctionElement[float]):
    """About how much a quota allocates, from its definition."""

    type = sa.Float()
    inherit_cache = True


@compiles(_Allocated)
def _on_postgres(element: _Allocated, compiler: SQLCompiler, **options: Any) -> str:
    # To read the JSON would take half of all the time. A name with its quotes is in no value.
    definition = compiler.process(element.clauses, **options)
    rest = f"""split_part({definition}, '"allocated_amount":', 2)"""
    return f"CAST(split_part({rest}, ',', 1) AS double precision)"


@compiles(_Allocated, "sqlite")
def _on_sqlite(element: _Allocated, compiler: SQLCompiler, **options: Any) -> str:
    definition = compiler.process(element.clauses, **options)
    return f"json_extract({definition}, '$.allocated_amount')"

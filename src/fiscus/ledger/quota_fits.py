"""When a denied consumption would pass if nobody else came, as far as it is known.

Known are the quotas that are allocated, now and for later, and renewals with the same amount.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from fiscus.budgets.intervals import Interval, first_in_all
from fiscus.ledger.commands import Consume
from fiscus.ledger.workspace import Workspace
from fiscus.money import ZERO
from fiscus.quotas.definitions import remaining, renewed_until
from fiscus.quotas.model import Quota, QuotaBalance, RenewalAmount, RenewalStatus
from fiscus.quotas.rules import Demand
from fiscus.scopes import ScopeType
from fiscus.zones import DAWN, FAR_FUTURE


def fits_at(workspace: Workspace, command: Consume, demands: Sequence[Demand]) -> datetime | None:
    """The first moment at which no quota would deny a check; None when none is known.

    `demands` are the quotas it met. One that allows may be followed by a smaller one, and others
    have yet to begin. Where the tenant requires a quota, one has to hold, too.
    """
    used = {one.quota.quota_id: one.balance for one in demands}
    tenant = workspace.tenant(command.tenant_id)
    to_come = tenant.quotas.to_come(command.operation, command.now)
    if not to_come:
        return None
    places: dict[tuple[ScopeType, str], list[Quota]] = {}
    for quota in sorted(to_come, key=lambda quota: quota.period_start):
        places.setdefault((quota.scope_type, quota.scope_id), []).append(quota)
    found = [_passing_intervals(quotas, used, command.amount) for quotas in places.values()]
    if tenant.settings.require_quota:
        found.append([one for quotas in places.values() for one in _matching_intervals(quotas)])
    return first_in_all(found, command.now)


def _passing_intervals(
    quotas: Sequence[Quota], used: dict[str, QuotaBalance], amount: Decimal
) -> list[Interval]:
    """When the quotas of one scope, of which one holds at a time, do not stand in the way."""
    found = [Interval(DAWN, quotas[0].period_start)]
    for quota, next_start in _with_next_start(quotas):
        balance = used.get(quota.quota_id)
        taken = (ZERO, ZERO) if balance is None else (balance.used, balance.burst_used)
        has_room = amount <= remaining(quota, *taken)
        if has_room:
            found.append(Interval(quota.period_start, quota.period_end))
        if _passes_after(quota, amount, has_room=has_room):
            found.append(Interval(quota.period_end, next_start))
    return [one for one in found if one.start < one.end]


def _matching_intervals(quotas: Sequence[Quota]) -> list[Interval]:
    """When one of the quotas of a scope holds, or a renewal of one will."""
    found: list[Interval] = []
    for quota, next_start in _with_next_start(quotas):
        end = quota.period_end
        if quota.renewal_status is RenewalStatus.PENDING:
            end = renewed_until(quota, next_start)
        found.append(Interval(quota.period_start, end))
    return found


def _with_next_start(quotas: Sequence[Quota]) -> list[tuple[Quota, datetime]]:
    """Each quota of a scope, earliest first, with where the next begins."""
    starts = [quota.period_start for quota in quotas]
    return list(zip(quotas, [*starts[1:], FAR_FUTURE], strict=True))


def _passes_after(quota: Quota, amount: Decimal, *, has_room: bool) -> bool:
    """Whether an amount passes after a quota's period, while no other is allocated."""
    if quota.renewal_status is RenewalStatus.PENDING:
        is_known = quota.renewal_amount is RenewalAmount.SAME
        return is_known and amount <= remaining(quota, ZERO, ZERO)
    # whether anybody allocates the next is not known: no more is promised than holds now
    return has_room

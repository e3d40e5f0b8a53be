"""What a group reads without locking it: reservations that are due, and what denials need to know.

It is looked up when it turns out to be needed, as most groups need none of it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from fiscus.budgets.intervals import Hold
from fiscus.budgets.model import BalanceKey
from fiscus.ledger.port import MAX_DUE, LedgerTransaction, UnlockedReads, UnlockedRows
from fiscus.ledger.restarts import MoreDue, MoreNeeded

_MAX_LOOKUPS: Final = 8
"""So often is looked up in one attempt what a denial needs to know; then what all need, at once."""
_DUE_SOON: Final = timedelta(seconds=2)
"""So much later at most are most of a group's commands than its first."""


class UnlockedState:
    """What one attempt at a group has read so."""

    def __init__(self, needs: UnlockedReads) -> None:
        """`needs`: what earlier attempts looked up; what this one does is added."""
        self._needs = needs
        self._rows = UnlockedRows()
        self._lookups = 0

    def open(self, transaction: LedgerTransaction) -> None:
        """Start by what earlier attempts looked up."""
        self._transaction = transaction
        needs = self._needs
        if needs.due or needs.holds or needs.spent:
            self._rows = transaction.read_unlocked(needs)

    def due(self, tenant_id: str, now: datetime) -> list[str]:
        """The ids of a tenant's reservations that are due. Raises `MoreDue` for very many."""
        known = self._rows.due.get(tenant_id)
        if known is None or known.until < now:
            self._look_up(UnlockedReads(due={tenant_id: now + _DUE_SOON}))
            known = self._rows.due[tenant_id]
        due = [one for due_at, one in known.reservations if due_at <= now]
        if len(due) > MAX_DUE:
            raise MoreDue(tenant_id, now)
        return due

    def look_ahead(self, tenant_id: str, later: Collection[BalanceKey], *, holds: bool) -> None:
        """Have known what is spent of balances `later` and, with `holds`, what is held."""
        known = self._rows
        wanted = UnlockedReads(
            holds={tenant_id} if holds and tenant_id not in known.holds else set(),
            spent={key: tenant_id for key in later if key not in known.spent},
        )
        if wanted.holds or wanted.spent:
            self._look_up(wanted)

    def spent(self, key: BalanceKey) -> Decimal:
        """What is spent of a balance that was looked ahead to."""
        return self._rows.spent[key]

    def holds_on(self, key: BalanceKey, tenant_id: str) -> list[tuple[str, Hold]]:
        """As `PendingHolds.on`, of a tenant that was looked ahead for."""
        return self._rows.holds[tenant_id].on(key)

    def _look_up(self, wanted: UnlockedReads) -> None:
        self._needs.add(wanted)
        if self._lookups == _MAX_LOOKUPS:
            raise MoreNeeded
        self._lookups += 1
        self._rows.add(self._transaction.read_unlocked(wanted))

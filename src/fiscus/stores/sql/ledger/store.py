"""A ledger's store on SQL: where its transactions begin."""

from __future__ import annotations

from collections.abc import Collection

from fiscus.ledger.port import LedgerTransaction
from fiscus.stores.sql.ledger.driver import Driver
from fiscus.stores.sql.ledger.transaction import (
    KnownBalances,
    KnownVersions,
    LedgerRows,
    SqlLedgerTransaction,
)


class SqlLedgerStore:
    """A ledger's store on one driver; for one thread."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._known = KnownBalances()
        self._versions = KnownVersions()
        self._rows = LedgerRows(driver)

    def begin(self, tenants: Collection[str], *, patient: bool = True) -> LedgerTransaction:
        return SqlLedgerTransaction(
            self._driver, tenants, self._known, self._versions, self._rows, patient=patient
        )

    def close(self) -> None:
        self._driver.close()

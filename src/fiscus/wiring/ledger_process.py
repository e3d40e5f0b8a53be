"""The ledger's process: what it is given, how it is started, and what it does.

It loads nothing that the ledger does not need, so that it is there before the server listens.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from fiscus.costs.fx import EcbRates, parse_overrides
from fiscus.ledger.definitions import DefinitionCache
from fiscus.ledger.group import GroupRunner
from fiscus.ledger.remote.fallbacks import FallbackPublisher
from fiscus.ledger.remote.server import LedgerServer
from fiscus.runtime.logs import configure_logs
from fiscus.runtime.processes import collect_rarely
from fiscus.stores.sql.database import Database, Synchronous
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode

if TYPE_CHECKING:
    from fiscus.ledger.remote.process import LedgerProcess
    from fiscus.settings import Settings


class Given(Struct, frozen=True, kw_only=True):
    """What of the settings the process is given."""

    database_url: str
    sqlite_synchronous: Synchronous
    exchange_rates_file: str | None
    exchange_rates: str | None
    max_group: int
    deadline_seconds: float
    log_level: str


def start_ledger(settings: Settings) -> LedgerProcess:
    """Start the process over the database of `settings`, whose tables are up to date."""
    from fiscus.ledger.remote.process import LedgerProcess

    rates = settings.exchange_rates_file
    given = Given(
        database_url=settings.resolved_database_url,
        sqlite_synchronous=settings.sqlite_synchronous,
        exchange_rates_file=None if rates is None else str(rates),
        exchange_rates=settings.exchange_rates,
        max_group=settings.ledger_max_group,
        deadline_seconds=settings.ledger_deadline_seconds,
        log_level=settings.log_level,
    )
    return LedgerProcess(__name__, encode(given))


def open_rates(file: Path | None, overrides: str | None) -> EcbRates:
    """Exchange rates from `file`, or those that come with Fiscus, with overrides before them."""
    rates = EcbRates(file, None if overrides is None else parse_overrides(overrides))
    if file is not None:
        rates.load()  # a file that cannot be read is told now, not with the first foreign cost
    return rates


def main() -> None:
    """Be the ledger's process; see `remote.process.LedgerProcess` for what it is given."""
    given = decode(sys.stdin.buffer.read(), Given)
    configure_logs(given.log_level)
    database = Database(
        given.database_url, sqlite_synchronous=given.sqlite_synchronous, pool_size=1
    )
    store = database.ledger_store(given.deadline_seconds)
    file = given.exchange_rates_file
    fallbacks = FallbackPublisher()
    runner = GroupRunner(
        store,
        open_rates(None if file is None else Path(file), given.exchange_rates),
        DefinitionCache(),
        fallbacks.refreshed,
    )
    lines = [socket.socket(fileno=int(number)) for number in sys.argv[1:]]
    collect_rarely()
    try:
        LedgerServer(lines, runner, fallbacks, given.max_group).run()
    finally:
        store.close()
        database.close()


if __name__ == "__main__":
    main()

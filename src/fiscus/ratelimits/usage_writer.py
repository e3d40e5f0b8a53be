"""Writes what was counted of policies to the store, behind the checks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from fiscus.errors import OutcomeUnknown, ServiceUnavailable
from fiscus.ratelimits.policy_port import UsageRow, UsageStore
from fiscus.ratelimits.usage import UsageTally
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

MAX_ROWS: Final = 200_000
"""Rows that wait to be written; beyond them the oldest are given up: while the database cannot be
reached, or when so many scopes were seen in a minute."""
_FLUSH_ROWS: Final = 500


class UsageWriter:
    """Takes what `tally` counted and writes it. Safe in any thread."""

    def __init__(self, store: UsageStore) -> None:
        self.tally: Final = UsageTally()
        self._store = store
        self._unwritten: list[UsageRow] = []
        self._flushing = threading.Lock()

    def flush(
        self, policy_id: str | None = None, pause: Callable[[], object] | None = None
    ) -> None:
        """Write what was counted so far, of one policy or of all.

        In portions, with a `pause` after each that leaves the interpreter to the checks, and the
        turn to who asks for the usage of one policy. What may have been written is not written
        again. Raises `ServiceUnavailable`; nothing is lost then.
        """
        with self._flushing:
            self._unwritten += self.tally.take(policy_id)
            given_up = len(self._unwritten) - MAX_ROWS
            if given_up > 0:
                del self._unwritten[:given_up]
                log.warning("usage_given_up", rows=given_up)
        while self._write_some(policy_id):
            if pause is not None:
                pause()

    def close(self) -> None:
        """Write what was counted, if it can be."""
        try:
            self.flush()
        except ServiceUnavailable as error:
            log.warning("usage_not_written", rows=len(self._unwritten), reason=error.message)

    def _write_some(self, policy_id: str | None) -> bool:
        """Write a portion, with what there is of one policy first; whether there was any."""
        with self._flushing:
            rows = self._unwritten
            if policy_id is not None:
                rows = sorted(rows, key=lambda row: row.policy_id != policy_id)
            if not rows or policy_id not in {None, rows[0].policy_id}:
                return False
            portion = rows[:_FLUSH_ROWS]
            try:
                self._store.add(portion)
            except OutcomeUnknown as error:
                # not again: twice, it would be more than the policies let pass
                log.warning("usage_in_doubt", rows=len(portion), reason=error.message)
            self._unwritten = rows[_FLUSH_ROWS:]
            return True

"""What is answered while the store cannot be reached: each budget's own `on_store_failure`.

An operation is let through only when every budget it matches says so; it holds nothing, is marked
degraded, and is journaled to disk before it is answered.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from fiscus.budgets.calls import CheckBatchAnswer, allowed_without_store
from fiscus.budgets.matching import PreparedBudget
from fiscus.budgets.rules import passes_without_store
from fiscus.errors import ServiceUnavailable
from fiscus.ids import uuid7
from fiscus.ledger.commands import Check, CheckBatch, Command, Outcome
from fiscus.operations import Operation
from fiscus.runtime.logs import get_logger
from fiscus.wire.encoding import encode_canonical

log = get_logger(__name__)

_OUT_OF_REACH: Final = "The store cannot be reached"
_FULL: Final = "The database's disk is full"


class LastKnown(Protocol):
    """Budgets in memory, for any thread."""

    def last_known(self, operation: Operation) -> Sequence[PreparedBudget] | None:
        """The budgets that count an operation; None when its tenant's are not known."""
        ...


class DegradedDecisions:
    """Decides without the store, from the definitions in memory."""

    def __init__(self, budgets: LastKnown, journal: Path) -> None:
        self._budgets = budgets
        self._journal = journal
        self._lock = threading.Lock()

    def decide(self, command: Command, *, is_full: bool = False) -> Outcome:
        """Allow checks that may pass without the store; anything else is unavailable.

        Of a batch all or none pass, as its answer has no other word for "not decided". `is_full`:
        the store is there, but without room on its disk.
        """
        return self.decide_all([command], is_full=is_full)[0]

    def decide_all(self, commands: Sequence[Command], *, is_full: bool = False) -> list[Outcome]:
        """As `decide`, each for itself. They are journaled at once: the disk is slow for each."""
        passing = [self._passing(command) for command in commands]
        written = [check for checks in passing for check in checks]
        if written and not self._write(written):
            passing = [()] * len(commands)
        return [
            _allowed(command, len(checks), is_full=is_full)
            if checks
            else _unavailable(is_full=is_full)
            for command, checks in zip(commands, passing, strict=True)
        ]

    def _passing(self, command: Command) -> Sequence[Check]:
        """The checks of a command that may pass; none when it may not."""
        checks: Sequence[Check] = ()
        if isinstance(command, Check):
            checks = [command]
        elif isinstance(command, CheckBatch):
            checks = command.checks
        return checks if all(map(self._may_pass, checks)) else ()

    def _may_pass(self, command: Check) -> bool:
        known = self._budgets.last_known(command.operation)
        if known is None:
            return False
        matched = [one.budget for one in known if one.period_at(command.now) is not None]
        return bool(matched) and all(map(passes_without_store, matched))

    def _write(self, checks: Sequence[Check]) -> bool:
        """Append the decisions to the journal; whether they are on disk."""
        lines = b"".join([encode_canonical(_entry(check)) + b"\n" for check in checks])
        try:
            with self._lock, self._journal.open("ab+") as file:
                if not _ends_a_line(file):
                    file.write(b"\n")  # a full disk cut the last one off, which spoils no other
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            log.exception("degraded_decision_not_journaled", path=str(self._journal))
            return False
        return True


def _ends_a_line(file: BinaryIO) -> bool:
    """Whether what is appended to `file`, which stands at its end, begins a line."""
    if file.tell() == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _allowed(command: Command, count: int, *, is_full: bool) -> Outcome:
    why = _FULL if is_full else _OUT_OF_REACH
    message = f"{why}; the matching budgets allow operations meanwhile."
    answers = [allowed_without_store(message) for _ in range(count)]
    if isinstance(command, Check):
        return answers[0]
    return CheckBatchAnswer(allowed=True, results=answers)


def _unavailable(*, is_full: bool) -> ServiceUnavailable:
    if is_full:
        return ServiceUnavailable(
            f"{_FULL}; nothing was decided or changed",
            suggested_action="Have room made on it, and try again with the same key.",
            retry_after_seconds=1,
        )
    return ServiceUnavailable(
        f"{_OUT_OF_REACH}; nothing was decided or changed",
        suggested_action="Try again after the time in Retry-After, with the same key.",
        retry_after_seconds=1,
    )


def _entry(check: Check) -> dict[str, object]:
    operation = check.operation
    return {
        "decision_id": uuid7(),
        "at": check.now,
        "tenant_id": operation.tenant_id,
        "resource_type": operation.resource_type,
        "project_id": operation.project_id,
        "user_id": operation.user_id,
        "feature_id": operation.feature_id,
        "operation_id": check.operation_id,
        "estimated_cost": str(check.estimate),
        "currency": check.currency,
    }

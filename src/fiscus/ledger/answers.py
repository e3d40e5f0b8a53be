"""From decisions of the ledger to answers; done by the caller where that is another process."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from fiscus.budgets import answers as budgets
from fiscus.budgets.answer_templates import answer_as_json, answers_as_json
from fiscus.budgets.answers import BudgetsDecided
from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer
from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer, RecordItem
from fiscus.errors import FiscusError
from fiscus.ledger import recorded as costs
from fiscus.ledger.commands import (
    Answer,
    Check,
    CheckBatch,
    Command,
    Consume,
    ConsumeBatch,
    InvalidRecord,
    Outcome,
    Record,
    RecordBatch,
)
from fiscus.ledger.recorded import CostRecorded
from fiscus.quotas import answers as quotas
from fiscus.quotas.answers import QuotasDecided
from fiscus.quotas.calls import QuotaCheckAnswer, QuotaCheckBatchAnswer
from fiscus.wire.encoding import encode, pieces_around
from fiscus.wire.items import ItemError


class BudgetBatchDecided(Struct, frozen=True):
    """The decisions of a batch; an answer is one that was given before."""

    results: list[BudgetsDecided | CheckAnswer]

    @property
    def allowed(self) -> bool:
        """Whether every check is allowed."""
        return all(one.allowed for one in self.results)


class QuotaBatchDecided(Struct, frozen=True):
    """As above, of quotas."""

    results: list[QuotasDecided | QuotaCheckAnswer]


class RecordedBatch(Struct, frozen=True):
    """What became of the records of a batch; an answer is one that needs no other words."""

    results: list[CostRecorded | RecordAnswer | ItemError]


Decided = (
    BudgetsDecided
    | BudgetBatchDecided
    | QuotasDecided
    | QuotaBatchDecided
    | CostRecorded
    | RecordedBatch
    | Answer
)
"""What a command came to; some need no other words."""

_ALLOWED_BATCH: Final = pieces_around(CheckBatchAnswer(allowed=True, results=[]), "results")


def to_answer_json(command: Command, decided: Decided) -> bytes:
    """`to_answer` as JSON."""
    if isinstance(decided, BudgetsDecided):
        assert isinstance(command, Check)
        return answer_as_json(decided, command).encode()
    if isinstance(decided, BudgetBatchDecided) and decided.allowed:
        assert isinstance(command, CheckBatch)
        before, after = _ALLOWED_BATCH
        results = ",".join(answers_as_json(decided.results, command.checks))
        return f"{before}[{results}]{after}".encode()
    return encode(to_answer(command, decided))


def to_answer(command: Command, decided: Decided | FiscusError) -> Outcome:
    """The outcome of `command`."""
    if isinstance(decided, BudgetsDecided):
        assert isinstance(command, Check)
        return budgets.answer(decided, command)
    if isinstance(decided, BudgetBatchDecided):
        assert isinstance(command, CheckBatch)
        checks = [
            budgets.answer(one, check) if isinstance(one, BudgetsDecided) else one
            for check, one in zip(command.checks, decided.results, strict=True)
        ]
        return CheckBatchAnswer(allowed=decided.allowed, results=checks)
    if isinstance(decided, QuotasDecided):
        assert isinstance(command, Consume)
        return _quotas(command, decided)
    if isinstance(decided, QuotaBatchDecided):
        assert isinstance(command, ConsumeBatch)
        results = [
            _quotas(check, one) if isinstance(one, QuotasDecided) else one
            for check, one in zip(command.checks, decided.results, strict=True)
        ]
        return QuotaCheckBatchAnswer(allowed=all(one.allowed for one in results), results=results)
    if isinstance(decided, CostRecorded):
        assert isinstance(command, Record)
        return costs.answer(decided, command.cost, command.now)
    if isinstance(decided, RecordedBatch):
        assert isinstance(command, RecordBatch)
        items = [
            _record(record, one)
            for record, one in zip(command.records, decided.results, strict=True)
        ]
        failed = sum(1 for item in items if item.error is not None)
        return RecordBatchAnswer(recorded=len(items) - failed, failed=failed, results=items)
    return decided


def _record(
    record: Record | InvalidRecord, one: CostRecorded | RecordAnswer | ItemError
) -> RecordItem:
    if isinstance(one, CostRecorded):
        assert isinstance(record, Record)
        return RecordItem(costs.answer(one, record.cost, record.now))
    return RecordItem(one) if isinstance(one, RecordAnswer) else RecordItem(None, one)


def _quotas(command: Consume, decided: QuotasDecided) -> QuotaCheckAnswer:
    consumption_id = command.consumption_id if command.consume else None
    return quotas.answer(decided, command.amount, consumption_id)

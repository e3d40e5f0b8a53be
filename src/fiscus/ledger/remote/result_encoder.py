"""Encodes the results of groups; the side of the ledger's process.

It sends tuples of what the structs in `results` have, their tags first: no struct is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from fiscus.budgets.answers import BudgetsDecided
from fiscus.budgets.matching import MatchedBudget
from fiscus.errors import FiscusError
from fiscus.ledger.answers import (
    BudgetBatchDecided,
    Decided,
    QuotaBatchDecided,
    RecordedBatch,
    to_answer_json,
)
from fiscus.ledger.commands import Command
from fiscus.ledger.recorded import CostRecorded
from fiscus.ledger.remote.messages import LENGTH, measured
from fiscus.ledger.remote.results import FAILURES, Fallback
from fiscus.quotas.answers import QuotasDecided
from fiscus.quotas.matching import MatchedQuota
from fiscus.wire.encoding import encode_into

MAX_NUMBERED: Final = 5_000
M = TypeVar("M", MatchedBudget, MatchedQuota)


class _InternTable(Generic[M]):
    """Numbers for sets of matches sent on a line, and for each budget or quota in them."""

    def __init__(self) -> None:
        self._sets: dict[tuple[int, ...], int] = {}
        """By the `id` of each of it."""
        self._each: dict[int, tuple[int, M]] = {}
        """By the `id` of what has them, which is kept alive."""
        self._last_set: Sequence[M] = ()
        self._last_number = -1
        self._new_sets: list[list[int]] = []
        self._new: list[M] = []

    def __len__(self) -> int:
        return len(self._sets) + len(self._each)

    def clear(self) -> None:
        self._sets.clear()
        self._each.clear()
        self._last_number = -1

    def of(self, matched: Sequence[M]) -> int:
        if matched is self._last_set and self._last_number >= 0:  # as in most of a batch
            return self._last_number
        key = tuple(map(id, matched))
        number = self._sets.get(key)
        if number is None:
            number = self._sets[key] = len(self._sets)
            self._new_sets.append([self._of_one(one) for one in matched])
        self._last_set, self._last_number = matched, number
        return number

    def _of_one(self, one: M) -> int:
        known = self._each.get(id(one))
        if known is None:
            known = self._each[id(one)] = len(self._each), one
            self._new.append(one)
        return known[0]

    def take_new(self) -> tuple[list[M], list[list[int]]]:
        """What got a number since the last time: single ones, and sets as the numbers in them."""
        new, self._new = self._new, []
        new_sets, self._new_sets = self._new_sets, []
        return new, new_sets


class ResultEncoder:
    """Encodes results on one line; the server's side."""

    def __init__(self) -> None:
        self._budgets: _InternTable[MatchedBudget] = _InternTable()
        self._quotas: _InternTable[MatchedQuota] = _InternTable()

    def encode(
        self,
        number: int,
        commands: Sequence[Command],
        outcomes: Sequence[Decided | FiscusError],
        fallbacks: Sequence[Fallback],
        lookups: tuple[int, int],
        seconds: float,
    ) -> bytearray:
        """A `GroupResult` as a frame."""
        budgets, quotas = self._budgets, self._quotas
        anew = len(budgets) + len(quotas) > MAX_NUMBERED
        if anew:
            budgets.clear()
            quotas.clear()
        frame = bytearray(LENGTH.size)
        encoded = [
            self._of_budgets(outcome)
            if isinstance(outcome, BudgetsDecided)  # what is likely is asked first
            else self._encoded(frame, command, outcome)
            for command, outcome in zip(commands, outcomes, strict=True)
        ]
        new_budgets, budgets_matched = budgets.take_new()
        new_quotas, quotas_matched = quotas.take_new()
        rest = (
            number,
            encoded,
            None,
            seconds,
            fallbacks,
            lookups,
            anew,
            [(one.budget, one.scope_id, one.period) for one in new_budgets],
            budgets_matched,
            [(one.quota, one.scope_id) for one in new_quotas],
            quotas_matched,
        )
        return _framed(frame, rest)

    def _encoded(
        self, frame: bytearray, command: Command, outcome: Decided | FiscusError
    ) -> tuple[object, ...]:
        match outcome:
            case FiscusError():
                return _failed(outcome)
            case QuotasDecided():
                return self._of_quotas(outcome)
            case CostRecorded():
                return self._of_cost(outcome)
            case BudgetBatchDecided(results):
                checks = [one for one in results if isinstance(one, BudgetsDecided)]
                if len(checks) == len(results):
                    return 6, [self._of_budgets(one) for one in checks]
            case QuotaBatchDecided(results):
                consumes = [one for one in results if isinstance(one, QuotasDecided)]
                if len(consumes) == len(results):
                    return 7, [self._of_quotas(one) for one in consumes]
            case RecordedBatch(results):
                costs = [one for one in results if isinstance(one, CostRecorded)]
                if len(costs) == len(results):
                    return 8, [self._of_cost(one) for one in costs]
            case _:
                pass
        return _answered(frame, to_answer_json(command, outcome), outcome)

    def _of_budgets(self, decided: BudgetsDecided) -> tuple[object, ...]:
        encoded = (
            3,
            self._budgets.of(decided.matched),
            decided.allowed,
            decided.deciding,
            decided.throttle,
            decided.fits_at,
            decided.standings,
            decided.held_back,
        )
        return (*encoded, True) if decided.throttled else encoded

    def _of_quotas(self, decided: QuotasDecided) -> tuple[object, ...]:
        return (
            4,
            self._quotas.of(decided.matched),
            decided.allowed,
            decided.deciding,
            decided.fits_at,
            decided.standings,
        )

    def _of_cost(self, recorded: CostRecorded) -> tuple[object, ...]:
        return (
            5,
            self._budgets.of(recorded.matched),
            recorded.charged,
            recorded.currency,
            recorded.flags,
        )


def _answered(frame: bytearray, answer: bytes, outcome: Decided) -> tuple[object, ...]:
    frame += answer
    return 1, len(answer), getattr(outcome, "allowed", True)


def unavailable_message(number: int, error: Exception) -> bytearray:
    """A `GroupResult` of which nothing was done, or perhaps, when `error` is
    `GroupOutcomeUnknown`."""
    kind = type(error)
    number_of_kind = FAILURES.index(kind) if kind in FAILURES else 0
    return _framed(
        bytearray(LENGTH.size),
        (number, (), str(error), 0.0, (), (0, 0), False, (), (), (), (), number_of_kind),
    )


def _failed(error: FiscusError) -> tuple[object, ...]:
    return (
        2,
        error.code,
        error.message,
        error.details,
        error.suggested_action,
        error.retry_after_seconds,
    )


def _framed(frame: bytearray, rest: tuple[object, ...]) -> bytearray:
    """The answers that are in `frame`, the rest of their message, and where that begins."""
    end = len(frame)
    encode_into(rest, frame, end)
    frame += LENGTH.pack(end - LENGTH.size)
    return measured(frame)

"""Decodes the results of groups; the side of the process that answers."""

from __future__ import annotations

from typing import Final

from fiscus.batching.thread_batcher import GroupOutcomeUnknown
from fiscus.budgets.answers import BudgetsDecided
from fiscus.budgets.matching import MatchedBudget, PreparedBudget
from fiscus.ledger.answers import (
    BudgetBatchDecided,
    QuotaBatchDecided,
    RecordedBatch,
)
from fiscus.ledger.port import StoreUnavailable
from fiscus.ledger.recorded import CostRecorded
from fiscus.ledger.remote.messages import LENGTH, Frames
from fiscus.ledger.remote.results import (
    FAILURES,
    AnswerPart,
    EncodedAnswer,
    EncodedBudgets,
    EncodedCheckBatch,
    EncodedCost,
    EncodedError,
    EncodedGroup,
    EncodedOutcome,
    EncodedQuotaBatch,
    EncodedQuotas,
    EncodedRecordBatch,
    GroupResult,
    RemoteOutcome,
)
from fiscus.quotas.answers import QuotasDecided
from fiscus.quotas.matching import MatchedQuota, matched_quota
from fiscus.wire.hooks import decoder_for

_read_rest: Final = decoder_for(EncodedGroup).decode


class ResultDecoder:
    """Decodes what a `ResultEncoder` sends on one line; the client's side."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._budgets: list[MatchedBudget] = []
        self._budgets_matched: list[list[MatchedBudget]] = []
        self._quotas: list[MatchedQuota] = []
        self._quotas_matched: list[list[MatchedQuota]] = []

    def feed(self, data: bytes) -> list[GroupResult]:
        """What is complete with `data`, which has to be all that came."""
        return [self._read(message) for message in self._frames.feed(data)]

    def _read(self, message: bytes) -> GroupResult:
        (end,) = LENGTH.unpack_from(message, len(message) - LENGTH.size)
        rest: EncodedGroup = _read_rest(memoryview(message)[end : -LENGTH.size])
        if rest.anew:
            self._budgets.clear()
            self._budgets_matched.clear()
            self._quotas.clear()
            self._quotas_matched.clear()
        for budget, scope_id, period in rest.budgets:
            self._budgets.append(PreparedBudget(budget).in_period(scope_id, period))
        for numbers in rest.budgets_matched:
            self._budgets_matched.append([self._budgets[number] for number in numbers])
        for quota, scope_id in rest.quotas:
            self._quotas.append(matched_quota(quota, scope_id))
        for numbers in rest.quotas_matched:
            self._quotas_matched.append([self._quotas[number] for number in numbers])
        outcomes: list[RemoteOutcome] = []
        start = 0
        for one in rest.outcomes:
            if isinstance(one, AnswerPart):
                outcomes.append(EncodedAnswer(message[start : start + one.size], one.allowed))
                start += one.size
            else:
                outcomes.append(self._decoded(one))
        failure: StoreUnavailable | GroupOutcomeUnknown | None = None
        if rest.unavailable is not None:
            failure = FAILURES[rest.kind](rest.unavailable)
        return GroupResult(
            rest.number, outcomes, failure, rest.seconds, rest.fallbacks, rest.lookups
        )

    def _decoded(self, encoded: EncodedOutcome) -> RemoteOutcome:
        match encoded:
            case EncodedBudgets():
                return self._of_budgets(encoded)
            case EncodedQuotas():
                return self._of_quotas(encoded)
            case EncodedCost():
                return self._of_cost(encoded)
            case EncodedError():
                return encoded.error()
            case EncodedCheckBatch(results):
                return BudgetBatchDecided([self._of_budgets(one) for one in results])
            case EncodedQuotaBatch(results):
                return QuotaBatchDecided([self._of_quotas(one) for one in results])
            case EncodedRecordBatch(results):
                return RecordedBatch([self._of_cost(one) for one in results])

    def _of_budgets(self, encoded: EncodedBudgets) -> BudgetsDecided:
        return BudgetsDecided(
            self._budgets_matched[encoded.matched],
            encoded.allowed,
            encoded.deciding,
            encoded.throttle,
            encoded.fits_at,
            encoded.standings,
            encoded.held_back,
            encoded.throttled,
        )

    def _of_quotas(self, encoded: EncodedQuotas) -> QuotasDecided:
        return QuotasDecided(
            self._quotas_matched[encoded.matched],
            encoded.allowed,
            encoded.deciding,
            encoded.fits_at,
            encoded.standings,
        )

    def _of_cost(self, encoded: EncodedCost) -> CostRecorded:
        return CostRecorded(
            self._budgets_matched[encoded.matched], encoded.charged, encoded.currency, encoded.flags
        )

"""The results of a group: encoded by the ledger's process, decoded by the one that answers.

Answers are JSON already and stand before the rest of their message, each of a known length, so that
the client's side need not read what it only hands on. Batches are sent as decisions, which the
client's side makes answers of. What an operation matches is sent once on each line, and so is each
budget or quota in it; from then on it is sent as a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from msgspec import Raw, Struct

from fiscus.batching.thread_batcher import GroupOutcomeUnknown
from fiscus.budgets.answers import BudgetsDecided, BudgetStanding
from fiscus.budgets.matching import MatchedBudget, PreparedBudget
from fiscus.budgets.model import Budget
from fiscus.budgets.rules import ThrottleShare
from fiscus.costs.model import CostFlag
from fiscus.errors import ERROR_BY_CODE, FiscusError, InternalError, rebuild_error
from fiscus.ledger.answers import (
    BudgetBatchDecided,
    Decided,
    QuotaBatchDecided,
    RecordedBatch,
    checks_to_json,
    to_answer_json,
)
from fiscus.ledger.commands import Command
from fiscus.ledger.port import StoreFull, StoreUnavailable
from fiscus.ledger.recorded import Charged, CostRecorded
from fiscus.ledger.remote.messages import LENGTH, Frames, measured
from fiscus.periods import Period
from fiscus.quotas.answers import QuotasDecided, QuotaStanding
from fiscus.quotas.matching import MatchedQuota, matched_quota
from fiscus.quotas.model import Quota
from fiscus.wire.encoding import encode_into
from fiscus.wire.hooks import decoder_for

MAX_NUMBERED: Final = 5_000
_ID_FIELD: Final = b'"correlation_id":'
_NO_ID: Final = _ID_FIELD + b"null}"


class EncodedAnswer(Struct, frozen=True):
    """A command's answer."""

    answer: bytes
    """As JSON."""
    allowed: bool
    """False for a denial."""

    def with_correlation_id(self, correlation_id: str) -> bytes:
        """The answer as JSON with this id, which is safe in JSON, as its last field."""
        answer = self.answer
        assert answer.endswith(_NO_ID)
        return b'%b"%b"}' % (answer[: -len(_NO_ID) + len(_ID_FIELD)], correlation_id.encode())


class EncodedError(Struct, frozen=True, array_like=True, tag=2):
    """The error that a command ended in."""

    code: str
    message: str
    details: dict[str, Any]
    suggested_action: str | None
    retry_after_seconds: int | None

    def error(self) -> FiscusError:
        """The error as it was in the other process."""
        return rebuild_error(
            ERROR_BY_CODE.get(self.code, InternalError),
            self.message,
            self.details,
            self.suggested_action,
            self.retry_after_seconds,
        )


class Fallback(Struct, frozen=True, array_like=True):
    """A tenant's budgets, if some of them let operations through without the store; else none."""

    tenant_id: str
    at_ns: int
    """When it was sent, by a clock that all processes share and that never goes back: of two that
    come over different lines, it says which holds."""
    budgets: Raw
    """As JSON."""


RemoteOutcome = EncodedAnswer | BudgetBatchDecided | QuotaBatchDecided | RecordedBatch | FiscusError
"""What became of a command."""
M = TypeVar("M", MatchedBudget, MatchedQuota)


class GroupResult(Struct, frozen=True):
    """What became of a group."""

    number: int
    outcomes: list[RemoteOutcome]
    """In the order of its commands; empty when nothing of it was done."""
    failure: StoreUnavailable | GroupOutcomeUnknown | None
    """Why nothing of it was done, or why that is not known."""
    seconds: float
    """How long the groups took that it was done with."""
    fallbacks: list[Fallback]
    """Of tenants whose budgets changed since the group before."""
    lookups: tuple[int, int]
    """How often definitions were looked for since the group before, and had to be read."""


_FAILURES: Final = (StoreUnavailable, StoreFull, GroupOutcomeUnknown)
"""What is sent as its place here; any other is as the first."""


class _Answer(Struct, frozen=True, array_like=True, tag=1):
    """An answer among those that stand one after the other."""

    size: int
    allowed: bool


class _Budgets(Struct, frozen=True, array_like=True, gc=False):
    """A `BudgetsDecided`, what was matched by its number."""

    matched: int
    allowed: bool
    deciding: int
    throttle: ThrottleShare | None
    fits_at: datetime | None
    standings: list[BudgetStanding]
    held_back: bool
    throttled: bool = False


class _Quotas(Struct, frozen=True, array_like=True, gc=False):
    """A `QuotasDecided`, what was matched by its number."""

    matched: int
    allowed: bool
    deciding: int
    fits_at: datetime | None
    standings: list[QuotaStanding]


class _Cost(Struct, frozen=True, array_like=True, gc=False):
    """A `CostRecorded`, what was matched by its number."""

    matched: int
    charged: list[Charged]
    currency: str
    flags: list[CostFlag]


class _CheckBatch(Struct, frozen=True, array_like=True, tag=3):
    results: list[_Budgets]


class _QuotaBatch(Struct, frozen=True, array_like=True, tag=4):
    results: list[_Quotas]


class _RecordBatch(Struct, frozen=True, array_like=True, tag=5):
    results: list[_Cost]


_EncodedOutcome = EncodedError | _CheckBatch | _QuotaBatch | _RecordBatch
"""What became of a command, unless that is an answer."""


class _Rest(Struct, frozen=True, array_like=True):
    """A message, without its answers."""

    number: int
    outcomes: list[_Answer | _EncodedOutcome]
    unavailable: str | None
    seconds: float
    fallbacks: list[Fallback]
    lookups: tuple[int, int]
    anew: bool
    """Numbers begin at 0 again."""
    budgets: list[tuple[Budget, str, Period]]
    """Budgets, for which scope id and in which period, that get the next numbers."""
    budgets_matched: list[list[int]]
    """Those that operations match, by their numbers; each gets the next number of its own."""
    quotas: list[tuple[Quota, str]]
    """Quotas, and for which scope id, that get the next numbers of theirs."""
    quotas_matched: list[list[int]]
    kind: int = 0
    """Which of `_FAILURES`, when it is `unavailable`."""


_read_rest: Final = decoder_for(_Rest).decode


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
        answers = iter(checks_to_json(commands, outcomes))
        encoded = [
            _answered(frame, next(answers).encode(), outcome)
            if isinstance(outcome, BudgetsDecided)
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
            case BudgetBatchDecided(results):
                checks = [one for one in results if isinstance(one, BudgetsDecided)]
                if len(checks) == len(results):
                    return 3, [self._of_budgets(one) for one in checks]
            case QuotaBatchDecided(results):
                consumes = [one for one in results if isinstance(one, QuotasDecided)]
                if len(consumes) == len(results):
                    return 4, [self._of_quotas(one) for one in consumes]
            case RecordedBatch(results):
                costs = [one for one in results if isinstance(one, CostRecorded)]
                if len(costs) == len(results):
                    return 5, [self._of_cost(one) for one in costs]
            case _:
                pass
        return _answered(frame, to_answer_json(command, outcome), outcome)

    def _of_budgets(self, decided: BudgetsDecided) -> tuple[object, ...]:
        encoded = (
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
            self._quotas.of(decided.matched),
            decided.allowed,
            decided.deciding,
            decided.fits_at,
            decided.standings,
        )

    def _of_cost(self, recorded: CostRecorded) -> tuple[object, ...]:
        return (
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
    number_of_kind = _FAILURES.index(kind) if kind in _FAILURES else 0
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
        rest: _Rest = _read_rest(memoryview(message)[end : -LENGTH.size])
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
            if isinstance(one, _Answer):
                outcomes.append(EncodedAnswer(message[start : start + one.size], one.allowed))
                start += one.size
            else:
                outcomes.append(self._decoded(one))
        failure: StoreUnavailable | GroupOutcomeUnknown | None = None
        if rest.unavailable is not None:
            failure = _FAILURES[rest.kind](rest.unavailable)
        return GroupResult(
            rest.number, outcomes, failure, rest.seconds, rest.fallbacks, rest.lookups
        )

    def _decoded(self, encoded: _EncodedOutcome) -> RemoteOutcome:
        match encoded:
            case EncodedError():
                return encoded.error()
            case _CheckBatch(results):
                return BudgetBatchDecided([self._of_budgets(one) for one in results])
            case _QuotaBatch(results):
                return QuotaBatchDecided([self._of_quotas(one) for one in results])
            case _RecordBatch(results):
                return RecordedBatch([self._of_cost(one) for one in results])

    def _of_budgets(self, encoded: _Budgets) -> BudgetsDecided:
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

    def _of_quotas(self, encoded: _Quotas) -> QuotasDecided:
        return QuotasDecided(
            self._quotas_matched[encoded.matched],
            encoded.allowed,
            encoded.deciding,
            encoded.fits_at,
            encoded.standings,
        )

    def _of_cost(self, encoded: _Cost) -> CostRecorded:
        return CostRecorded(
            self._budgets_matched[encoded.matched], encoded.charged, encoded.currency, encoded.flags
        )

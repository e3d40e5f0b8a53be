"""The results of a group: encoded by the ledger's process, decoded by the one that answers.

Decisions are sent as they are, and the client's side puts them into words: all wait for the ledger,
not for it (docs/decisions/0060). What an operation matches is sent once on each line, and so is
each budget or quota in it; from then on it is sent as a number. What is an answer already is sent
as JSON and stands before the rest of its message, each of a known length, so that the client's side
need not read what it only hands on.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec import Raw, Struct

from fiscus.batching.thread_batcher import GroupOutcomeUnknown
from fiscus.budgets.answers import BudgetsDecided, BudgetStanding
from fiscus.budgets.model import Budget
from fiscus.budgets.rules import ThrottleShare
from fiscus.costs.model import CostFlag
from fiscus.errors import ERROR_BY_CODE, FiscusError, InternalError, rebuild_error
from fiscus.ledger.answers import (
    BudgetBatchDecided,
    QuotaBatchDecided,
    RecordedBatch,
)
from fiscus.ledger.port import StoreFull, StoreUnavailable
from fiscus.ledger.recorded import Charged, CostRecorded
from fiscus.periods import Period
from fiscus.quotas.answers import QuotasDecided, QuotaStanding
from fiscus.quotas.model import Quota

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


RemoteOutcome = (
    EncodedAnswer
    | BudgetsDecided
    | BudgetBatchDecided
    | QuotasDecided
    | QuotaBatchDecided
    | CostRecorded
    | RecordedBatch
    | FiscusError
)
"""What became of a command."""


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


FAILURES: Final = (StoreUnavailable, StoreFull, GroupOutcomeUnknown)
"""What is sent as its place here; any other is as the first."""


class AnswerPart(Struct, frozen=True, array_like=True, tag=1):
    """An answer among those that stand one after the other."""

    size: int
    allowed: bool


class EncodedBudgets(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A `BudgetsDecided`, what was matched by its number."""

    matched: int
    allowed: bool
    deciding: int
    throttle: ThrottleShare | None
    fits_at: datetime | None
    standings: list[BudgetStanding]
    held_back: bool
    throttled: bool = False


class EncodedQuotas(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """A `QuotasDecided`, what was matched by its number."""

    matched: int
    allowed: bool
    deciding: int
    fits_at: datetime | None
    standings: list[QuotaStanding]


class EncodedCost(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """A `CostRecorded`, what was matched by its number."""

    matched: int
    charged: list[Charged]
    currency: str
    flags: list[CostFlag]


class EncodedCheckBatch(Struct, frozen=True, array_like=True, tag=6):
    results: list[EncodedBudgets]


class EncodedQuotaBatch(Struct, frozen=True, array_like=True, tag=7):
    results: list[EncodedQuotas]


class EncodedRecordBatch(Struct, frozen=True, array_like=True, tag=8):
    results: list[EncodedCost]


EncodedOutcome = (
    EncodedError
    | EncodedBudgets
    | EncodedQuotas
    | EncodedCost
    | EncodedCheckBatch
    | EncodedQuotaBatch
    | EncodedRecordBatch
)
"""What became of a command, unless that is an answer."""


class EncodedGroup(Struct, frozen=True, array_like=True):
    """A message, without its answers."""

    number: int
    outcomes: list[AnswerPart | EncodedOutcome]
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
    """Which of `FAILURES`, when it is `unavailable`."""

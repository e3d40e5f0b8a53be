"""One group of commands: plan, load, decide in order, write, commit.

The group starts again when it turns out to need more than it planned for (a definition that
changed, a reservation that became due) or when another process was first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from fiscus.budgets.answers import BudgetsDecided
from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer
from fiscus.budgets.model import BalanceKey, status_at
from fiscus.costs.calls import RecordAnswer
from fiscus.costs.fx import Rates
from fiscus.errors import FiscusError, InternalError, ServiceUnavailable, ValidationError
from fiscus.groups import MaybeDone
from fiscus.idempotency import Idempotency, IdempotencyKey, require_same_body
from fiscus.ledger.answers import (
    BudgetBatchDecided,
    Decided,
    QuotaBatchDecided,
    RecordedBatch,
    in_words,
)
from fiscus.ledger.charges import (
    apply_record,
    apply_settle,
    plan_record,
    plan_record_batch,
)
from fiscus.ledger.checks import (
    apply_check,
    denied_after,
    keep_throttle_credits,
    look_again,
    plan_check,
    plan_check_batch,
    throttled_balances,
)
from fiscus.ledger.commands import (
    ANSWERS,
    Answer,
    Check,
    CheckBatch,
    Command,
    Consume,
    ConsumeBatch,
    Expire,
    Extend,
    GiveBack,
    Outcome,
    Record,
    RecordBatch,
    Release,
    Settle,
)
from fiscus.ledger.definitions import DefinitionCache, TenantDefinitions
from fiscus.ledger.port import (
    GroupConflict,
    GroupRejected,
    LedgerStore,
    LedgerTransaction,
    Needs,
    RowsLocked,
    StoreUnavailable,
)
from fiscus.ledger.quotas import (
    apply_consume,
    apply_give_back,
    plan_consume,
    plan_consume_batch,
    plan_give_back,
)
from fiscus.ledger.recorded import CostRecorded
from fiscus.ledger.reservations import (
    apply_expire,
    apply_extend,
    apply_release,
    plan_on_reservation,
)
from fiscus.ledger.workspace import MoreNeeded, Workspace
from fiscus.logs import get_logger
from fiscus.wire import ItemError, decode, encode, item_error

log = get_logger(__name__)

MAX_ATTEMPTS: Final = 20
MOST_LOCKED: Final = 8
"""So many commands of a group are found to need locked rows before the rest is refused unasked: the
others of the ledger's callers wait meanwhile."""
MOST_LOCKED_OF_TENANT: Final = 3
"""As `MOST_LOCKED`, of one tenant, whose rest is refused."""
MAX_KNOWN_SERIES: Final = 500_000
KEEP_ENDED_QUOTAS: Final = timedelta(days=1)
"""How far a clock may go back and still meet the quotas of its time."""


class Handler(NamedTuple):
    """What is done with one type of command."""

    plan: Callable[[Workspace, Any], None]
    """Adds what it will read to the group's needs."""
    apply: Callable[[Workspace, Any], Decided]
    """Does it; may raise `MoreNeeded`, or a `FiscusError`, after which it is undone."""


class GroupRunner:
    """Decides groups against one store. Used by one thread at a time."""

    def __init__(
        self,
        store: LedgerStore,
        rates: Rates,
        definitions: DefinitionCache,
        on_refreshed: Callable[[str, TenantDefinitions], None] = lambda _id, _definitions: None,
    ) -> None:
        """`on_refreshed` is told of each tenant whose definitions were read again."""
        self.definitions = definitions
        self._on_refreshed = on_refreshed
        self._store = store
        self._rates = rates
        self._known_series: set[str] = set()

    def run(self, commands: Sequence[Command]) -> list[Outcome]:
        """The outcomes, in order, once they are durable.

        Raises `StoreUnavailable` when the store failed; then nothing of the group is promised.
        """
        return [
            in_words(command, decided)
            for command, decided in zip(commands, self.decide(commands), strict=True)
        ]

    def decide(
        self, commands: Sequence[Command], *, patient: bool = True
    ) -> list[Decided | FiscusError]:
        """What the commands came to, in order, once it is durable; `in_words` says it.

        Raises `StoreUnavailable` when the store failed, and `RowsLocked` when it is not `patient`
        and rows are locked; then nothing of the group is promised.
        """
        needs = Needs(tenants={command.tenant_id for command in commands})
        for _ in range(MAX_ATTEMPTS):
            workspace = Workspace(self.definitions, self._rates, needs, self._known_series)
            for command in commands:
                _plan(workspace, command)
            transaction = self._store.begin(needs.tenants, patient=patient)
            try:
                outcomes = self._attempt(transaction, workspace, commands)
            except RowsLocked:
                transaction.rollback()
                if not patient:
                    raise
                return self._around_locked(commands)
            except (MoreNeeded, GroupConflict):
                transaction.rollback()
                continue
            except GroupRejected:
                transaction.rollback()
                log.exception("group_rejected", commands=len(commands))
                return self._each_alone(commands, InternalError("The store refused the operation"))
            except BaseException:
                transaction.rollback()
                raise
            self._remember(workspace)
            return outcomes
        return self._each_alone(
            commands,
            ServiceUnavailable(
                "Too much contention on the same rows",
                suggested_action="Try again with the same idempotency key.",
                retry_after_seconds=1,
            ),
        )

    def _each_alone(
        self, commands: Sequence[Command], alone: FiscusError
    ) -> list[Decided | FiscusError]:
        """Decide each command in a group of its own, so that a bad one fails no other."""
        if len(commands) == 1:
            return [alone]
        outcomes: list[Decided | FiscusError] = []
        for command in commands:
            with _others_done(outcomes):
                outcomes += self.decide([command])
        return outcomes

    def _around_locked(self, commands: Sequence[Command]) -> list[Decided | FiscusError]:
        """Decide each command in a group of its own, but those whose rows are locked.

        Whoever locked them may keep them for long: nobody else is to wait for that.
        """
        outcomes: list[Decided | FiscusError] = []
        locked = Counter[str]()
        for command in commands:
            tenant_id = command.tenant_id
            if locked[tenant_id] < MOST_LOCKED_OF_TENANT and locked.total() < MOST_LOCKED:
                try:
                    with _others_done(outcomes):
                        outcomes += self.decide([command], patient=False)
                    continue
                except RowsLocked:
                    locked[tenant_id] += 1
            outcomes.append(
                ServiceUnavailable(
                    "Rows that are needed are locked in the database",
                    suggested_action="Try again with the same idempotency key.",
                    retry_after_seconds=1,
                )
            )
        log.warning("rows_locked", commands=len(commands), tenants=sorted(locked))
        return outcomes

    def _attempt(
        self, transaction: LedgerTransaction, workspace: Workspace, commands: Sequence[Command]
    ) -> list[Decided | FiscusError]:
        loaded = transaction.load(workspace.needs)
        self._require_fresh(transaction, loaded.versions, commands)
        workspace.open(transaction, loaded)
        outcomes: list[Decided | FiscusError] = []
        more_needed: MoreNeeded | None = None
        for command in commands:
            try:
                outcomes.append(_run(workspace, command))
            except MoreNeeded as error:
                # the others say what they need too, so that the group starts again but once
                more_needed = error
        if more_needed is not None:
            raise more_needed
        workspace.add_up_records()
        transaction.write(workspace.changes)
        transaction.commit()
        return outcomes

    def _require_fresh(
        self,
        transaction: LedgerTransaction,
        versions: dict[str, int],
        commands: Sequence[Command],
    ) -> None:
        """Read again what changed in the definitions; the plan then has to be made anew."""
        earliest = min([command.now for command in commands])
        behind = [
            tenant_id
            for tenant_id, version in versions.items()
            if self.definitions.is_behind(tenant_id, version, earliest)
        ]
        if behind:
            since = earliest - KEEP_ENDED_QUOTAS
            for tenant_id in behind:
                known = self.definitions.reaching_back_to(tenant_id, earliest)
                known.apply(transaction.definitions(tenant_id, known.version, since), since)
                self._on_refreshed(tenant_id, known)
            raise MoreNeeded

    def _remember(self, workspace: Workspace) -> None:
        """Cache what this group made sure is stored and never changes."""
        if len(self._known_series) > MAX_KNOWN_SERIES:
            self._known_series.clear()
        self._known_series.update(workspace.changes.series)
        for (budget_id, scope_id), (tenant_id, anchor) in workspace.known_anchors():
            prepared = self.definitions.get(tenant_id).budgets.get(budget_id)
            if prepared is not None:
                prepared.anchors[scope_id] = anchor


@contextmanager
def _others_done(outcomes: Sequence[Decided | FiscusError]) -> Generator[None]:
    """A store that fails now does not undo what is durable already of the same group."""
    try:
        yield
    except StoreUnavailable as error:
        if not outcomes:
            raise
        raise MaybeDone(f"a part of the group is done: {error}") from error


def _plan(workspace: Workspace, command: Command) -> None:
    if command.idempotency is not None:
        workspace.needs.idempotency.add(command.idempotency.at)
    HANDLERS[type(command)].plan(workspace, command)


def _run(workspace: Workspace, command: Command) -> Decided | FiscusError:
    """What one command comes to; an error leaves the workspace as it was."""
    mark = workspace.mark()
    try:
        return _do(workspace, command)
    except FiscusError as error:
        workspace.undo(mark)
        return error
    except MoreNeeded:
        raise
    except Exception:
        workspace.undo(mark)
        log.exception("command_failed", command=type(command).__name__)
        return InternalError("The command failed; it has changed nothing.")


def _do(workspace: Workspace, command: Command) -> Any:
    """What a command comes to, as `HANDLERS` has it, or what it was answered before.

    An error leaves changes behind.
    """
    idempotency = command.idempotency
    if idempotency is None:
        return HANDLERS[type(command)].apply(workspace, command)
    stored = workspace.stored_answer(idempotency, command.now)
    if stored is None:
        decided = HANDLERS[type(command)].apply(workspace, command)
        answer = in_words(command, decided)
        workspace.keep_answer(idempotency, encode(answer))
        workspace.decided[idempotency.at] = decided
        return answer
    require_same_body(idempotency, stored)
    return _replay(workspace, command, stored.answer)


def _apply_check_batch(workspace: Workspace, command: CheckBatch) -> BudgetBatchDecided:
    """Decide in order; an item in error rejects the batch, a denied one may."""
    mark = workspace.mark()
    earlier: set[IdempotencyKey] = set()
    if command.all_or_nothing:
        earlier = {once.at for once in _keys(command) if workspace.stored_answer(once, command.now)}
    results: list[BudgetsDecided | CheckAnswer] = _each(workspace, command.checks)
    decided = BudgetBatchDecided(results)
    if command.all_or_nothing and not decided.allowed:
        made = {once.at: workspace.decided[once.at] for once in _keys(command, earlier)}
        results = [
            result if check.idempotency is None else made.get(check.idempotency.at, result)
            for check, result in zip(command.checks, results, strict=True)
        ]
        return BudgetBatchDecided(_with_nothing_held(workspace, mark, command.checks, results))
    return decided


def _keys(command: CheckBatch, but: Collection[IdempotencyKey] = ()) -> list[Idempotency]:
    """The idempotency keys of a batch's items."""
    keys = [check.idempotency for check in command.checks]
    return [once for once in keys if once is not None and once.at not in but]


def _with_nothing_held(
    workspace: Workspace,
    mark: int,
    checks: Sequence[Check],
    results: Sequence[BudgetsDecided | CheckAnswer],
) -> list[BudgetsDecided | CheckAnswer]:
    """What the checks of a batch come to that reserves nothing, since one of them is denied.

    An answer among the results was given before the batch, and stands, with its reservation.
    """
    throttled = throttled_balances(workspace, results)
    workspace.undo(mark)
    keep_throttle_credits(workspace, throttled)
    before: dict[BalanceKey, Decimal] = {}
    again: dict[int, BudgetsDecided | CheckAnswer] = {}
    """By the `id` of the result, as a key that comes twice has but one."""
    for check, result in zip(checks, results, strict=True):
        if id(result) in again or isinstance(result, CheckAnswer):
            again[id(result)] = again.get(id(result), result)
        elif result.allowed:
            again[id(result)] = look_again(workspace, check, before)
        else:
            again[id(result)] = denied_after(workspace, check, result, before)
    return [again[id(one)] for one in results]


def _apply_consume_batch(workspace: Workspace, command: ConsumeBatch) -> QuotaBatchDecided:
    """Decide in order, each for itself; an item in error rejects the batch."""
    return QuotaBatchDecided(_each(workspace, command.checks))


def _each(workspace: Workspace, checks: Sequence[Check | Consume]) -> list[Any]:
    """What each of a batch's checks comes to. An error of one is raised with its place."""
    results: list[Any] = []
    try:
        for check in checks:
            results.append(_do(workspace, check))  # noqa: PERF401 - how many there are is its place
    except MoreNeeded:
        # the others say what they need too, or the group would start again for each
        for check in checks[len(results) + 1 :]:
            with suppress(MoreNeeded, FiscusError):
                _do(workspace, check)
        raise
    except ValidationError as error:
        raise error.within(f"checks[{len(results)}]") from None
    return results


def _apply_record_batch(workspace: Workspace, command: RecordBatch) -> RecordedBatch:
    results: list[CostRecorded | RecordAnswer | ItemError] = []
    more_needed: MoreNeeded | None = None
    for record in command.records:  # what is likely is asked first: a "no" takes longer
        if isinstance(record, Record):
            try:
                outcome = _run(workspace, record)
            except MoreNeeded as error:
                more_needed = error  # and go on, as in `_each`
                continue
            if isinstance(outcome, (CostRecorded, RecordAnswer)):
                results.append(outcome)
            else:
                assert isinstance(outcome, FiscusError)
                results.append(item_error(outcome))
        else:
            results.append(record.error)
    if more_needed is not None:
        raise more_needed
    return RecordedBatch(results)


def _replay(workspace: Workspace, command: Command, answer: bytes) -> Answer:
    """The stored answer; a check's shows its reservation as it is now."""
    stored = decode(answer, ANSWERS[type(command)])
    if isinstance(stored, CheckAnswer):
        return _as_it_is_now(workspace, command, stored)
    if isinstance(stored, CheckBatchAnswer):
        results = [_as_it_is_now(workspace, command, one) for one in stored.results]
        return replace(stored, results=results)
    return stored


def _as_it_is_now(workspace: Workspace, command: Command, answer: CheckAnswer) -> CheckAnswer:
    if answer.reservation_id is None:
        return answer
    reservation = workspace.reservation(answer.reservation_id, command.tenant_id)
    if reservation is None:
        return answer
    return replace(
        answer,
        reservation_status=status_at(reservation.status, reservation.expires_at, command.now),
        expires_at=reservation.expires_at,
    )


def _plan_nothing(_workspace: Workspace, _command: Expire) -> None:
    """What is due is found when it is looked for."""


# Looked up by type: asking for one type after the other takes longer than some commands do.
HANDLERS: Final[dict[type[Command], Handler]] = {
    Check: Handler(plan_check, apply_check),
    CheckBatch: Handler(plan_check_batch, _apply_check_batch),
    Record: Handler(plan_record, apply_record),
    RecordBatch: Handler(plan_record_batch, _apply_record_batch),
    Settle: Handler(plan_on_reservation, apply_settle),
    Release: Handler(plan_on_reservation, apply_release),
    Extend: Handler(plan_on_reservation, apply_extend),
    Expire: Handler(_plan_nothing, apply_expire),
    Consume: Handler(plan_consume, apply_consume),
    ConsumeBatch: Handler(plan_consume_batch, _apply_consume_batch),
    GiveBack: Handler(plan_give_back, apply_give_back),
}
"""What is done with each command."""

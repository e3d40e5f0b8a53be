"""How each command is planned and done within a group, those of batches one after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from fiscus.budgets.answers import BudgetsDecided
from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer
from fiscus.budgets.model import status_at
from fiscus.costs.calls import RecordAnswer
from fiscus.errors import FiscusError, InternalError, ValidationError
from fiscus.idempotency import Idempotency, IdempotencyKey, require_same_body
from fiscus.ledger.answers import (
    BudgetBatchDecided,
    Decided,
    QuotaBatchDecided,
    RecordedBatch,
    to_answer,
)
from fiscus.ledger.charges import (
    apply_record,
    apply_settle,
    plan_record,
    plan_record_batch,
)
from fiscus.ledger.checks import (
    apply_check,
    keep_throttle_credits,
    plan_check,
    plan_check_batch,
    throttled_balances,
    with_nothing_held,
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
    Record,
    RecordBatch,
    Release,
    ReleaseConsumption,
    Settle,
)
from fiscus.ledger.port import TransactionFailed
from fiscus.ledger.quotas import (
    apply_consume,
    apply_release_consumption,
    plan_consume,
    plan_consume_batch,
    plan_release_consumption,
)
from fiscus.ledger.recorded import CostRecorded
from fiscus.ledger.reservations import (
    apply_expire,
    apply_extend,
    apply_release,
    plan_on_reservation,
)
from fiscus.ledger.restarts import MoreNeeded
from fiscus.ledger.workspace import Workspace
from fiscus.match_limits import limit_for_records
from fiscus.runtime.logs import get_logger
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode
from fiscus.wire.items import ItemError, item_error

log = get_logger(__name__)


class Handler(NamedTuple):
    """What is done with one type of command."""

    plan: Callable[[Workspace, Any], object]
    """Adds what it will read to the group's needs."""
    apply: Callable[[Workspace, Any], Decided]
    """Does it; may raise `MoreNeeded`, or a `FiscusError`, after which it is undone."""


def plan(workspace: Workspace, command: Command) -> None:
    """Add what a command will read to the group's needs."""
    if command.idempotency is not None:
        workspace.needs.idempotency.add(command.idempotency.at)
    HANDLERS[type(command)].plan(workspace, command)


def run(workspace: Workspace, command: Command) -> Decided | FiscusError:
    """What one command comes to; an error leaves the workspace as it was.

    Raises what is the whole group's: `MoreNeeded` and `TransactionFailed`.
    """
    mark = workspace.mark()
    try:
        return _do(workspace, command)
    except FiscusError as error:
        workspace.undo(mark)
        return error
    except (MoreNeeded, TransactionFailed):
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
        answer = to_answer(command, decided)
        workspace.keep_answer(idempotency, encode(answer))
        workspace.decided[idempotency.at] = decided
        return answer
    require_same_body(idempotency, stored)
    return _replay(workspace, command, stored.answer)


def _apply_check_batch(workspace: Workspace, command: CheckBatch) -> BudgetBatchDecided:
    """Decide in order; an item in error rejects the batch, a denied one may."""
    workspace.require_planned(command)
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
    undone: dict[int, tuple[Check, BudgetsDecided]] = {}
    """By the `id` of the result, as a key that comes twice has but one."""
    for check, result in zip(checks, results, strict=True):
        if isinstance(result, BudgetsDecided):
            undone.setdefault(id(result), (check, result))
    again = with_nothing_held(workspace, list(undone.values()))
    instead = dict(zip(undone, again, strict=True))
    return [instead.get(id(one), one) for one in results]


def _apply_consume_batch(workspace: Workspace, command: ConsumeBatch) -> QuotaBatchDecided:
    """Decide in order, each for itself; an item in error rejects the batch."""
    workspace.require_planned(command)
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
    workspace.require_planned(command)
    match_limit = limit_for_records(len(command.records))
    results: list[CostRecorded | RecordAnswer | ItemError] = []
    more_needed: MoreNeeded | None = None
    for record in command.records:  # what is likely is asked first: a "no" takes longer
        if isinstance(record, Record):
            try:
                outcome = run(workspace, record)
            except MoreNeeded as error:
                more_needed = error  # and go on, as in `_each`
                continue
            if not isinstance(outcome, CostRecorded):
                if isinstance(outcome, RecordAnswer):
                    # of a reservation, as nobody knew by its id
                    match_limit.add(len(outcome.budgets), len(results) + 1)
                else:
                    assert isinstance(outcome, FiscusError)
                    outcome = item_error(outcome)
            results.append(outcome)
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
        return replace(stored, results=_all_as_they_are_now(workspace, command, stored.results))
    return stored


def _all_as_they_are_now(
    workspace: Workspace, command: Command, answers: Sequence[CheckAnswer]
) -> list[CheckAnswer]:
    now: list[CheckAnswer] = []
    more_needed: MoreNeeded | None = None
    for answer in answers:
        try:
            now.append(_as_it_is_now(workspace, command, answer))
        except MoreNeeded as error:
            more_needed = error  # and go on, as in `_each`
    if more_needed is not None:
        raise more_needed
    return now


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
    ReleaseConsumption: Handler(plan_release_consumption, apply_release_consumption),
}
"""What is done with each command."""

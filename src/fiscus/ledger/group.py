"""One group of commands: plan, load, decide in order, write, commit.

The group starts again when it turns out to need more than it planned for (a definition that
changed, a reservation that became due) or when another process was first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from fiscus.batching.thread_batcher import GroupOutcomeUnknown
from fiscus.costs.fx import Rates
from fiscus.errors import FiscusError, InternalError, ServiceUnavailable
from fiscus.ledger import handling
from fiscus.ledger.answers import Decided, to_answer
from fiscus.ledger.commands import Command, Expire, Outcome
from fiscus.ledger.definitions import DefinitionCache, TenantDefinitions
from fiscus.ledger.port import (
    MAX_DUE,
    GroupConflict,
    GroupRejected,
    LedgerStore,
    LedgerTransaction,
    Needs,
    NoPartition,
    RowsLocked,
    StoreUnavailable,
    TransactionFailed,
)
from fiscus.ledger.restarts import MoreDue, MoreNeeded
from fiscus.ledger.workspace import Workspace
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

MAX_ATTEMPTS: Final = 20
MAX_LOCKED: Final = 8
"""So many commands of a group are found to need locked rows before the rest is refused unasked: the
others of the ledger's callers wait meanwhile."""
MAX_LOCKED_OF_TENANT: Final = 3
"""As `MAX_LOCKED`, of one tenant, whose rest is refused."""
MAX_KNOWN_SERIES: Final = 500_000
KEEP_ENDED_QUOTAS: Final = timedelta(days=1)
"""How far a clock may go back before the quotas of its time are read again."""


class GroupRunner:
    """Decides groups against one store. Used by one thread at a time."""

    def __init__(
        self,
        store: LedgerStore,
        rates: Rates,
        definitions: DefinitionCache,
        on_refreshed: Callable[[str, TenantDefinitions], None] = lambda _id, _definitions: None,
    ) -> None:
        """`on_refreshed` is told of each tenant of whose budgets any were read."""
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
            to_answer(command, decided)
            for command, decided in zip(commands, self.decide(commands), strict=True)
        ]

    def decide(
        self, commands: Sequence[Command], *, patient: bool = True
    ) -> list[Decided | FiscusError]:
        """What the commands came to, in order, once it is durable; `to_answer` says it.

        Raises `StoreUnavailable` when the store failed, and `RowsLocked` when it is not `patient`
        and rows are locked; then nothing of the group is promised.
        """
        try:
            return self._decide(commands, patient=patient)
        except RowsLocked:
            if not patient:
                raise
            return self._around_locked(commands)

    def _decide(self, commands: Sequence[Command], *, patient: bool) -> list[Decided | FiscusError]:
        """As `decide`, but for rows that are locked, which raise in any case."""
        needs = Needs(tenants={command.tenant_id for command in commands})
        self.definitions.lookups.count += len(needs.tenants)
        why_not_yet = _contended()
        for _ in range(MAX_ATTEMPTS):
            workspace = Workspace(self.definitions, self._rates, needs, self._known_series)
            for command in commands:
                handling.plan(workspace, command)
            transaction = self._store.begin(needs.tenants, patient=patient)
            try:
                outcomes = self._attempt(transaction, workspace, commands)
            except RowsLocked:
                transaction.rollback()
                raise
            except MoreDue as error:
                transaction.rollback()
                # what this frees stays freed, however the group ends
                expire = Expire(tenant_id=error.tenant_id, now=error.now, most=MAX_DUE)
                (freed,) = self._decide([expire], patient=patient)
                if isinstance(freed, FiscusError):
                    return self._each_alone(commands, freed)
                why_not_yet = _still_freeing()
                continue
            except (MoreNeeded, GroupConflict):
                transaction.rollback()
                why_not_yet = _contended()
                continue
            except NoPartition as error:
                transaction.rollback()
                log.error("no_partition", commands=len(commands), reason=str(error))
                return self._each_alone(commands, _no_partition())
            except GroupRejected:
                transaction.rollback()
                log.exception("group_rejected", commands=len(commands))
                return self._each_alone(commands, InternalError("The store refused the operation"))
            except BaseException:
                transaction.rollback()
                raise
            self._remember(workspace)
            return outcomes
        return self._each_alone(commands, why_not_yet)

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
            if locked[tenant_id] < MAX_LOCKED_OF_TENANT and locked.total() < MAX_LOCKED:
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
        try:
            outcomes = self._written(transaction, workspace, commands)
        except (MoreNeeded, TransactionFailed):
            raise
        except Exception as error:
            # nothing is committed, and whose fault it is comes out when each is done alone
            raise GroupRejected(f"{type(error).__name__}: {error}") from error
        transaction.commit()
        return outcomes

    def _written(
        self, transaction: LedgerTransaction, workspace: Workspace, commands: Sequence[Command]
    ) -> list[Decided | FiscusError]:
        loaded = transaction.load(workspace.needs)
        self._require_fresh(transaction, loaded.versions, commands)
        workspace.open(transaction, loaded)
        outcomes: list[Decided | FiscusError] = []
        more_needed: MoreNeeded | None = None
        for command in commands:
            try:
                outcomes.append(handling.run(workspace, command))
            except MoreNeeded as error:
                # the others say what they need too, so that the group starts again but once
                more_needed = error
        if more_needed is not None:
            raise more_needed
        workspace.add_up_records()
        transaction.write(workspace.changes)
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
            self.definitions.lookups.misses += len(behind)
            since = earliest - KEEP_ENDED_QUOTAS
            for tenant_id in behind:
                known = self.definitions.reaching_back_to(tenant_id, earliest)
                changed = transaction.definitions(tenant_id, known.version, since)
                is_news = not known.version or changed.budgets or changed.deleted
                known.apply(changed, since)
                if is_news:
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
                prepared.know_anchor(scope_id, anchor)


@contextmanager
def _others_done(outcomes: Sequence[Decided | FiscusError]) -> Generator[None]:
    """A store that fails now does not undo what is durable already of the same group."""
    try:
        yield
    except StoreUnavailable as error:
        if not outcomes:
            raise
        raise GroupOutcomeUnknown(f"a part of the group is done: {error}") from error


def _contended() -> ServiceUnavailable:
    return ServiceUnavailable(
        "Too much contention on the same rows",
        suggested_action="Try again with the same idempotency key.",
        retry_after_seconds=1,
    )


def _still_freeing() -> ServiceUnavailable:
    return ServiceUnavailable(
        "Very many reservations are due, and what they hold is still being given back",
        suggested_action="Try again with the same idempotency key.",
        retry_after_seconds=1,
    )


def _no_partition() -> ServiceUnavailable:
    return ServiceUnavailable(
        "The database has no partition for what is to be recorded",
        suggested_action="Attach the partitions that were detached, that of the month or the "
        "default one, as `fiscus doctor` says, and try again with the same idempotency key.",
        retry_after_seconds=1,
    )

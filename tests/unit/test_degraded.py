"""Decisions without the store: only what every matching budget allows, and only when journaled."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from fiscus.batching.async_batcher import AsyncBatcher
from fiscus.batching.thread_batcher import FutureSink, GroupLimits
from fiscus.budgets.calls import CheckAnswer, CheckBatchAnswer
from fiscus.budgets.model import Budget
from fiscus.clock import ManualClock
from fiscus.errors import ServiceUnavailable
from fiscus.ids import uuid7
from fiscus.ledger import definitions
from fiscus.ledger.commands import Check, CheckBatch, Command, Expire, Outcome
from fiscus.ledger.definitions import DefinitionCache, TenantDefinitions
from fiscus.ledger.degraded import DegradedDecisions, LastKnown
from fiscus.ledger.loop import Ledger
from fiscus.ledger.port import Definitions, StoreUnavailable
from fiscus.ledger.remote.fallbacks import FallbackPublisher, FallbackReplica
from fiscus.ledger.remote.results import Fallback
from fiscus.operations import Operation
from fiscus.runtime.cache_stats import CacheStats
from fiscus.tenants import TenantSettings
from tests.unit.budgets_for_rules import NOW, make_budget


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "degraded.jsonl"


def check(**fields: Any) -> Check:
    operation = Operation(**{"tenant_id": "t", "resource_type": "llm", "project_id": "p", **fields})
    return Check(
        operation=operation,
        operation_id="op",
        estimate=1,  # type: ignore[arg-type]
        currency=None,
        reserve=True,
        ttl_seconds=60,
        reservation_id=uuid7(),
        now=NOW,
    )


def read(*budgets: Budget) -> Definitions:
    return Definitions(1, TenantSettings(), list(budgets), [])


def in_process(budgets: tuple[Budget, ...]) -> LastKnown:
    cache = DefinitionCache()
    cache.get("t").apply(read(*budgets))
    return cache


def tell(fallbacks: FallbackReplica, *budgets: Budget) -> None:
    """As a ledger's process does that has read these and nothing before."""
    known, publisher = TenantDefinitions(), FallbackPublisher()
    known.apply(read(*budgets))
    publisher.refreshed("t", known)
    fallbacks.update(publisher.next())


def remote(budgets: tuple[Budget, ...]) -> LastKnown:
    fallbacks = FallbackReplica()
    tell(fallbacks, *budgets)
    return fallbacks


def decide(
    journal: Path, *budgets: Budget, command: Check | CheckBatch | Expire | None = None
) -> Outcome:
    """What is decided, which is the same wherever the ledger is."""
    outcomes: list[Outcome] = []
    for known_to in (remote, in_process):
        journal.unlink(missing_ok=True)
        degraded = DegradedDecisions(known_to(budgets), journal)
        outcomes.append(degraded.decide(command or check()))
    first, second = outcomes
    assert type(first) is type(second)
    return first


def allowed(outcome: Outcome) -> bool:
    if isinstance(outcome, CheckAnswer):
        assert outcome.allowed
        assert outcome.degraded
        assert outcome.reservation_id is None
        return True
    assert isinstance(outcome, ServiceUnavailable)
    assert outcome.retry_after_seconds == 1
    return False


ALLOW = {"on_store_failure": "allow"}


@contextlib.contextmanager
def files_hold(most_bytes: int) -> Iterator[None]:
    """As on a disk that is full by then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_every_matching_budget_allows_passes_and_is_written_down(journal: Path) -> None:
    assert allowed(decide(journal, make_budget("a", **ALLOW), make_budget("b", **ALLOW)))
    (line,) = journal.read_text().splitlines()
    entry = json.loads(line)
    assert entry["tenant_id"] == "t"
    assert entry["project_id"] == "p"
    assert entry["operation_id"] == "op"
    assert entry["estimated_cost"] == "1"
    assert entry["at"] == "2026-03-10T12:00:00Z"


@pytest.mark.parametrize(
    "budgets",
    [
        [],
        [make_budget("a")],
        [make_budget("a", **ALLOW), make_budget("b")],
        [make_budget("a", **ALLOW, frozen=True)],
        [make_budget("a", **ALLOW, allocated_to_id="q")],
        [make_budget("a", **ALLOW, start_date="2026-04-01")],
    ],
    ids=["none", "deny", "one denies", "frozen", "not met", "not begun"],
)
def test_anything_else_is_unavailable_and_leaves_no_line(
    journal: Path, budgets: list[Budget]
) -> None:
    assert not allowed(decide(journal, *budgets))
    assert not journal.exists()


def test_a_budget_that_is_not_met_does_not_stand_in_the_way(journal: Path) -> None:
    other = make_budget("b", allocated_to_id="q")
    assert allowed(decide(journal, make_budget("a", **ALLOW), other))


def test_a_budget_that_only_watches_stands_in_nobodys_way(journal: Path) -> None:
    watching = make_budget("b", shadow=True, frozen=True)
    assert allowed(decide(journal, make_budget("a", **ALLOW), watching))
    assert allowed(decide(journal, watching))


def test_a_batch_passes_when_all_of_it_may(journal: Path) -> None:
    def batch(*checks: Check) -> Outcome:
        command = CheckBatch(tenant_id="t", checks=list(checks), all_or_nothing=False, now=NOW)
        budgets = make_budget("a", **ALLOW), make_budget("b", allocated_to_id="q")
        return decide(journal, *budgets, command=command)

    assert not allowed(batch(check(), check(project_id="q")))
    assert not journal.exists()
    answer = batch(check(), check(user_id="u"))
    assert isinstance(answer, CheckBatchAnswer)
    assert answer.allowed
    assert all(allowed(one) for one in answer.results)
    assert len(journal.read_text().splitlines()) == 2


def test_only_checks_can_pass(journal: Path) -> None:
    command = Expire(tenant_id="t", now=NOW)
    assert not allowed(decide(journal, make_budget("a", **ALLOW), command=command))


def test_a_tenant_whose_definitions_are_not_known_is_refused(journal: Path) -> None:
    cache = DefinitionCache()
    assert not allowed(DegradedDecisions(cache, journal).decide(check()))
    cache.get("t")  # asked for, never read from the store
    assert not allowed(DegradedDecisions(cache, journal).decide(check()))


def test_what_cannot_be_journaled_is_refused(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing" / "degraded.jsonl"
    assert not allowed(decide(nowhere, make_budget("a", **ALLOW)))


def test_what_a_full_disk_cut_off_spoils_no_line_after_it(journal: Path) -> None:
    degraded = DegradedDecisions(in_process((make_budget("a", **ALLOW),)), journal)
    assert allowed(degraded.decide(check()))
    whole_bytes = journal.stat().st_size
    with files_hold(whole_bytes + 50):
        assert not allowed(degraded.decide(check()))
        assert not allowed(degraded.decide(check()))
    assert all(map(allowed, degraded.decide_all([check(), check()])))
    assert allowed(degraded.decide(check()))
    first, cut_off, *later = journal.read_bytes().splitlines()
    assert len(cut_off) == 50
    assert len([json.loads(one) for one in (first, *later)]) == 4


def test_those_who_are_answered_at_once_are_journaled_at_once(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DefinitionCache()
    budgets = [make_budget("a", **ALLOW), make_budget("b", allocated_to_id="q")]
    cache.get("t").apply(Definitions(1, TenantSettings(), budgets, []))
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    commands = [check(), check(project_id="q"), Expire(tenant_id="t", now=NOW), check(user_id="u")]
    outcomes = DegradedDecisions(cache, journal).decide_all(commands)
    assert [allowed(one) for one in outcomes] == [True, False, False, True]
    assert [json.loads(one)["user_id"] for one in journal.read_text().splitlines()] == [None, "u"]
    assert len(synced) == 1


def ledger_that_fails(journal: Path, run: Callable[..., Any]) -> Ledger:
    degraded = DegradedDecisions(in_process((make_budget("a", **ALLOW),)), journal)
    return Ledger(run, ManualClock(NOW), degraded, GroupLimits(), CacheStats())


def unreachable(*_: object) -> Any:
    raise StoreUnavailable("The database cannot be reached")


def test_a_group_that_cannot_be_done_is_journaled_at_once(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, waiting = threading.Event(), threading.Event()

    def run(_: object) -> Any:
        begun.set()
        assert waiting.wait(30)
        unreachable()

    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    ledger = ledger_that_fails(journal, run)
    futures: list[Future[Outcome]] = [Future() for _ in range(4)]
    for future in futures:
        ledger.submit(check(), FutureSink(), future)
        ledger.wake()
        assert begun.wait(30)  # the first is a group by itself
    waiting.set()
    assert all(allowed(future.result(30)) for future in futures)
    ledger.close()
    assert len(journal.read_text().splitlines()) == 4
    assert len(synced) == 2


def test_so_is_one_of_an_event_loop(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check_thrice() -> list[Outcome]:
        transport: Any = SimpleNamespace(ask_all=unreachable)
        groups = AsyncBatcher[Command, Outcome](transport, ledger, asyncio.get_running_loop())
        return await asyncio.gather(*[groups.execute(check()) for _ in range(3)])

    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    ledger = ledger_that_fails(journal, unreachable)
    assert all(map(allowed, asyncio.run(check_thrice())))
    ledger.close()
    assert len(journal.read_text().splitlines()) == 3
    assert len(synced) == 1


def test_a_floating_budget_is_heard_too(journal: Path) -> None:
    denying = make_budget("b", period_type="rolling")
    assert not allowed(decide(journal, make_budget("a", **ALLOW), denying))
    allowing = make_budget("b", period_type="rolling", **ALLOW)
    assert allowed(decide(journal, allowing))


def test_what_a_new_process_reads_replaces_what_one_before_it_told(journal: Path) -> None:
    fallbacks = FallbackReplica()
    degraded = DegradedDecisions(fallbacks, journal)
    tell(fallbacks, make_budget("a", **ALLOW))
    assert allowed(degraded.decide(check()))
    tell(fallbacks, make_budget("a"))
    assert not allowed(degraded.decide(check()))


@pytest.mark.parametrize("policies", list(itertools.permutations(["allow", "deny"])))
def test_what_was_told_last_holds_in_whatever_order_it_comes(
    journal: Path, policies: tuple[str, str]
) -> None:
    known, publisher, fallbacks = TenantDefinitions(), FallbackPublisher(), FallbackReplica()
    told: list[list[Fallback]] = []
    for policy in policies:
        known.apply(read(make_budget("a", on_store_failure=policy)))
        publisher.refreshed("t", known)
        told.append(publisher.next())
    for one in reversed(told):
        fallbacks.update(one)
    outcome = DegradedDecisions(fallbacks, journal).decide(check())
    assert allowed(outcome) is (policies[-1] == "allow")


def test_what_is_told_is_read_by_who_decides_by_it(journal: Path) -> None:
    fallbacks = FallbackReplica()
    fallbacks.update([Fallback("t", 0, Raw(b'["no budget"]'))])
    with pytest.raises(msgspec.ValidationError):
        DegradedDecisions(fallbacks, journal).decide(check())


def test_nobody_decides_by_the_half_of_a_change(journal: Path) -> None:
    cache = DefinitionCache()
    outcomes: list[Outcome] = []
    asking = threading.Thread(
        target=lambda: outcomes.append(DegradedDecisions(cache, journal).decide(check()))
    )

    class OneByOne(list[Budget]):
        def __iter__(self) -> Iterator[Budget]:
            allowing, denying = super().__iter__()
            yield allowing
            asking.start()
            asking.join(0.05)
            yield denying

    changed = read()
    changed.budgets = OneByOne([make_budget("a", **ALLOW), make_budget("b")])
    cache.get("t").apply(changed)
    asking.join()
    assert not allowed(outcomes[0])


def test_of_very_many_tenants_those_used_last_are_known(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "MAX_TENANTS", 2)
    cache = DefinitionCache()
    degraded = DegradedDecisions(cache, journal)
    cache.get("t").apply(read(make_budget("a", **ALLOW)))
    cache.get("other")
    cache.get("t")
    cache.get("another")
    assert allowed(degraded.decide(check()))
    cache.get("other")
    assert not allowed(degraded.decide(check()))

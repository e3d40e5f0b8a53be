"""What the ledger's process is told and tells comes out as it went in, to the last digit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.batching.thread_batcher import GroupOutcomeUnknown
from fiscus.budgets.answers import BudgetsDecided, BudgetStanding
from fiscus.budgets.calls import allowed_without_store
from fiscus.budgets.definitions import define as define_budget
from fiscus.budgets.matching import MatchedBudget, PreparedBudget
from fiscus.budgets.model import BudgetSpec, Converted
from fiscus.budgets.rules import ThrottleShare
from fiscus.clock import from_us
from fiscus.costs.model import ChargeCategory, CostFlag
from fiscus.errors import ERROR_BY_CODE, FiscusError, ValidationError
from fiscus.http.fast_lane.decisions import DECISION_ENDPOINTS
from fiscus.idempotency import Idempotency, IdempotencyKey
from fiscus.ledger.answers import (
    BudgetBatchDecided,
    Decided,
    QuotaBatchDecided,
    RecordedBatch,
    to_answer,
    to_answer_json,
)
from fiscus.ledger.commands import (
    ANSWERS,
    Check,
    CheckBatch,
    Command,
    Consume,
    ConsumeBatch,
    Cost,
    Expire,
    Expired,
    Extend,
    InvalidRecord,
    Record,
    RecordBatch,
    Release,
    ReleaseConsumption,
    Settle,
)
from fiscus.ledger.port import StoreFull, StoreUnavailable
from fiscus.ledger.recorded import Charged, CostRecorded
from fiscus.ledger.remote import messages, result_encoder
from fiscus.ledger.remote.messages import Frames
from fiscus.ledger.remote.result_decoder import ResultDecoder
from fiscus.ledger.remote.result_encoder import ResultEncoder, unavailable_message
from fiscus.ledger.remote.results import EncodedAnswer, RemoteOutcome
from fiscus.operations import Operation
from fiscus.quotas.answers import QuotasDecided, QuotaStanding
from fiscus.quotas.definitions import define as define_quota
from fiscus.quotas.matching import MatchedQuota, matched_quota
from fiscus.quotas.model import QuotaSpec
from fiscus.tenants import TenantSettings
from fiscus.wire.converting import convert
from fiscus.wire.encoding import encode
from fiscus.wire.items import ItemError

NOW = datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
texts = st.text(max_size=20)
maybe_texts = st.none() | texts
amounts = st.decimals(
    min_value=-(10**15), max_value=10**15, allow_nan=False, allow_infinity=False, places=9
)
moments = st.integers(-(10**15), 4 * 10**15).map(from_us)
tags = st.dictionaries(texts, texts, max_size=3)
keys = st.none() | st.builds(
    Idempotency, st.builds(IdempotencyKey, texts, texts, texts), texts, moments
)
numbers = st.integers(-(2**53), 2**53) | amounts
usage = st.none() | st.dictionaries(
    texts, st.recursive(st.none() | st.booleans() | texts | numbers, st.lists, max_leaves=5)
)
operations = st.builds(
    Operation, texts, texts, maybe_texts, maybe_texts, maybe_texts, maybe_texts, tags
)
checks = st.builds(
    Check,
    operation=operations,
    operation_id=maybe_texts,
    estimate=amounts,
    currency=maybe_texts,
    reserve=st.booleans(),
    ttl_seconds=st.integers(1, 86_400),
    reservation_id=st.uuids().map(str),
    now=moments,
    idempotency=keys,
)
records = st.builds(
    Record,
    cost=st.builds(
        Cost,
        operation=operations,
        amount=amounts,
        currency=maybe_texts,
        timestamp=moments,
        charge_category=st.sampled_from(ChargeCategory),
        usage_quantity=st.none() | amounts,
        usage_unit=maybe_texts,
        usage=usage,
        resource_id=maybe_texts,
        region=maybe_texts,
        operation_id=maybe_texts,
    ),
    reservation_id=maybe_texts,
    now=moments,
    idempotency=keys,
)
unfit = st.builds(
    InvalidRecord,
    st.builds(
        ItemError,
        error_code=texts,
        message=texts,
        details=st.dictionaries(texts, texts),
        retriable=st.booleans(),
        suggested_action=maybe_texts,
    ),
)
consumes = st.builds(
    Consume,
    operation=operations,
    operation_id=maybe_texts,
    amount=amounts,
    consume=st.booleans(),
    now=moments,
    idempotency=keys,
)
named = {"tenant_id": texts, "now": moments, "idempotency": keys}
commands: st.SearchStrategy[Command] = st.one_of(
    checks,
    st.builds(
        CheckBatch, checks=st.lists(checks, max_size=3), all_or_nothing=st.booleans(), **named
    ),
    records,
    st.builds(RecordBatch, records=st.lists(records | unfit, max_size=3), **named),
    st.builds(
        Settle,
        reservation_id=texts,
        actual_cost=amounts,
        currency=maybe_texts,
        timestamp=st.none() | moments,
        usage_quantity=st.none() | amounts,
        usage_unit=maybe_texts,
        usage=usage,
        tags=tags,
        resource_id=maybe_texts,
        service_name=maybe_texts,
        region=maybe_texts,
        **named,
    ),
    st.builds(Release, reservation_id=texts, **named),
    st.builds(Extend, reservation_id=texts, ttl_seconds=st.integers(1, 86_400), **named),
    st.builds(Expire, tenant_id=texts, now=moments),
    consumes,
    st.builds(ConsumeBatch, checks=st.lists(consumes, max_size=3), **named),
    st.builds(ReleaseConsumption, consumption_id=texts, amount=st.none() | amounts, **named),
)


def content(message: bytearray) -> bytes:
    """The one message of a frame."""
    (only,) = Frames().feed(bytes(message))
    return only


@given(st.lists(commands, max_size=4))
def test_commands_arrive_as_they_were_sent(sent: list[Command]) -> None:
    group = messages.read_group(content(messages.group_message(7, sent)))
    assert group.number == 7
    assert group.commands == sent
    assert list(map(repr_of_digits, group.commands)) == list(map(repr_of_digits, sent))


def repr_of_digits(command: Command) -> bytes:
    """A command with every digit: equal decimals may differ in theirs."""
    return bytes(messages.group_message(0, [command]))


def test_every_command_is_among_those_tried_and_has_its_answer() -> None:
    assert set(ANSWERS) == set(Command.__args__)


@pytest.mark.parametrize(
    "answer", [one.answer for one in DECISION_ENDPOINTS if one.command is not None]
)
def test_the_correlation_id_is_the_last_field_of_an_answer(answer: type[msgspec.Struct]) -> None:
    assert answer.__struct_fields__[-1] == "correlation_id"
    assert answer.__struct_defaults__[-1] is None


def told(*outcomes: tuple[Command, Decided | FiscusError]) -> list[RemoteOutcome]:
    """What comes of a message with these outcomes."""
    return through(ResultEncoder(), ResultDecoder(), *outcomes)


def through(
    encoder: ResultEncoder, decoder: ResultDecoder, *outcomes: tuple[Command, Decided | FiscusError]
) -> list[RemoteOutcome]:
    commands = [command for command, _ in outcomes]
    frame = encoder.encode(1, commands, [outcome for _, outcome in outcomes], [], (3, 1), 0.5)
    (done,) = decoder.feed(bytes(frame))
    assert (done.number, done.failure, done.seconds, done.fallbacks) == (1, None, 0.5, [])
    assert done.lookups == (3, 1)
    return done.outcomes


EXPIRE = Expire(tenant_id="t", now=NOW)


def test_an_answer_is_the_same_json_as_in_process() -> None:
    answer = allowed_without_store('A "message" with ümläuts')
    first, second = told((EXPIRE, answer), (EXPIRE, Expired(count=3)))
    assert isinstance(first, EncodedAnswer)
    assert first.allowed
    named = msgspec.structs.replace(answer, correlation_id="c-1")
    assert first.with_correlation_id("c-1") == encode(named)
    assert isinstance(second, EncodedAnswer)
    assert msgspec.json.decode(second.answer) == {"count": 3}


def test_a_denial_is_told_apart() -> None:
    answer = msgspec.structs.replace(allowed_without_store("no"), allowed=False)
    (outcome,) = told((EXPIRE, answer))
    assert isinstance(outcome, EncodedAnswer)
    assert not outcome.allowed


@pytest.mark.parametrize("kind", ERROR_BY_CODE.values())
def test_errors_arrive_as_they_were(kind: type[FiscusError]) -> None:
    given: dict[str, Any] = {"suggested_action": "Do it again."}
    if issubclass(kind, ValidationError):
        given |= {"field": "amount"}
    else:
        given |= {"details": {"field": "x", "amount": Decimal("1.50")}, "retry_after_seconds": 3}
    if kind.__init__ is not FiscusError.__init__ and not issubclass(kind, ValidationError):
        given |= {"answer": None}
    error = kind("What is wrong", **given)
    (made,) = told((EXPIRE, error))
    assert type(made) is kind
    for name in ("message", "suggested_action", "retry_after_seconds", "code", "retriable"):
        assert getattr(made, name) == getattr(error, name)
    assert made.details == error.details


def test_a_group_that_was_not_done_says_why() -> None:
    for error in (
        StoreUnavailable("it is gone"),
        StoreFull("no room"),
        GroupOutcomeUnknown("it broke"),
    ):
        (done,) = ResultDecoder().feed(bytes(unavailable_message(4, error)))
        assert (done.number, done.outcomes) == (4, [])
        assert (type(done.failure), str(done.failure)) == (type(error), str(error))


# -- decisions


positive = amounts.map(abs).map(lambda amount: amount or Decimal(1))


def some_quotas(names: list[str]) -> list[MatchedQuota]:
    """What an operation meets: quotas of its project, each called and allocated otherwise."""
    made: list[MatchedQuota] = []
    for size, name in enumerate(names, 1):
        spec = {
            "resource_type": "gpu_hours",
            "scope_type": "project",
            "scope_id": name,
            "allocated_amount": size,
            "max_burst_amount": 1,
        }
        quota = define_quota(
            convert(spec, QuotaSpec),
            TenantSettings(),
            quota_id=f"quota-{name}",
            tenant_id="t",
            version=1,
            created_at=NOW,
            now=NOW,
        )
        made.append(matched_quota(quota, name))
    return made


def some_budgets(names: list[str]) -> list[MatchedBudget]:
    """What an operation meets: budgets of its project, each called and sized otherwise."""
    made: list[MatchedBudget] = []
    for size, name in enumerate(names, 1):
        spec = {
            "budget_name": name,
            "budget_amount": size,
            "period_type": "monthly" if size % 2 else "project",
            "allocated_to_type": "project",
            "allocated_to_id": name,
        }
        budget = define_budget(
            convert(spec, BudgetSpec),
            TenantSettings(),
            budget_id=f"budget-{name}",
            tenant_id="t",
            version=1,
            created_at=NOW,
            now=NOW,
        )
        matched = PreparedBudget(budget).matched_at(name, NOW)
        assert matched is not None
        made.append(matched)
    return made


quotas_matched = [some_quotas(names) for names in ([], ["a"], ["b"], ["a", "b"])]
budgets_matched = [some_budgets(names) for names in ([], ["a"], ["b"], ["a", "b"])]
quota_standings = st.builds(QuotaStanding, positive, positive, positive, st.booleans())
conversions = st.none() | st.builds(Converted, positive, st.just(Decimal("0.9")), st.dates())
budget_standings = st.builds(
    BudgetStanding,
    positive,
    positive,
    st.sampled_from(["allow", "warn", "deny", "escalate", "throttle", "frozen", "shadow_deny"]),
    conversions,
)
charges = st.builds(Charged, amounts, positive, conversions)
shares = st.none() | st.builds(ThrottleShare, positive, st.integers(0, 1000))


@st.composite
def quota_decisions(draw: st.DrawFn) -> QuotasDecided:
    matched = draw(st.sampled_from(quotas_matched))
    return QuotasDecided(
        matched,
        draw(st.booleans()),
        draw(st.integers(0, max(0, len(matched) - 1))),
        draw(st.none() | moments),
        draw(st.lists(quota_standings, min_size=len(matched), max_size=len(matched))),
    )


@st.composite
def budget_decisions(draw: st.DrawFn) -> BudgetsDecided:
    matched, allowed = draw(st.sampled_from(budgets_matched)), draw(st.booleans())
    return BudgetsDecided(
        matched,
        allowed,
        draw(st.integers(0, max(0, len(matched) - 1))),
        draw(shares),
        None if allowed else draw(st.none() | moments),
        draw(st.lists(budget_standings, min_size=len(matched), max_size=len(matched))),
        held_back=draw(st.booleans()),
        throttled=not allowed and draw(st.booleans()),
    )


@st.composite
def costs_recorded(draw: st.DrawFn) -> CostRecorded:
    matched = draw(st.sampled_from(budgets_matched))
    return CostRecorded(
        matched,
        draw(st.lists(charges, min_size=len(matched), max_size=len(matched))),
        draw(st.sampled_from(["USD", "EUR"])),
        draw(st.lists(st.sampled_from(CostFlag), max_size=2)),
    )


@st.composite
def decisions(draw: st.DrawFn) -> tuple[Command, Decided]:
    one: st.SearchStrategy[tuple[Any, Any]] = draw(
        st.sampled_from(
            [
                st.tuples(consumes, quota_decisions()),
                st.tuples(checks, budget_decisions()),
                st.tuples(records, costs_recorded()),
            ]
        )
    )
    made = draw(st.lists(one, min_size=1, max_size=3))
    if len(made) == 1 and draw(st.booleans()):
        return made[0]
    given = [decided for _, decided in made]
    if draw(st.booleans()):  # one was answered before
        given[0] = to_answer(*made[0])
    asked = [command for command, _ in made]
    match asked[0]:
        case Consume():
            return ConsumeBatch(tenant_id="t", checks=asked, now=NOW), QuotaBatchDecided(given)
        case Check():
            batch = CheckBatch(tenant_id="t", checks=asked, all_or_nothing=False, now=NOW)
            return batch, BudgetBatchDecided(given)
        case _:
            if draw(st.booleans()):
                refused = draw(unfit)
                asked.append(refused)
                given.append(refused.error)
            return RecordBatch(tenant_id="t", records=asked, now=NOW), RecordedBatch(given)


def as_answered(command: Command, outcome: RemoteOutcome) -> bytes:
    if isinstance(outcome, EncodedAnswer):
        return outcome.answer
    assert not isinstance(outcome, FiscusError)
    return to_answer_json(command, outcome)


@given(st.lists(st.lists(decisions(), max_size=4), max_size=4))
def test_a_decision_is_answered_as_where_it_was_made(
    groups: list[list[tuple[Command, Decided]]],
) -> None:
    encoder, decoder = ResultEncoder(), ResultDecoder()
    for group in groups:
        received = through(encoder, decoder, *group)
        for (command, decided), outcome in zip(group, received, strict=True):
            assert as_answered(command, outcome) == encode(to_answer(command, decided))


def test_numbers_begin_again_before_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_encoder, "MAX_NUMBERED", 3)
    encoder, decoder = ResultEncoder(), ResultDecoder()
    consume = Consume(Operation("t", "gpu_hours"), None, Decimal(1), True, "c", NOW)
    check = Check(Operation("t", "llm"), None, Decimal(1), None, True, 300, "r", NOW)
    taken = QuotaStanding(Decimal(1), Decimal(0), Decimal(0), False)
    held = BudgetStanding(Decimal(1), Decimal(0), "allow")
    for count in range(20):
        of_quotas = QuotasDecided(some_quotas([f"q{count}"]), True, 0, None, [taken])
        of_budgets = BudgetsDecided(some_budgets([f"b{count}"]), True, 0, None, None, [held])
        group: list[tuple[Command, Decided]] = [
            (
                ConsumeBatch(tenant_id="t", checks=[consume], now=NOW),
                QuotaBatchDecided([of_quotas]),
            ),
            (
                CheckBatch(tenant_id="t", checks=[check], all_or_nothing=False, now=NOW),
                BudgetBatchDecided([of_budgets]),
            ),
        ]
        for _ in range(2):  # the second time by their numbers
            received = through(encoder, decoder, *group)
            for (command, decided), outcome in zip(group, received, strict=True):
                assert as_answered(command, outcome) == encode(to_answer(command, decided))


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
def test_frames_are_found_however_the_bytes_come(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    frames = Frames()
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += frames.feed(stream[:size])
        stream = stream[size:]
    assert found == bodies


def test_moments_keep_their_microseconds_and_their_zone() -> None:
    late = NOW + timedelta(microseconds=1)
    group = messages.read_group(
        content(messages.group_message(1, [Expire(tenant_id="t", now=late)]))
    )
    assert group.commands[0].now == late
    assert group.commands[0].now.tzinfo is UTC

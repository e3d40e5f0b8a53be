"""What the ledger's process is told and tells comes out as it went in, to the last digit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiscus.budgets.calls import allowed_without_store
from fiscus.costs.model import ChargeCategory
from fiscus.errors import KINDS, FiscusError, ValidationError
from fiscus.http.decisions import DECISIONS
from fiscus.idempotency import Idempotency, IdempotencyKey
from fiscus.ledger.apart import messages
from fiscus.ledger.apart.messages import Answered, Failed, Frames
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
    GiveBack,
    Record,
    RecordBatch,
    Release,
    Settle,
    Unfit,
)
from fiscus.operations import NO_TAGS, Operation
from fiscus.wire import ItemError, encode

NOW = datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
texts = st.text(max_size=20)
maybe_texts = st.none() | texts
amounts = st.decimals(
    min_value=-(10**15), max_value=10**15, allow_nan=False, allow_infinity=False, places=9
)
moments = st.datetimes(timezones=st.just(UTC))
tags = st.just(NO_TAGS) | st.dictionaries(texts, texts, max_size=3)
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
    Unfit,
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
    st.builds(GiveBack, consumption_id=texts, amount=st.none() | amounts, **named),
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


@pytest.mark.parametrize("answer", [one.answer for one in DECISIONS if one.command is not None])
def test_the_correlation_id_is_the_last_field_of_an_answer(answer: type[msgspec.Struct]) -> None:
    assert answer.__struct_fields__[-1] == "correlation_id"
    assert answer.__struct_defaults__[-1] is None


def test_an_answer_is_the_same_json_as_in_process() -> None:
    answer = allowed_without_store('A "message" with ümläuts')
    frame = messages.done_message(1, [answer, Expired(count=3)], [], 0.5)
    first, second = messages.read_done(content(frame)).outcomes
    assert isinstance(first, Answered)
    assert first.allowed
    told = msgspec.structs.replace(answer, correlation_id="c-1")
    assert first.with_correlation_id("c-1") == encode(told)
    assert isinstance(second, Answered)
    assert msgspec.json.decode(second.answer) == {"count": 3}


def test_a_denial_is_told_apart() -> None:
    answer = msgspec.structs.replace(allowed_without_store("no"), allowed=False)
    (outcome,) = messages.read_done(content(messages.done_message(1, [answer], [], 0.5))).outcomes
    assert isinstance(outcome, Answered)
    assert not outcome.allowed


@pytest.mark.parametrize("kind", KINDS.values())
def test_errors_arrive_as_they_were(kind: type[FiscusError]) -> None:
    given: dict[str, Any] = {"suggested_action": "Do it again."}
    if issubclass(kind, ValidationError):
        given |= {"field": "amount"}
    else:
        given |= {"details": {"field": "x", "amount": Decimal("1.50")}, "retry_after_seconds": 3}
    if kind.__init__ is not FiscusError.__init__ and not issubclass(kind, ValidationError):
        given |= {"answer": None}
    error = kind("What is wrong", **given)
    (failed,) = messages.read_done(content(messages.done_message(1, [error], [], 0.5))).outcomes
    assert isinstance(failed, Failed)
    made = messages.error_of(failed)
    assert type(made) is kind
    for name in ("message", "suggested_action", "retry_after_seconds", "code", "retriable"):
        assert getattr(made, name) == getattr(error, name)
    assert made.details == error.details


def test_a_group_that_was_not_done_says_why() -> None:
    done = messages.read_done(content(messages.unavailable_message(4, "the disk is full")))
    assert (done.number, done.outcomes, done.unavailable) == (4, [], "the disk is full")


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

"""An answer that is filled into a form is, byte for byte, the answer that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fiscus.budgets import answer_templates
from fiscus.budgets.answers import BudgetsDecided, BudgetStanding, answer
from fiscus.budgets.calls import CheckBatchAnswer
from fiscus.budgets.matching import MatchedBudget, PreparedBudget
from fiscus.budgets.model import Converted, EnforcementAction
from fiscus.budgets.rules import ThrottleShare
from fiscus.clock import from_us
from fiscus.ledger.answers import BudgetBatchDecided, to_answer, to_answer_json
from fiscus.ledger.commands import Check, CheckBatch
from fiscus.operations import Operation
from fiscus.wire.encoding import encode
from tests.unit.budgets_for_rules import NOW, make_budget

amounts = st.decimals(
    min_value=-(10**14), max_value=10**14, allow_nan=False, allow_infinity=False, places=9
) | st.sampled_from([Decimal(0), Decimal("1E+3"), Decimal("0.10"), Decimal("1E-12")])
moments = st.integers(0, 4 * 10**15).map(from_us)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)


@st.composite
def matched_budgets(draw: st.DrawFn) -> MatchedBudget:
    budget = make_budget(
        draw(st.sampled_from(["b1", "b2", "b3"])),
        draw(st.integers(1, 10**6)),
        budget_name=draw(names | st.just("100 % of {it}")),
        enforcement_action=draw(st.sampled_from(EnforcementAction)),
        shadow=draw(st.booleans()),
        period_type=draw(st.sampled_from(["monthly", "project"])),
    )
    matched = PreparedBudget(budget).matched_at("p", NOW)
    assert matched is not None
    return matched


standings = st.builds(BudgetStanding, amounts, amounts, st.just("allow"), st.none())
other_standings = st.builds(
    BudgetStanding,
    amounts,
    amounts,
    st.sampled_from(["allow", "warn", "shadow_deny", "throttle"]),
    st.none() | st.just(Converted(Decimal("0.9"), Decimal("1.1"), date(2026, 3, 9))),
)
checks = st.builds(
    Check,
    operation=st.just(Operation("t", "llm", "p")),
    operation_id=st.none(),
    estimate=amounts,
    currency=st.none(),
    reserve=st.just(True) | st.booleans(),
    ttl_seconds=st.sampled_from([300, 600]),
    reservation_id=st.uuids().map(str),
    now=st.sampled_from([NOW, datetime(2026, 3, 11, 0, 0, 0, 5, tzinfo=UTC)]) | moments,
    idempotency=st.none(),
)


def as_decided(
    one: BudgetStanding, matched: MatchedBudget, throttle: ThrottleShare | None
) -> BudgetStanding:
    """Without a throttle nothing is refused by one, nor allowed where there is no room, but by one
    that only watches."""
    budget = matched.budget
    watches = budget.shadow and budget.enforcement_action is EnforcementAction.THROTTLE
    if throttle is not None or (watches and one.decision == "allow"):
        return one
    if one.decision == "throttle":
        return replace(one, decision="shadow_throttle")
    overspent = one.spent + one.reserved > budget.budget_amount
    return replace(one, decision="warn") if one.decision == "allow" and overspent else one


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[BudgetsDecided], list[Check]]:
    """Checks in a row that meet some of the same budgets, most of them admitted."""
    budgets = draw(st.lists(matched_budgets(), min_size=1, max_size=3))
    decided: list[BudgetsDecided] = []
    for _ in range(draw(st.integers(1, 5))):
        matched = draw(st.lists(st.sampled_from(budgets), max_size=3))
        one = draw(st.sampled_from([standings, standings, other_standings]))
        throttle = draw(st.none() | st.just(ThrottleShare(Decimal("0.5"), 0)))
        stand = draw(st.lists(one, min_size=len(matched), max_size=len(matched)))
        decided.append(
            BudgetsDecided(
                matched,
                draw(st.sampled_from([True, True, True, False])),
                draw(st.integers(0, max(0, len(matched) - 1))),
                throttle,
                None,
                [as_decided(*its, throttle) for its in zip(stand, matched, strict=True)],
                draw(st.sampled_from([False, False, True])),
            )
        )
    return decided, [draw(checks) for _ in decided]


@given(batches())
def test_answers_are_those_of_the_structs(
    batch: tuple[list[BudgetsDecided], list[Check]],
) -> None:
    decided, asked = batch
    expected = [
        encode(answer(one, check)).decode() for one, check in zip(decided, asked, strict=True)
    ]
    assert answer_templates.answers_as_json(decided, asked) == expected
    assert answer_templates.answers_as_json(decided, asked) == expected  # now that there are forms
    for one, check, alone in zip(decided, asked, expected, strict=True):
        told = answer_templates.answer_as_json(one, check, "c-1")
        assert told == alone.replace('"correlation_id":null', '"correlation_id":"c-1"')
        assert to_answer_json(check, one) == alone.encode()


@given(batches())
def test_a_batch_is_the_json_of_its_words(
    batch: tuple[list[BudgetsDecided], list[Check]],
) -> None:
    decided, asked = batch
    command = CheckBatch(tenant_id="t", checks=asked, all_or_nothing=False, now=NOW)
    given: list[Any] = [*decided, answer(decided[0], asked[0])]  # one was answered before
    command.checks.append(asked[0])
    outcome = BudgetBatchDecided(given)
    words = to_answer(command, outcome)
    assert isinstance(words, CheckBatchAnswer)
    assert to_answer_json(command, outcome) == encode(words)


def test_what_a_watching_throttle_lets_pass_without_room_says_so() -> None:
    budget = make_budget(amount="1", enforcement_action="throttle", shadow=True)
    matched = PreparedBudget(budget).matched_at("p", NOW)
    assert matched is not None
    standing = BudgetStanding(Decimal(2), Decimal(1), "allow")
    decided = BudgetsDecided([matched], True, 0, None, None, [standing])
    asked = Check(Operation("t", "llm", "p"), None, Decimal(1), None, True, 300, "r-1", NOW)
    assert "lets this pass its amount" in answer(decided, asked).message
    assert answer_templates.answers_as_json([decided], [asked]) == [
        encode(answer(decided, asked)).decode()
    ]


def test_admitted_checks_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would compare `answer` with itself."""
    matched = PreparedBudget(make_budget()).matched_at("p", NOW)
    assert matched is not None
    standing = BudgetStanding(Decimal("0.5"), Decimal("0.25"), "allow")
    decided = BudgetsDecided([matched], True, 0, None, None, [standing])
    asked = Check(Operation("t", "llm", "p"), None, Decimal("0.25"), None, True, 300, "r-1", NOW)
    expected = encode(answer(decided, asked)).decode()
    assert answer_templates.answers_as_json([decided], [asked]) == [expected]
    assert matched.template is not None

    def not_asked(*_: Sequence[object]) -> None:
        raise AssertionError

    monkeypatch.setattr(answer_templates, "answer", not_asked)
    assert answer_templates.answers_as_json([decided], [asked]) == [expected]

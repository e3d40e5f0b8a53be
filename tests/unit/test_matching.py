"""Which budgets an operation meets: by the ids it gives, its filters, and nothing inferred."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fiscus.budgets import matching
from fiscus.budgets.matching import BudgetIndex, PreparedBudget
from fiscus.budgets.model import Budget
from fiscus.operations import Operation
from tests.unit.budgets_for_rules import NOW, make_budget

OPERATION = Operation("t", "llm", "p", "u", None, "gateway", {"team": "red", "tier": "1"})


def matched(operation: Operation, *budgets: Budget) -> set[tuple[str, str]]:
    return {
        (prepared.budget.budget_id, scope_id)
        for prepared, scope_id in BudgetIndex(budgets).matches(operation)
    }


def test_every_scope_the_operation_names_is_met_and_no_other() -> None:
    budgets = [
        make_budget("tenant", allocated_to_type="tenant", allocated_to_id="t"),
        make_budget("p", allocated_to_id="p"),
        make_budget("q", allocated_to_id="q"),
        make_budget("u", allocated_to_type="user", allocated_to_id="u"),
        make_budget("f", allocated_to_type="feature", allocated_to_id="f"),
        make_budget("user named p", allocated_to_type="user", allocated_to_id="p"),
    ]
    assert matched(OPERATION, *budgets) == {("tenant", "t"), ("p", "p"), ("u", "u")}
    assert matched(Operation("t", "llm"), *budgets) == {("tenant", "t")}


def test_what_was_found_is_forgotten_when_a_budget_changes() -> None:
    index = BudgetIndex([make_budget("p")])

    def found() -> set[tuple[str, int]]:
        matches = index.matches(OPERATION)
        return {(one.budget.budget_id, one.budget.version) for one, _ in matches}

    assert found() == {("p", 1)}
    index.put(make_budget("u", allocated_to_type="user", allocated_to_id="u"))
    assert found() == {("p", 1), ("u", 1)}
    index.put(replace(make_budget("p"), version=2))
    assert found() == {("p", 2), ("u", 1)}
    index.put(make_budget("u", allocated_to_id="q"))
    assert found() == {("p", 2)}
    index.remove("p")
    assert found() == set()


def test_a_template_is_met_under_the_operations_own_id() -> None:
    every = make_budget("every", allocated_to_id="*")
    assert matched(OPERATION, every) == {("every", "p")}
    assert matched(replace(OPERATION, project_id="other"), every) == {("every", "other")}
    assert matched(replace(OPERATION, project_id=None), every) == set()


@pytest.mark.parametrize(
    ("filters", "counts"),
    [
        ({}, True),
        ({"resource_types": ["llm", "gpu"]}, True),
        ({"resource_types": ["LLM"]}, False),
        ({"resource_types": ["ll"]}, False),
        ({"service_names": ["gateway"]}, True),
        ({"service_names": ["batch"]}, False),
        ({"tags": {"team": "red"}}, True),
        ({"tags": {"team": "red", "tier": "1"}}, True),
        ({"tags": {"team": "blue"}}, False),
        ({"tags": {"team": "red", "region": "eu"}}, False),
        ({"tags": {"missing": ""}}, False),
        ({"resource_types": ["llm"], "service_names": ["batch"]}, False),
        ({"resource_types": ["llm"], "service_names": ["gateway"], "tags": {"tier": "1"}}, True),
    ],
)
def test_all_filters_must_let_an_operation_in(filters: dict[str, Any], counts: bool) -> None:
    assert bool(matched(OPERATION, make_budget(filters=filters))) == counts


def test_an_operation_lacking_the_attribute_does_not_match() -> None:
    by_service = make_budget(filters={"service_names": ["gateway"]})
    assert matched(replace(OPERATION, service_name=None), by_service) == set()
    by_tag = make_budget(filters={"tags": {"team": "red"}})
    assert matched(replace(OPERATION, tags={}), by_tag) == set()


def test_a_new_version_takes_the_place_of_the_old_one_also_in_another_scope() -> None:
    index = BudgetIndex([make_budget("b", allocated_to_id="p")])
    index.put(make_budget("b", allocated_to_id="q"))
    assert len(list(index)) == 1
    assert index.matches(OPERATION) == []
    index.put(make_budget("b", "99"))
    ((prepared, _),) = index.matches(OPERATION)
    assert prepared.budget.budget_amount == 99
    index.remove("b")
    index.remove("b")
    assert (list(index), index.matches(OPERATION), index.get("b")) == ([], [], None)


budgets = st.builds(
    make_budget,
    st.sampled_from(["b1", "b2", "b3", "b4", "b5"]),
    allocated_to_type=st.sampled_from(["project", "user", "feature"]),
    allocated_to_id=st.sampled_from(["a", "b", "*"]),
)
ids = st.sampled_from([None, "a", "b", "c"])


@given(st.lists(st.tuples(st.booleans(), budgets), max_size=20), ids, ids, ids)
def test_the_index_finds_what_looking_at_every_budget_finds(
    changes: list[tuple[bool, Budget]], project: str | None, user: str | None, feature: str | None
) -> None:
    index = BudgetIndex()
    live: dict[str, Budget] = {}
    for removed, budget in changes:
        if removed:
            index.remove(budget.budget_id)
            live.pop(budget.budget_id, None)
        else:
            index.put(budget)
            live[budget.budget_id] = budget
    given = {"project": project, "user": user, "feature": feature}
    expected = {
        (one.budget_id, given[one.allocated_to_type])
        for one in live.values()
        if given[one.allocated_to_type] is not None
        and one.allocated_to_id in {"*", given[one.allocated_to_type]}
    }
    operation = Operation("t", "llm", project, user, feature)
    found = [(prepared.budget.budget_id, scope) for prepared, scope in index.matches(operation)]
    assert len(found) == len(set(found))
    assert set(found) == expected


timed = st.builds(
    make_budget,
    st.sampled_from(["b1", "b2", "b3"]),
    allocated_to_id=st.sampled_from(["a", "*"]),
    period_type=st.sampled_from(["daily", "weekly", "monthly", "project"]),
    filters=st.sampled_from([{}] * 6 + [{"resource_types": ["llm"]}, {"resource_types": ["gpu"]}]),
    start_date=st.sampled_from(["2026-03-01", "2026-03-09", "2026-03-11"]),
    end_date=st.sampled_from([None, "2026-03-12", "2026-04-30"]),
)
later = st.integers(0, 24 * 60).map(lambda hours: NOW + timedelta(hours=hours))


changed = st.tuples(
    timed | st.sampled_from(["b1", "b2", "b3"]), st.lists(later, min_size=3, max_size=8)
)


@given(st.lists(changed, min_size=4, max_size=8))
def test_what_is_met_is_what_each_budget_says_at_that_time(
    steps: list[tuple[Budget | str, list[datetime]]],
) -> None:
    index = BudgetIndex()
    live: dict[str, Budget] = {}
    operation = Operation("t", "llm", "a")
    for change, moments in steps:
        if isinstance(change, Budget):
            index.put(change)
            live[change.budget_id] = change
        else:
            index.remove(change)
            live.pop(change, None)
        for moment in moments:
            found = index.matched_at(operation, moment)
            assert found is not None
            expected = {
                (budget.budget_id, period)
                for budget in live.values()
                if PreparedBudget(budget).counts(operation)
                and (period := PreparedBudget(budget).period_at(moment))
            }
            assert {(one.budget.budget_id, one.period) for one in found} == expected
            assert len(found) == len(expected)


def test_where_a_budget_floats_it_is_not_known_at_once_what_is_met() -> None:
    index = BudgetIndex([make_budget("fixed")])
    assert [one.budget.budget_id for one in index.matched_at(OPERATION, NOW) or ()] == ["fixed"]
    index.put(make_budget("floats", period_type="rolling"))
    assert index.matched_at(OPERATION, NOW) is None
    index.remove("floats")
    assert index.matched_at(OPERATION, NOW)


def test_a_period_found_before_is_not_answered_for_another_time() -> None:
    prepared = PreparedBudget(make_budget(period_type="daily", timezone="Europe/Berlin"))
    moments = [NOW + timedelta(hours=6 * n) for n in range(40)]
    for moment in [*moments, *reversed(moments), *moments[::7]]:
        period = prepared.period_at(moment)
        assert period is not None
        assert period.start <= moment < period.end
        assert prepared.blank("p", period).key.period_start == period.start


def test_outside_its_dates_a_budget_has_no_period() -> None:
    prepared = PreparedBudget(make_budget(start_date="2026-03-05", end_date="2026-03-20"))
    assert prepared.period_at(datetime(2026, 3, 4, 23, 59, tzinfo=UTC)) is None
    period = prepared.period_at(NOW)
    assert period is not None
    assert (period.start.day, period.end.day) == (5, 20)
    assert prepared.period_at(datetime(2026, 3, 20, tzinfo=UTC)) is None
    assert prepared.period_after(period) is None


def test_what_a_budget_for_all_ids_remembers_does_not_grow_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matching, "_MAX_SCOPE_IDS", 3)
    floating = PreparedBudget(make_budget(period_type="rolling", allocated_to_id="*"))
    for number in range(8):
        floating.know_anchor(f"p{number}", date(2026, 3, 9))
        assert floating.anchors[f"p{number}"] == date(2026, 3, 9)
        assert len(floating.anchors) <= 3


def test_a_floating_budget_counts_from_the_local_day_of_its_first_charge() -> None:
    floating = PreparedBudget(
        make_budget(period_type="rolling", rolling_days=7, timezone="Pacific/Kiritimati")
    )
    assert floating.is_floating
    assert floating.anchor_for(NOW) == date(2026, 3, 11)
    period = floating.period_at(NOW + timedelta(days=8), date(2026, 3, 11))
    assert period is not None
    assert period.start == datetime(2026, 3, 17, 10, tzinfo=UTC)
    assert floating.matched_at("p", NOW, date(2026, 3, 11)) is not floating.matched_at(
        "p", NOW, date(2026, 3, 9)
    )
    floating.know_anchor("p", date(2026, 3, 9))  # it is stored, and for good
    matched = floating.matched_at("p", NOW, date(2026, 3, 9))
    assert matched is not None
    assert matched.period.start == datetime(2026, 3, 8, 10, tzinfo=UTC)
    assert floating.matched_at("p", NOW, date(2026, 3, 9)) is matched
    later = floating.matched_at("p", matched.period.end, date(2026, 3, 9))
    assert later is not None
    assert later.period.start == matched.period.end
    fixed = make_budget(period_type="rolling", start_date="2026-03-01")
    assert not PreparedBudget(fixed).is_floating

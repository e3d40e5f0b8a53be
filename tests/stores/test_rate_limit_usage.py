"""What was seen of policies: added up, listed, learned from, forgotten; on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from fiscus.engine import Engine
from fiscus.errors import NotFound, ValidationError
from fiscus.ids import uuid7
from fiscus.paging import Cursor, PageRequest, page_request
from fiscus.ratelimits.calls import RateLimitCheckRequest, UsageWindow
from fiscus.ratelimits.limits import effective_limit
from fiscus.ratelimits.model import PolicySpec, PolicyState
from fiscus.ratelimits.policy_port import UsageRow
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.postgres import answering
from fiscus.stores.sql.ratelimits.policies import SqlPolicies
from fiscus.stores.sql.ratelimits.usage import SqlRateLimitUsage
from fiscus.wire.converting import convert
from tests.log_lines import told
from tests.servers import PostgresServer
from tests.stores.conftest import answers_of_commits_lost, in_threads, plans_within

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
WAITING = """
    SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
     WHERE NOT granted AND datname = current_database()
"""


def window(start: datetime = NOON, scope_id: str = "u1", **fields: Any) -> UsageWindow:
    values = {
        "scope_id": scope_id,
        "window_start": start,
        "window_end": start + timedelta(minutes=1),
        "checks": 1,
        "admitted": 1,
        "denied": 0,
        "shadow_denied": 0,
    }
    return UsageWindow(**values | fields)


class Desk:
    """One tenant's use of its policies."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self.policies = SqlPolicies(database)
        self.usage = SqlRateLimitUsage(database)
        self.tenant_id = tenant_id
        self._following: list[str] = []

    def close(self) -> None:
        """Leave nothing to learn to the tests after this one."""
        for policy_id in self._following:
            with suppress(NotFound):
                self.policies.delete(self.tenant_id, policy_id, force=True, by="tester", now=NOON)

    def add(self, policy_id: str, *windows: UsageWindow) -> None:
        self.usage.add([UsageRow(self.tenant_id, policy_id, one) for one in windows])

    def windows(
        self, policy_id: str, scope_id: str | None = None, page: PageRequest | None = None
    ) -> list[UsageWindow]:
        found = self.usage.windows(
            self.tenant_id, policy_id, page or PageRequest(), scope_id=scope_id
        )
        return found.items

    def follower(self, timezone: str = "UTC", **fields: Any) -> PolicyState:
        """A policy of 100 a minute whose limit follows its usual load."""
        values = {
            "scope_type": "tenant",
            "scope_id": self.tenant_id,
            "resource_type": "llm",
            "limit_value": 100,
            "time_window_seconds": 60,
            "timezone": timezone,
            "overrides": {"usage_pattern": {"min_multiplier": "0.01", "max_multiplier": 100}},
        }
        state = self.policies.create(
            self.tenant_id, convert(values | fields, PolicySpec), by="tester", now=NOON
        )
        self._following.append(state.policy.policy_id)
        return state

    def load(self, state: PolicyState) -> tuple[int, ...]:
        return self.policies.get(self.tenant_id, state.policy.policy_id).hourly_load

    def each_hour(
        self, state: PolicyState, begin: datetime, end: datetime, requests: int = 1
    ) -> None:
        """Use of so many requests in each real hour."""
        hours = int((end - begin) / HOUR)
        self.add(
            state.policy.policy_id,
            *(
                window(begin + hour * HOUR, window_end=begin + (hour + 1) * HOUR, admitted=requests)
                for hour in range(hours)
            ),
        )


@pytest.fixture
def desk(database: Database, tenant: str) -> Iterator[Desk]:
    made = Desk(database, tenant)
    yield made
    made.close()


# -- kept and listed


def test_use_is_read_as_it_was_written(desk: Desk) -> None:
    policy_id = uuid7()
    written = window(checks=4, admitted=10, denied=3, shadow_denied=2)
    desk.add(policy_id, written)
    assert desk.windows(policy_id) == [written]
    assert desk.windows(uuid7()) == []
    desk.usage.add([])


@pytest.mark.postgres
@pytest.mark.parametrize("made", [True, False])
def test_use_whose_commit_is_not_answered_is_counted_once_at_most(
    made: bool,
    open_on: Callable[..., Engine],
    postgres_url: str,
    postgres_server: PostgresServer,
    tenant: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = open_on(postgres_url)
    now = engine.clock.now()
    spec = {"scope_type": "tenant", "scope_id": tenant, "resource_type": "llm"}
    limits = {"limit_value": 5, "time_window_seconds": 60}
    state = engine.policies.create(tenant, convert(spec | limits, PolicySpec), by="t", now=now)
    policy_id = state.policy.policy_id

    def check() -> None:
        request = RateLimitCheckRequest(resource_type="llm", request_count=2)
        assert engine.limiter.check(request, tenant, now).allowed

    check()
    with answers_of_commits_lost(postgres_server, made=made):
        engine.limiter.flush_usage(policy_id)
    assert [(one.event, one.fields["rows"]) for one in told(caplog)] == [("usage_in_doubt", 1)]
    check()
    engine.limiter.flush_usage(policy_id)
    page = engine.usage.windows(tenant, policy_id, PageRequest(), scope_id=None)
    assert [one.admitted for one in page.items] == [4 if made else 2]


def test_what_is_added_to_a_window_adds_up(desk: Desk) -> None:
    policy_id = uuid7()
    one = window(checks=4, admitted=10, denied=3, shadow_denied=2)
    desk.add(policy_id, one, window(NOON + timedelta(minutes=1)), one)
    desk.add(policy_id, one, window(scope_id="u2"))
    summed = window(checks=12, admitted=30, denied=9, shadow_denied=6)
    assert desk.windows(policy_id) == [
        window(NOON + timedelta(minutes=1)),
        window(scope_id="u2"),
        summed,
    ]


def test_writers_at_once_lose_nothing(database: Database, database_url: str, tenant: str) -> None:
    other = Database(database_url)  # as another process would have one
    policies = [uuid7() for _ in range(3)]
    turns = [Desk(database, tenant), Desk(other, tenant), Desk(database, tenant)]

    def write() -> None:
        mine = turns.pop()
        for number in range(20):
            for policy_id in policies if number % 2 else policies[::-1]:
                mine.add(policy_id, window(scope_id="b"), window(scope_id="a", admitted=2))

    in_threads(3, write)
    other.close()
    for policy_id in policies:
        found = Desk(database, tenant).windows(policy_id)
        assert [(one.scope_id, one.checks, one.admitted) for one in found] == [
            ("b", 60, 60),
            ("a", 60, 120),
        ]


def test_a_window_that_was_made_longer_ends_when_the_longer_does(desk: Desk) -> None:
    policy_id = uuid7()
    longer = window(window_end=NOON + HOUR)
    desk.add(policy_id, window(), longer, window())
    assert desk.windows(policy_id) == [msgspec.structs.replace(longer, checks=3, admitted=3)]


def test_counts_beyond_all_measure_stay_at_the_greatest(desk: Desk) -> None:
    policy_id = uuid7()
    for _ in range(12):
        desk.add(policy_id, window(checks=1, admitted=10**25, denied=9 * 10**17))
    assert desk.windows(policy_id) == [window(checks=12, admitted=10**18, denied=10**18)]


def test_windows_of_one_scope_are_shown_alone(desk: Desk) -> None:
    policy_id = uuid7()
    desk.add(policy_id, window(), window(scope_id="u2"))
    assert desk.windows(policy_id, "u2") == [window(scope_id="u2")]
    assert desk.windows(policy_id, "u3") == []


@pytest.mark.parametrize("name", ["x", "", "\x00", "A" * 36])
def test_an_id_that_is_none_has_no_windows(desk: Desk, name: str) -> None:
    assert desk.windows(name) == []


def test_another_tenants_windows_are_not_shown(desk: Desk) -> None:
    policy_id = uuid7()
    desk.add(policy_id, window())
    page = desk.usage.windows("somebody-else", policy_id, PageRequest(), scope_id=None)
    assert page.items == []


def test_windows_come_newest_first_page_by_page_both_ways(desk: Desk) -> None:
    policy_id = uuid7()
    made = [
        window(NOON + timedelta(minutes=minute), scope_id)
        for minute in (3, 2, 1)
        for scope_id in ("u2", "u1")
    ]
    desk.add(policy_id, *made[::-1])

    def read(page: PageRequest) -> tuple[list[UsageWindow], Any]:
        found = desk.usage.windows(desk.tenant_id, policy_id, page, scope_id=None)
        return found.items, found.pagination

    first, pagination = read(page_request(None, 4))
    assert pagination.total_count == 6
    second, pagination = read(page_request(None, 4, pagination.next_page_token))
    assert first + second == made
    assert pagination.next_page_token is None
    assert read(page_request(None, 4, pagination.prev_page_token))[0] == first
    assert read(page_request(2, 4))[0] == second


@pytest.mark.parametrize("values", [["x", "u"], [1], [2**70, "u"], [1, "' OR 1=1"]])
def test_a_token_of_another_list_is_refused(desk: Desk, values: list[Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        desk.windows(uuid7(), page=PageRequest(cursor=Cursor(values)))
    assert caught.value.field == "page_token"


def test_windows_that_ended_before_are_forgotten(desk: Desk) -> None:
    policy_id, begin = uuid7(), datetime(2020, 1, 1, tzinfo=UTC)
    old = [window(begin + timedelta(minutes=number)) for number in range(2500)]
    ends_then = window(begin + timedelta(days=9, minutes=-1))
    desk.add(policy_id, *old, ends_then, window())
    assert desk.usage.drop_before(begin + timedelta(days=9)) == 2500
    assert desk.windows(policy_id) == [window(), ends_then]
    assert desk.usage.drop_before(begin + timedelta(days=9)) == 0
    assert desk.usage.drop_before(begin + timedelta(days=10)) == 1


def test_what_is_forgotten_is_found_by_index_whatever_postgresql_expects(
    database: Database, desk: Desk
) -> None:
    """Each portion would read the whole table."""
    if database.is_sqlite:
        pytest.skip("SQLite goes by the order that is asked for")
    begin = NOON - timedelta(days=20)
    desk.add(uuid7(), *(window(begin + timedelta(minutes=number)) for number in range(2500)))
    forget = partial(desk.usage.drop_before, begin + timedelta(days=10))
    plans = plans_within(database, forget, "DELETE")
    assert len(plans) == 4
    for plan in plans:
        assert "Index Scan using ix_rate_limit_usage_window_end" in plan
        assert "Sort" not in plan


# -- learned from

MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)  # a Tuesday


def hours_of(load: Sequence[int]) -> dict[int, int]:
    return {hour: requests for hour, requests in enumerate(load) if requests}


def test_the_usual_load_is_what_came_in_the_last_four_weeks_by_hour_of_the_week(
    desk: Desk,
) -> None:
    state = desk.follower()
    policy_id = state.policy.policy_id
    monday_nine = MIDNIGHT - timedelta(days=1) + 9 * HOUR
    for weeks in range(4):
        start = monday_nine - weeks * WEEK
        # what was denied was wanted all the same, whoever wanted it
        desk.add(policy_id, window(start, admitted=5, denied=3, shadow_denied=3))
        desk.add(policy_id, window(start + timedelta(minutes=59), "u2", admitted=2))
    desk.add(policy_id, window(monday_nine - 4 * WEEK, admitted=1000))
    desk.add(policy_id, window(MIDNIGHT, admitted=1000))
    desk.each_hour(state, MIDNIGHT - WEEK, MIDNIGHT)
    assert desk.usage.learn(NOON) == 1
    assert hours_of(desk.load(state)) == {hour: 1 + 40 * (hour == 9) for hour in range(168)}


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_learning_may_take_longer_than_an_answer(
    desk: Desk, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "MAX_LOOKS", 5)  # each of a tenth of a second
    state = desk.follower()
    desk.each_hour(state, MIDNIGHT - 2 * WEEK, MIDNIGHT)

    def be_impatient(connection: Any, *_: Any) -> None:
        connection.execute("SET statement_timeout = '500ms'")
        connection.commit()

    sa.event.listen(database.engine, "checkout", be_impatient)
    with ThreadPoolExecutor(1) as pool, database.read_at_length(desk.tenant_id) as reader:
        reader.execute(sa.text("RESET ROLE"))
        reader.execute(sa.text("LOCK TABLE rate_limit_usage IN ACCESS EXCLUSIVE MODE"))
        learning = pool.submit(desk.usage.learn, NOON)
        waiting = sa.text(WAITING)
        while not (reader.execute(waiting).scalar_one() or learning.done()):
            pass
        reader.execute(sa.text("SELECT pg_sleep(0.8)"))
    assert learning.result() == 1


def test_the_limit_follows_what_was_learned(desk: Desk) -> None:
    state = desk.follower()
    desk.each_hour(state, MIDNIGHT - 2 * WEEK, MIDNIGHT)
    monday_nine = MIDNIGHT - timedelta(days=1) + 9 * HOUR
    desk.add(state.policy.policy_id, window(monday_nine, admitted=2 * 168))
    assert desk.usage.learn(NOON) == 1
    (live,) = desk.policies.live(desk.tenant_id, NOON).policies
    # 338 of 2 * 2 * 168 requests came in this hour, two in each other
    assert effective_limit(live, monday_nine + WEEK) == 100 * 338 * 168 // (4 * 168)
    assert effective_limit(live, monday_nine + WEEK + HOUR) == 50


@pytest.mark.parametrize(("days", "known"), [(14, True), (13, False), (0, False)])
def test_nothing_is_known_before_two_whole_weeks_were_seen(
    desk: Desk, days: int, known: bool
) -> None:
    state = desk.follower()
    desk.each_hour(state, MIDNIGHT - timedelta(days=days), MIDNIGHT + HOUR)
    assert desk.usage.learn(NOON) == int(known)
    assert (desk.load(state) != ()) is known


def test_hours_are_those_of_the_policys_zone_on_both_sides_of_daylight_saving(
    desk: Desk,
) -> None:
    new_york = desk.follower("America/New_York")
    kathmandu = desk.follower("Asia/Kathmandu")
    # New York went forward on 8 March 2026 at 07:00 UTC; Kathmandu is 5:45 ahead all year
    midnights = [(new_york, "2026-03-15T04:00Z"), (kathmandu, "2026-03-14T18:15Z")]
    for state, end in midnights:
        until = datetime.fromisoformat(end)
        desk.each_hour(state, until - 4 * WEEK - 2 * HOUR, until + HOUR)
    assert desk.usage.learn(datetime(2026, 3, 15, 4, 10, tzinfo=UTC)) == 2
    # the hour that was skipped, Sunday 2 to 3, was there in three weeks of four
    assert [hours_of(desk.load(state)) for state, _ in midnights] == [
        {hour: 4 - (hour == 6 * 24 + 2) for hour in range(168)},
        dict.fromkeys(range(168), 4),
    ]


def test_an_hour_that_came_twice_counts_twice(desk: Desk) -> None:
    berlin = desk.follower("Europe/Berlin")
    until = datetime(2026, 10, 25, 23, tzinfo=UTC)  # the midnight after clocks went back
    desk.each_hour(berlin, until - 5 * WEEK, until)
    assert desk.usage.learn(until + HOUR) == 1
    assert hours_of(desk.load(berlin)) == {hour: 4 + (hour == 6 * 24 + 2) for hour in range(168)}


def test_windows_shorter_and_longer_than_a_quarter_hour_keep_every_request(desk: Desk) -> None:
    state, begin = desk.follower("Asia/Kathmandu"), MIDNIGHT - 3 * WEEK
    policy_id = state.policy.policy_id
    desk.each_hour(state, begin, begin + HOUR)
    for minutes in (1, 7, 15, 37, 60):
        start = MIDNIGHT - timedelta(days=3)
        end = start + timedelta(minutes=minutes)
        desk.add(policy_id, window(start, f"m{minutes}", window_end=end, admitted=101))
    desk.usage.learn(NOON)
    # 00:00 UTC on Saturday is 05:45 in Kathmandu: a quarter of an hour is in the hour of five
    five, six = 3 * 101 + 33 + 25, 68 + 76
    assert hours_of(desk.load(state)) == {5 * 24 + 5: five, 5 * 24 + 6: six}


def test_learning_again_the_same_day_does_nothing_and_the_next_day_moves_on(
    desk: Desk,
) -> None:
    state = desk.follower()
    desk.each_hour(state, MIDNIGHT - 2 * WEEK, MIDNIGHT + WEEK, requests=7)
    assert desk.usage.learn(NOON) == 1
    version = desk.policies.live(desk.tenant_id, NOON).version
    desk.add(state.policy.policy_id, window(MIDNIGHT - HOUR, admitted=5))
    assert desk.usage.learn(NOON + HOUR) == 0
    assert desk.policies.live(desk.tenant_id, NOON).version == version
    # a day that just ended may not be written yet
    just_after = MIDNIGHT + timedelta(days=1, minutes=9)
    assert desk.usage.learn(just_after) == 0
    assert desk.usage.learn(just_after + timedelta(minutes=1)) == 1
    assert desk.policies.live(desk.tenant_id, NOON).version == version + 1


def test_what_was_learned_and_did_not_change_moves_no_version(desk: Desk) -> None:
    state = desk.follower()
    desk.each_hour(state, MIDNIGHT - 5 * WEEK, MIDNIGHT + WEEK)
    assert desk.usage.learn(NOON) == 1
    version = desk.policies.live(desk.tenant_id, NOON).version
    assert desk.usage.learn(NOON + timedelta(days=1)) == 0
    assert desk.policies.live(desk.tenant_id, NOON).version == version


def test_only_policies_that_follow_their_use_are_learned(desk: Desk) -> None:
    plain = desk.follower(overrides={})
    gone = desk.follower()
    for state in (plain, gone):
        desk.each_hour(state, MIDNIGHT - 2 * WEEK, MIDNIGHT)
    desk.policies.delete(desk.tenant_id, gone.policy.policy_id, force=True, by="x", now=NOON)
    assert desk.usage.learn(NOON) == 0
    assert desk.load(plain) == ()


def test_a_policy_that_is_replaced_is_learned_anew(desk: Desk) -> None:
    state = desk.follower()
    desk.each_hour(state, MIDNIGHT - 3 * WEEK, MIDNIGHT)
    desk.add(state.policy.policy_id, window(MIDNIGHT - HOUR, admitted=100))
    desk.usage.learn(NOON)

    def replaced(timezone: str) -> PolicyState:
        spec = convert(
            {
                "scope_type": "tenant",
                "scope_id": "*",
                "resource_type": "llm",
                "limit_value": 200,
                "time_window_seconds": 60,
                "timezone": timezone,
                "overrides": {"usage_pattern": {}},
            },
            PolicySpec,
        )
        return desk.policies.replace(
            desk.tenant_id,
            state.policy.policy_id,
            spec,
            expected_version=None,
            by="tester",
            now=NOON,
        )

    before = desk.load(state)
    assert replaced("UTC").hourly_load == before
    assert desk.usage.learn(NOON) == 0
    assert replaced("Europe/Berlin").hourly_load == ()
    assert desk.load(state) == ()
    assert desk.usage.learn(NOON) == 1
    assert desk.load(state) != before


def test_every_tenant_is_learned_of(desk: Desk, database: Database) -> None:
    other = Desk(database, f"{desk.tenant_id}-2")
    states = [(one, one.follower()) for one in (desk, other)]
    for one, state in states:
        one.each_hour(state, MIDNIGHT - 2 * WEEK, MIDNIGHT)
    assert desk.usage.learn(NOON) == 2
    assert all(one.load(state) for one, state in states)
    other.close()

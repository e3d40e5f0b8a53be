"""Quotas in the store: allocated, shared out, listed, replaced and ended."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from fiscus.errors import Conflict, IdempotencyConflict, NotFound, ValidationError
from fiscus.ledger.requests.quotas import quota_check_command
from fiscus.paging import page_request
from fiscus.quotas.calls import QuotaCheckAnswer, QuotaCheckRequest
from fiscus.quotas.model import Quota, RenewalStatus, Strategy, UsageKind
from fiscus.quotas.port import QuotaFilter
from fiscus.scopes import ScopeType
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.quotas import rows as quota_rows
from fiscus.stores.sql.quotas.balances import most_used
from fiscus.stores.sql.tenants import SqlTenants
from fiscus.tenants import TenantSpec
from fiscus.wire.converting import convert
from tests.stores.conftest import in_threads, run_beside
from tests.stores.quota_desk import NOW, QuotaDesk, at, quota_spec


@pytest.fixture
def desk(database: Database, tenant: str) -> QuotaDesk:
    return QuotaDesk(database, tenant)


ALL = QuotaFilter()


def ids(quotas: list[Quota]) -> list[str]:
    return [quota.quota_id for quota in quotas]


def listed(desk: QuotaDesk, wanted: QuotaFilter = ALL) -> list[Quota]:
    return desk.quotas.list(desk.tenant_id, wanted, page_request()).items


# -- allocating


def test_an_allocation_is_found_again_and_is_its_first_version(desk: QuotaDesk) -> None:
    made = desk.allocate(max_burst_amount="12.500000000001", auto_renew=True)
    assert desk.get(made) == desk.get(made, 1) == made
    assert (made.version, made.period_start, made.period_end) == (
        1,
        at("2026-03-01"),
        at("2026-04-01"),
    )
    assert made.max_burst_amount == Decimal("12.500000000001")


def test_a_quota_takes_the_tenants_currency_and_zone(desk: QuotaDesk) -> None:
    spec = TenantSpec(currency="EUR", timezone="Europe/Berlin", require_quota=True)
    tenants = SqlTenants(desk.database)
    tenants.put(desk.tenant_id, spec, expected_version=None, now=NOW)
    quota = desk.allocate()
    assert (quota.currency, quota.timezone) == ("EUR", "Europe/Berlin")
    # a month that begins in winter and ends in summer time
    assert (quota.period_start, quota.period_end) == (
        at("2026-02-28T23:00"),
        at("2026-03-31T22:00"),
    )
    assert tenants.get(desk.tenant_id).require_quota
    assert tenants.settings(desk.tenant_id).require_quota


def test_every_change_moves_the_tenants_definitions_on(desk: QuotaDesk) -> None:
    made = desk.allocate()
    assert desk.row(made).definitions_version == desk.definitions_version() == 1
    desk.replace(made, allocated_amount="200")
    assert desk.row(made).definitions_version == desk.definitions_version() == 2
    desk.quotas.delete(desk.tenant_id, made.quota_id, force=False, by="ann", now=NOW)
    assert desk.row(made).definitions_version == desk.definitions_version() == 3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"version": 1}, "version"),
        ({"allocated_amount": "0"}, "allocated_amount"),
        ({"scope_type": "tenant", "scope_id": "somebody"}, "scope_id"),
        ({"period_start": "2026-02-01T00:00:00Z"}, "period_start"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
    ],
)
def test_what_is_wrong_with_an_allocation_is_named_and_nothing_is_made(
    desk: QuotaDesk, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        desk.allocate(**fields)
    assert caught.value.field == field
    assert listed(desk) == []
    assert desk.definitions_version() == 0


@pytest.mark.parametrize(
    ("start", "end", "overlaps"),
    [
        ("2026-03-20T00:00:00Z", "2026-03-21T00:00:00Z", True),
        ("2026-02-01T00:00:00Z", "2026-05-01T00:00:00Z", True),
        ("2026-03-31T23:59:00Z", "2026-04-02T00:00:00Z", True),
        ("2026-04-01T00:00:00Z", "2026-04-02T00:00:00Z", False),
        ("2026-02-01T00:00:00Z", "2026-03-11T00:00:00Z", True),
    ],
)
def test_periods_of_one_scope_and_resource_may_touch_but_not_overlap(
    desk: QuotaDesk, start: str, end: str, overlaps: bool
) -> None:
    march = desk.allocate()
    other: dict[str, Any] = {"period_type": "custom", "period_start": start, "period_end": end}
    if overlaps:
        with pytest.raises(Conflict) as caught:
            desk.allocate(**other)
        assert caught.value.details["quota_id"] == march.quota_id
    else:
        desk.allocate(**other)
    assert len(listed(desk)) == 1 + (not overlaps)


@pytest.mark.parametrize(
    "other",
    [
        {"scope_id": "gemini"},
        {"scope_id": "*"},
        {"scope_type": "user"},
        {"resource_type": "tokens"},
    ],
)
def test_another_scope_or_resource_is_another_place(desk: QuotaDesk, other: dict[str, Any]) -> None:
    desk.allocate()
    desk.allocate(**other)
    assert len(listed(desk)) == 2


def test_a_deleted_quota_makes_room_for_another(desk: QuotaDesk) -> None:
    first = desk.allocate()
    desk.quotas.delete(desk.tenant_id, first.quota_id, force=False, by="ann", now=NOW)
    assert desk.allocate().quota_id != first.quota_id


def test_threads_that_allocate_the_same_period_make_one(desk: QuotaDesk) -> None:
    refused: list[Conflict] = []

    def allocate() -> None:
        try:
            desk.allocate()
        except Conflict as error:
            refused.append(error)

    in_threads(8, allocate)
    assert len(listed(desk)) == 1
    assert len(refused) == 7


def test_a_key_whose_window_has_ended_allocates_anew_and_so_overlaps(desk: QuotaDesk) -> None:
    made = desk.allocate(key="k")
    with pytest.raises(Conflict):
        desk.allocate(key="k", now=NOW + timedelta(days=7))
    assert ids(listed(desk)) == [made.quota_id]


# -- batches


def batch(desk: QuotaDesk, specs: list[Any], key: str | None = None) -> list[Any]:
    return desk.quotas.allocate_batch(
        desk.tenant_id, specs, by="ann", now=NOW, idempotency=desk.once(key, specs)
    )


def test_items_of_a_batch_stand_and_fall_alone(desk: QuotaDesk) -> None:
    there = desk.allocate(scope_id="there")
    made, wrong, taken, twice, other = batch(
        desk,
        [
            quota_spec(),
            quota_spec(scope_id="gemini", allocated_amount="-1"),
            quota_spec(scope_id="there"),
            quota_spec(),
            quota_spec(scope_id="mercury"),
        ],
    )
    assert isinstance(wrong, ValidationError)
    assert wrong.field == "allocated_amount"
    assert isinstance(taken, Conflict)
    assert taken.details["quota_id"] == there.quota_id
    assert isinstance(twice, Conflict)
    assert twice.details["quota_id"] == made.quota_id
    assert set(ids(listed(desk))) == {there.quota_id, made.quota_id, other.quota_id}
    assert desk.get(other, 1) == other
    assert desk.row(made).definitions_version == desk.definitions_version() == 2


def test_a_batch_sent_again_gets_the_same_answers(desk: QuotaDesk) -> None:
    specs = [quota_spec(), quota_spec(scope_id="x", allocated_amount="0"), quota_spec()]
    first = batch(desk, specs, key="k")
    again = batch(desk, specs, key="k")
    assert again[0] == first[0]
    for one, other in zip(first[1:], again[1:], strict=True):
        assert type(one) is type(other)
        assert (one.message, one.details, one.suggested_action) == (
            other.message,
            other.details,
            other.suggested_action,
        )
    with pytest.raises(IdempotencyConflict):
        batch(desk, specs[:1], key="k")
    assert len(listed(desk)) == 1


def test_a_batch_without_effect_may_have_one_when_it_is_sent_again(desk: QuotaDesk) -> None:
    first = desk.allocate()
    assert isinstance(batch(desk, [quota_spec()], key="k")[0], Conflict)
    desk.quotas.delete(desk.tenant_id, first.quota_id, force=False, by="ann", now=NOW)
    assert isinstance(batch(desk, [quota_spec()], key="k")[0], Quota)


def test_a_batch_that_cannot_be_committed_leaves_nothing(
    desk: QuotaDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the process ends here")

    monkeypatch.setattr("fiscus.stores.sql.quotas.store.keep_answer", fail)
    with pytest.raises(RuntimeError):
        batch(desk, [quota_spec(), quota_spec(scope_id="gemini")], key="k")
    assert listed(desk) == []
    assert desk.definitions_version() == 0


# -- a total shared out

TEAM = [{"scope_type": "user", "scope_id": name} for name in ("ann", "bob", "cy")]


def test_a_total_is_shared_out_to_the_last_unit(desk: QuotaDesk) -> None:
    answer = desk.distribute(entities=TEAM, max_burst_ratio="0.1", auto_renew=True)
    assert [part.allocated_amount for part in answer.parts] == [34, 33, 33]
    quotas = [desk.get(str(part.quota_id)) for part in answer.parts]
    assert [quota.scope_id for quota in quotas] == ["ann", "bob", "cy"]
    assert [quota.max_burst_amount for quota in quotas] == [
        Decimal("3.4"),
        Decimal("3.3"),
        Decimal("3.3"),
    ]
    assert {quota.strategy for quota in quotas} == {Strategy.FAIR_SHARE}
    assert {quota.renewal_status for quota in quotas} == {RenewalStatus.PENDING}
    assert desk.definitions_version() == 1


def test_a_dry_run_says_who_would_get_what_and_makes_nothing(desk: QuotaDesk) -> None:
    answer = desk.distribute(entities=TEAM, dry_run=True, key="k")
    assert [(part.allocated_amount, part.quota_id) for part in answer.parts] == [
        (34, None),
        (33, None),
        (33, None),
    ]
    assert answer.dry_run
    assert listed(desk) == []
    assert not desk.distribute(entities=TEAM, key="k").dry_run


def test_a_part_of_nothing_makes_no_quota(desk: QuotaDesk) -> None:
    answer = desk.distribute(entities=TEAM, total_amount="2")
    assert [(part.allocated_amount, part.quota_id is None) for part in answer.parts] == [
        (1, False),
        (1, False),
        (0, True),
    ]
    assert len(listed(desk)) == 2


def test_one_part_that_overlaps_leaves_all_unmade(desk: QuotaDesk) -> None:
    there = desk.allocate(scope_type="user", scope_id="cy")
    with pytest.raises(Conflict) as caught:
        desk.distribute(entities=TEAM)
    assert caught.value.details["scope_id"] == "cy"
    assert ids(listed(desk)) == [there.quota_id]


def test_an_entity_listed_twice_is_named(desk: QuotaDesk) -> None:
    with pytest.raises(ValidationError) as caught:
        desk.distribute(entities=[*TEAM, TEAM[0]])
    assert caught.value.field == "entities[3]"


def test_an_entity_that_cannot_have_a_quota_is_named(desk: QuotaDesk) -> None:
    with pytest.raises(ValidationError) as caught:
        desk.distribute(entities=[*TEAM, {"scope_type": "tenant", "scope_id": "another"}])
    assert caught.value.field == "entities[3].scope_id"


@pytest.mark.parametrize("ratio", ["-0.1", "1e25"])
def test_a_burst_ratio_out_of_range_is_named(desk: QuotaDesk, ratio: str) -> None:
    with pytest.raises(ValidationError) as caught:
        desk.distribute(entities=TEAM, max_burst_ratio=ratio)
    assert caught.value.field == "max_burst_ratio"


def test_a_distribution_sent_again_gets_the_same_answer(desk: QuotaDesk) -> None:
    first = desk.distribute(entities=TEAM, key="k")
    assert desk.distribute(entities=TEAM, key="k") == first
    assert len(listed(desk)) == 3


def test_dynamic_goes_by_the_use_of_the_last_30_days(desk: QuotaDesk) -> None:
    """A consumption that met a user's own quota and that of every user counts once."""
    own = desk.allocate(
        scope_type="user", scope_id="ann", period_type="yearly", max_burst_amount="1"
    )
    every = desk.allocate(scope_type="user", scope_id="*", period_type="yearly")
    tokens = desk.allocate(scope_type="user", scope_id="*", resource_type="tokens")
    project = desk.allocate(scope_id="bob")
    both = desk.usage(own, "40", "2026-03-01")
    desk.usage(every, "40", "2026-03-01", scope_id="ann", consumption_id=both)
    for quota in (own, every):
        desk.usage(
            quota, "10.5", "2026-03-02", kind=UsageKind.RELEASE, scope_id="ann", consumption_id=both
        )
    desk.usage(every, "20", "2026-02-08T12:00", scope_id="bob")
    desk.usage(every, "1000", "2026-02-08T11:59", scope_id="bob")  # longer ago
    desk.usage(tokens, "1000", "2026-03-01", scope_id="bob")  # another resource
    desk.usage(project, "1000", "2026-03-01")  # another type of scope
    april = {"period_start": "2026-04-01T00:00:00Z", "resource_type": "gpu_hours"}
    answer = desk.distribute(
        entities=TEAM[:2], strategy="dynamic", total_amount="99", dry_run=True, **april
    )
    assert [part.usage for part in answer.parts] == [Decimal("29.5"), 20]
    assert [part.allocated_amount for part in answer.parts] == [59, 40]


def test_other_strategies_show_no_use(desk: QuotaDesk) -> None:
    answer = desk.distribute(entities=TEAM, dry_run=True)
    assert {part.usage for part in answer.parts} == {None}


# -- lists


def test_a_list_is_filtered_by_scope_resource_and_moment(desk: QuotaDesk) -> None:
    march = desk.allocate()
    april = desk.allocate(period_start="2026-04-15T00:00:00Z")
    user = desk.allocate(scope_type="user", scope_id="ann")
    tokens = desk.allocate(resource_type="tokens")
    for wanted, found in (
        (QuotaFilter(), [march, april, user, tokens]),
        (QuotaFilter(scope_type=ScopeType.USER), [user]),
        (QuotaFilter(scope_id="apollo", resource_type="gpu_hours"), [march, april]),
        (QuotaFilter(resource_type="tokens"), [tokens]),
        (QuotaFilter(active_at=NOW), [march, user, tokens]),
        (QuotaFilter(active_at=at("2026-04-01")), [april]),
        (QuotaFilter(active_at=at("2026-05-01")), []),
    ):
        assert listed(desk, wanted) == found[::-1]


def test_a_list_is_read_by_token_in_both_directions(desk: QuotaDesk) -> None:
    made = [desk.allocate(scope_id=f"p{number}") for number in range(5)][::-1]
    first = desk.quotas.list(desk.tenant_id, ALL, page_request(page_size=2))
    assert first.items == made[:2]
    assert first.pagination.total_count == 5
    token = first.pagination.next_page_token
    second = desk.quotas.list(desk.tenant_id, ALL, page_request(page_size=2, page_token=token))
    assert second.items == made[2:4]
    assert second.pagination.total_count is None
    back = second.pagination.prev_page_token
    again = desk.quotas.list(desk.tenant_id, ALL, page_request(page_size=2, page_token=back))
    assert again.items == made[:2]


def test_balances_of_another_tenants_quota_are_not_shown(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    desk.use(quota, "5")
    assert desk.quotas.balances(f"{desk.tenant_id}-other", [quota.quota_id]) == {}


def test_balances_are_of_quotas_for_one_scope(desk: QuotaDesk) -> None:
    used, unused = desk.allocate(), desk.allocate(scope_id="gemini")
    every = desk.allocate(scope_id="*")
    desk.use(used, "110.5", burst="10.5")
    desk.use(every, "5", scope_id="apollo")
    wanted = [used.quota_id, unused.quota_id, every.quota_id, "nothing"]
    found = desk.quotas.balances(desk.tenant_id, wanted)
    assert set(found) == {used.quota_id}
    assert (found[used.quota_id].used, found[used.quota_id].burst_used) == (100, Decimal("10.5"))
    assert desk.quotas.balances(desk.tenant_id, []) == {}


# -- replacing


def test_a_replacement_keeps_the_period(desk: QuotaDesk) -> None:
    first = desk.allocate(timezone="Europe/Berlin")
    second = desk.replace(first, allocated_amount="150", now=NOW + timedelta(hours=1))
    assert (second.timezone, second.period_start) == ("Europe/Berlin", first.period_start)


def test_a_replacement_keeps_currency_and_time_zone_where_it_names_none(desk: QuotaDesk) -> None:
    first = desk.allocate(burst_premium_rate="0.5")
    SqlTenants(desk.database).put(
        desk.tenant_id,
        TenantSpec(currency="JPY", timezone="Asia/Tokyo"),
        expected_version=None,
        now=NOW,
    )
    second = desk.replace(first, burst_premium_rate="0.5", allocated_amount="150")
    assert (second.currency, second.timezone) == ("USD", "UTC")
    assert desk.replace(second, burst_premium_rate="0.5", currency="EUR").currency == "EUR"


def test_a_custom_period_is_kept_when_it_is_left_out(desk: QuotaDesk) -> None:
    first = desk.allocate(period_type="custom", period_end="2026-03-12T00:00:00Z")
    later = desk.replace(first, period_type="custom", allocated_amount="7", now=at("2026-03-11"))
    assert (later.period_start, later.period_end) == (first.period_start, first.period_end)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"scope_id": "gemini"}, "scope_id"),
        ({"scope_type": "user"}, "scope_type"),
        ({"resource_type": "tokens"}, "resource_type"),
        ({"period_type": "weekly"}, "period_type"),
        ({"timezone": "Asia/Tokyo"}, "timezone"),
        ({"period_start": "2026-04-01T00:00:00Z"}, "period_start"),
    ],
)
def test_scope_resource_and_period_cannot_be_replaced(
    desk: QuotaDesk, fields: dict[str, Any], name: str
) -> None:
    quota = desk.allocate()
    with pytest.raises(Conflict) as caught:
        desk.replace(quota, **fields)
    fixed: Any = caught.value.details["fields"]
    assert name in fixed
    assert desk.get(quota) == quota


def test_a_cut_below_what_is_used_needs_force(desk: QuotaDesk) -> None:
    quota = desk.allocate(max_burst_amount="50")
    desk.use(quota, "120", burst="20")
    with pytest.raises(Conflict):
        desk.replace(quota, allocated_amount="99", max_burst_amount="50")
    with pytest.raises(Conflict):
        desk.replace(quota, max_burst_amount="19.999999999999")
    assert desk.replace(quota, max_burst_amount="20").version == 2
    assert desk.replace(quota, allocated_amount="1", force=True).version == 3
    # what is below already may grow without force
    assert desk.replace(quota, allocated_amount="2").version == 4


def test_of_what_only_the_last_digit_tells_apart_the_largest_is_found(desk: QuotaDesk) -> None:
    less, more = "1234567890123456.000000000001", "1234567890123456.000000000002"
    quota = desk.allocate(scope_id="*", allocated_amount="1234567890123456.1")
    for scope_id, amount in (("a", less), ("b", more), ("c", less), ("d", "1")):
        desk.use(quota, amount, scope_id=scope_id)
    with desk.database.read(desk.tenant_id) as connection:
        assert most_used(connection, quota) == Decimal(more)
    with pytest.raises(Conflict) as caught:
        desk.replace(quota, scope_id="*", allocated_amount=less)
    assert caught.value.details["scope_id"] == "b"
    assert desk.replace(quota, scope_id="*", allocated_amount=more).version == 2


def test_a_cut_of_a_quota_for_all_looks_at_each_id(desk: QuotaDesk) -> None:
    quota = desk.allocate(scope_id="*")
    desk.use(quota, "10", scope_id="apollo")
    desk.use(quota, "60", scope_id="gemini")
    with pytest.raises(Conflict) as caught:
        desk.replace(quota, scope_id="*", allocated_amount="59")
    assert caught.value.details["scope_id"] == "gemini"
    assert desk.replace(quota, scope_id="*", allocated_amount="60").version == 2


def test_a_quota_whose_period_is_over_is_not_changed(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    with pytest.raises(Conflict, match="over"):
        desk.replace(quota, now=at("2026-04-01"))


# -- ending


def test_a_deleted_quota_is_not_renewed(desk: QuotaDesk) -> None:
    quota = desk.allocate(auto_renew=True)
    desk.quotas.delete(desk.tenant_id, quota.quota_id, force=False, by="ann", now=NOW)
    assert desk.row(quota).renew_at is None


def test_a_running_quota_in_use_is_deleted_by_force_only(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    desk.use(quota, "0.000000000001")
    with pytest.raises(Conflict):
        desk.quotas.delete(desk.tenant_id, quota.quota_id, force=False, by="ann", now=NOW)
    desk.quotas.delete(desk.tenant_id, quota.quota_id, force=True, by="ann", now=NOW)
    assert listed(desk) == []


@pytest.mark.parametrize(("used", "now"), [("0", NOW), ("5", at("2026-04-01"))])
def test_a_quota_that_is_unused_or_over_is_deleted_without_force(
    desk: QuotaDesk, used: str, now: Any
) -> None:
    quota = desk.allocate()
    desk.use(quota, used)
    desk.quotas.delete(desk.tenant_id, quota.quota_id, force=False, by="ann", now=now)
    assert listed(desk) == []


def test_a_change_that_is_not_committed_leaves_the_quota_as_it_was(
    desk: QuotaDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = desk.allocate()
    put = quota_rows.put

    def put_and_fail(*arguments: Any, **options: Any) -> None:
        put(*arguments, **options)
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(quota_rows, "put", put_and_fail)
    with pytest.raises(RuntimeError):
        desk.replace(quota, allocated_amount="5")
    with pytest.raises(RuntimeError):
        desk.quotas.delete(desk.tenant_id, quota.quota_id, force=False, by="ann", now=NOW)
    assert desk.get(quota) == quota
    with pytest.raises(NotFound):
        desk.get(quota, 2)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("change", ["replace", "delete"])
def test_a_group_in_flight_is_waited_for_before_a_quota_is_cut_or_counts_as_unused(
    desk: QuotaDesk, database_url: str, change: str
) -> None:
    quota = desk.allocate()
    check = convert(
        {"resource_type": "gpu_hours", "project_id": "apollo", "required_amount": "90"},
        QuotaCheckRequest,
    )
    answer, changed = run_beside(
        quota_check_command(check, desk.tenant_id, NOW),
        database_url,
        lambda: (
            desk.replace(quota, allocated_amount="50")
            if change == "replace"
            else desk.quotas.delete(desk.tenant_id, quota.quota_id, force=False, by="bob", now=NOW)
        ),
    )
    assert isinstance(answer, QuotaCheckAnswer)
    assert answer.allowed
    with pytest.raises(Conflict):
        changed.result()
    assert desk.get(quota) == quota

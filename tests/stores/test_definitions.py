"""What definitions of every kind have in common: versions, conflicts, deletion, creation once."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from fiscus.budgets.model import BudgetSpec
from fiscus.budgets.port import BudgetFilter
from fiscus.errors import Conflict, IdempotencyConflict, NotFound, ValidationError
from fiscus.idempotency import Idempotency, idempotency
from fiscus.paging import PageRequest
from fiscus.quotas.model import QuotaSpec
from fiscus.quotas.port import QuotaFilter
from fiscus.ratelimits.model import PolicySpec
from fiscus.ratelimits.policy_port import PolicyFilter
from fiscus.stores.sql.budgets.store import SqlBudgets
from fiscus.stores.sql.quotas.store import SqlQuotas
from fiscus.stores.sql.ratelimits.policies import SqlPolicies
from fiscus.stores.sql.tenants import SqlTenants
from fiscus.tenants import TenantSpec
from fiscus.wire.converting import convert
from tests.stores.conftest import in_threads

if TYPE_CHECKING:
    from fiscus.clock import ManualClock
    from fiscus.stores.sql.database import Database

NOBODY = "01900000-0000-7000-8000-000000000009"


class Definitions:
    """One tenant's definitions of one kind, changed in short forms."""

    store_type: ClassVar[Any]
    id_field: ClassVar[str]
    spec_type: ClassVar[Any]
    everything: ClassVar[Any]
    fields: ClassVar[dict[str, Any]]
    change: ClassVar[dict[str, Any]]
    """Another amount."""
    elsewhere: ClassVar[dict[str, Any]]
    """Another scope."""

    def __init__(self, database: Database, tenant_id: str, clock: ManualClock) -> None:
        self.database = database
        self.store = self.store_type(database)
        self.tenant_id = tenant_id
        self.clock = clock

    @property
    def by(self) -> dict[str, Any]:
        return {"by": "tester", "now": self.clock.now()}

    def spec(self, **fields: Any) -> Any:
        return convert(self.fields | fields, self.spec_type)

    def once(self, key: str, **fields: Any) -> Idempotency:
        until = self.clock.now() + timedelta(hours=24)
        return idempotency(self.tenant_id, "create", key, self.spec(**fields), until)

    def create(self, once: Idempotency | None = None, **fields: Any) -> Any:
        spec = self.spec(**fields)
        return self.store.create(self.tenant_id, spec, **self.by, idempotency=once)

    def get(self, name: str, version: int | None = None) -> Any:
        return self.store.get(self.tenant_id, name, version)

    def replace(self, name: str, expected: int | None = None, **fields: Any) -> Any:
        spec = self.spec(**fields)
        return self.store.replace(self.tenant_id, name, spec, expected_version=expected, **self.by)

    def delete(self, name: str) -> None:
        self.store.delete(self.tenant_id, name, force=False, **self.by)

    def listed(self) -> list[Any]:
        return self.store.list(self.tenant_id, self.everything, PageRequest()).items

    def body(self, one: Any) -> Any:
        """Of what is answered, the definition."""
        return one

    def name(self, one: Any) -> str:
        return getattr(self.body(one), self.id_field)


class Budgets(Definitions):
    store_type = SqlBudgets
    id_field = "budget_id"
    spec_type = BudgetSpec
    everything = BudgetFilter()
    fields: ClassVar = {
        "budget_name": "Search",
        "budget_amount": "100",
        "period_type": "monthly",
        "allocated_to_type": "project",
        "allocated_to_id": "apollo",
    }
    change: ClassVar = {"budget_amount": 200}
    elsewhere: ClassVar = {"allocated_to_id": "gemini"}


class Policies(Definitions):
    store_type = SqlPolicies
    id_field = "policy_id"
    spec_type = PolicySpec
    everything = PolicyFilter()
    fields: ClassVar = {
        "scope_type": "user",
        "scope_id": "*",
        "resource_type": "llm",
        "limit_value": 100,
        "time_window_seconds": 60,
    }
    change: ClassVar = {"limit_value": 200}
    elsewhere: ClassVar = {"scope_id": "ada"}

    def body(self, one: Any) -> Any:
        return one.policy


class Quotas(Definitions):
    store_type = SqlQuotas
    id_field = "quota_id"
    spec_type = QuotaSpec
    everything = QuotaFilter()
    fields: ClassVar = {
        "scope_type": "project",
        "scope_id": "apollo",
        "resource_type": "gpu_hours",
        "allocated_amount": "100",
    }
    change: ClassVar = {"allocated_amount": 200}
    elsewhere: ClassVar = {"scope_id": "gemini"}

    def create(self, once: Idempotency | None = None, **fields: Any) -> Any:
        spec = self.spec(**fields)
        return self.store.allocate(self.tenant_id, spec, **self.by, idempotency=once)

    def replace(self, name: str, expected: int | None = None, **fields: Any) -> Any:
        spec = self.spec(**fields)
        return self.store.replace(
            self.tenant_id, name, spec, expected_version=expected, force=False, **self.by
        )


@pytest.fixture(params=[Budgets, Policies, Quotas])
def kind(
    request: pytest.FixtureRequest, database: Database, tenant: str, clock: ManualClock
) -> Definitions:
    return request.param(database, tenant, clock)


def test_one_of_another_tenant_is_not_found(kind: Definitions) -> None:
    name = kind.name(kind.create())
    other = type(kind)(kind.database, f"{kind.tenant_id}-other", kind.clock)
    for call in (other.get, other.replace, other.delete):
        with pytest.raises(NotFound):
            call(name)
    with pytest.raises(NotFound):
        other.get(name, 1)
    assert other.listed() == []


@pytest.mark.parametrize("name", ["", "x", "'; DROP TABLE tenants", "A" * 36, "\x00", NOBODY])
def test_an_id_that_is_none_is_not_found(kind: Definitions, name: str) -> None:
    for version in (None, 1):
        with pytest.raises(NotFound):
            kind.get(name, version)


@pytest.mark.parametrize("version", [0, -1, 2, 2**31, 2**80])
def test_a_version_that_never_was_is_not_found(kind: Definitions, version: int) -> None:
    with pytest.raises(NotFound):
        kind.get(kind.name(kind.create()), version)


def test_a_new_one_names_no_version(kind: Definitions) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.create(version=1)
    assert caught.value.field == "version"
    assert kind.listed() == []


def test_the_default_zone_is_the_tenants_own(kind: Definitions) -> None:
    SqlTenants(kind.database).put(
        kind.tenant_id,
        TenantSpec(timezone="Asia/Tokyo"),
        expected_version=None,
        now=kind.clock.now(),
    )
    assert kind.body(kind.create()).timezone == "Asia/Tokyo"


def test_every_version_is_kept(kind: Definitions) -> None:
    first = kind.create()
    name, made_at = kind.name(first), kind.clock.now()
    kind.clock.advance(seconds=5)
    second = kind.replace(name, expected=1, **kind.change)
    assert {field: getattr(kind.body(second), field) for field in kind.change} == kind.change
    assert [kind.body(one).version for one in (first, second)] == [1, 2]
    assert kind.body(second).created_at == made_at
    assert kind.body(second).updated_at == kind.clock.now()
    assert kind.get(name) == kind.get(name, 2) == second
    assert kind.get(name, 1) == first


@pytest.mark.parametrize("stale", [{"expected": 1}, {"version": 1}])
def test_a_stale_version_is_a_conflict_that_says_the_current_one(
    kind: Definitions, stale: dict[str, int]
) -> None:
    name = kind.name(kind.create())
    kind.replace(name, **stale)
    with pytest.raises(Conflict) as caught:
        kind.replace(name, **stale)
    assert caught.value.details["current_version"] == 2


def test_without_a_version_the_last_change_wins(kind: Definitions) -> None:
    name = kind.name(kind.create())
    assert [kind.body(kind.replace(name)).version for _ in range(2)] == [2, 3]


def test_of_changes_at_the_same_version_one_wins(kind: Definitions) -> None:
    name, outcomes = kind.name(kind.create()), list[str]()

    def change() -> None:
        try:
            outcomes.append(str(kind.body(kind.replace(name, expected=1)).version))
        except Conflict:
            outcomes.append("conflict")

    in_threads(4, change)
    assert sorted(outcomes) == ["2", "conflict", "conflict", "conflict"]


def test_a_deleted_one_is_gone_and_its_versions_stay(kind: Definitions) -> None:
    made = kind.create()
    name = kind.name(made)
    kind.clock.advance(seconds=5)
    kind.delete(name)
    for call in (kind.get, kind.replace, kind.delete):
        with pytest.raises(NotFound):
            call(name)
    assert kind.listed() == []
    assert kind.get(name, 1) == made
    assert kind.body(kind.get(name, 2)).updated_at == kind.clock.now()


def test_a_repeated_creation_answers_what_was_made_before(kind: Definitions) -> None:
    first = kind.create(kind.once("k"))
    assert kind.create(kind.once("k")) == first
    other = kind.once("k", **kind.elsewhere)
    with pytest.raises(IdempotencyConflict):
        kind.create(other, **kind.elsewhere)
    assert kind.listed() == [first]
    kind.clock.set(other.expires_at)
    assert kind.name(kind.create(other, **kind.elsewhere)) != kind.name(first)


def test_threads_with_one_key_make_one(kind: Definitions) -> None:
    once, made = kind.once("k"), list[str]()
    in_threads(4, lambda: made.append(kind.name(kind.create(once))))
    assert made == [kind.name(one) for one in kind.listed()] * 4

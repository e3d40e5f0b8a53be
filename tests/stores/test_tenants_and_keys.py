"""Tenants' settings and API keys, on both databases."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from fiscus.access.model import ApiKey, Role, hash_key
from fiscus.errors import Conflict, IdempotencyConflict, NotFound, ValidationError
from fiscus.idempotency import Idempotency, idempotency
from fiscus.ids import uuid7
from fiscus.paging import PageRequest
from fiscus.priorities import Priority
from fiscus.tenants import TenantSpec
from tests.stores.conftest import Tenant


def put(acme: Tenant, expected: int | None = None, **fields: Any) -> Any:
    return acme.engine.tenants.put(
        acme.tenant_id, TenantSpec(**fields), expected_version=expected, now=acme.now
    )


def a_key(acme: Tenant, **fields: Any) -> ApiKey:
    values: dict[str, Any] = {
        "key_id": uuid7(),
        "tenant_id": acme.tenant_id,
        "name": "gateway",
        "hint": "fsk_abcd",
        "roles": [Role.SERVICE, Role.AUDITOR],
        "created_by": "tester",
        "created_at": acme.now,
        "expires_at": None,
        "revoked_at": None,
    }
    return ApiKey(**values | fields)


def test_a_tenant_nothing_was_set_for_is_not_found(acme: Tenant) -> None:
    with pytest.raises(NotFound):
        acme.engine.tenants.get(acme.tenant_id)


def test_settings_are_read_as_they_were_put(acme: Tenant) -> None:
    made = put(acme, currency="EUR", timezone="Europe/Berlin", rollup_tags=["team", "env", "team"])
    assert made.version == 1
    assert made.rollup_tags == ["env", "team"]
    assert acme.engine.tenants.get(acme.tenant_id) == made


def test_a_budget_makes_its_tenant_with_the_defaults(acme: Tenant) -> None:
    acme.budget()
    found = acme.engine.tenants.get(acme.tenant_id)
    assert (found.currency, found.timezone, found.version) == ("USD", "UTC", 1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"currency": "usd"}, "currency"), ({"timezone": "Nowhere"}, "timezone")],
)
def test_wrong_settings_are_refused_by_field(
    acme: Tenant, fields: dict[str, str], named: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        put(acme, **fields)
    assert caught.value.field == named


def test_a_tenants_name_is_an_id(acme: Tenant) -> None:
    with pytest.raises(ValidationError) as caught:
        acme.engine.tenants.put("a,b", TenantSpec(), expected_version=None, now=acme.now)
    assert caught.value.field == "tenant_id"


def test_stale_settings_are_a_conflict_that_says_the_current_version(acme: Tenant) -> None:
    with pytest.raises(Conflict) as none_yet:
        put(acme, expected=1)
    assert none_yet.value.details["current_version"] == 0
    put(acme)
    assert put(acme, expected=1).version == 2
    for stale in ({"expected": 1}, {"version": 1}):
        with pytest.raises(Conflict) as caught:
            put(acme, **stale)
        assert caught.value.details["current_version"] == 2


def test_a_key_is_found_by_its_hash_alone(acme: Tenant) -> None:
    keys, key, digest = acme.engine.api_keys, a_key(acme), hash_key(uuid7())
    assert keys.find(digest) is None
    keys.create(key, digest)
    assert keys.find(digest) == key
    assert keys.get(acme.tenant_id, key.key_id) == key


def test_a_key_keeps_the_highest_priority_it_may_claim(acme: Tenant) -> None:
    keys, digest = acme.engine.api_keys, hash_key(uuid7())
    assert a_key(acme).highest_priority is Priority.NORMAL
    keys.create(a_key(acme, highest_priority=Priority.CRITICAL), digest)
    found = keys.find(digest)
    assert found is not None
    assert found.highest_priority is Priority.CRITICAL


def test_a_secret_is_kept_once_whosever_it_is(acme: Tenant) -> None:
    keys, digest = acme.engine.api_keys, hash_key(uuid7())
    keys.create(a_key(acme), digest)
    with pytest.raises(Conflict):
        keys.create(a_key(acme, tenant_id=f"{acme.tenant_id}-2"), digest)


def test_a_revoked_key_stays_known_and_revoking_again_is_the_same(acme: Tenant) -> None:
    keys, key, digest = acme.engine.api_keys, a_key(acme), hash_key(uuid7())
    keys.create(key, digest)
    revoked = keys.revoke(acme.tenant_id, key.key_id, acme.now)
    assert revoked == msgspec.structs.replace(key, revoked_at=acme.now)
    assert keys.revoke(acme.tenant_id, key.key_id, acme.now + timedelta(hours=1)) == revoked
    assert keys.find(digest) == revoked


@pytest.mark.parametrize("name", ["x", "01900000-0000-7000-8000-000000000000"])
def test_a_key_that_is_none_is_not_found(acme: Tenant, name: str) -> None:
    with pytest.raises(NotFound):
        acme.engine.api_keys.get(acme.tenant_id, name)
    with pytest.raises(NotFound):
        acme.engine.api_keys.revoke(acme.tenant_id, name, acme.now)


def test_another_tenants_key_is_not_found(acme: Tenant) -> None:
    key = a_key(acme)
    acme.engine.api_keys.create(key, hash_key(uuid7()))
    with pytest.raises(NotFound):
        acme.engine.api_keys.revoke("somebody-else", key.key_id, acme.now)
    assert acme.engine.api_keys.get(acme.tenant_id, key.key_id).revoked_at is None


def test_keys_are_listed_newest_first_and_page_by_page(acme: Tenant) -> None:
    made = [acme.engine.api_keys.create(a_key(acme), hash_key(uuid7())) for _ in range(3)]
    page = acme.engine.api_keys.list(acme.tenant_id, PageRequest(page_size=2))
    assert page.items == [made[2], made[1]]
    assert page.pagination.total_count == 3


def once(acme: Tenant, body: str) -> Idempotency:
    until = acme.now + timedelta(hours=24)
    return idempotency(acme.tenant_id, "create_api_key", "k", body, until)


def test_a_repeated_creation_answers_the_key_made_before_without_its_secret(acme: Tenant) -> None:
    keys, digest = acme.engine.api_keys, hash_key(uuid7())
    first = keys.create(a_key(acme), digest, idempotency=once(acme, "body"))
    assert keys.create(a_key(acme), hash_key("other"), idempotency=once(acme, "body")) == first
    assert keys.find(hash_key("other")) is None
    with pytest.raises(IdempotencyConflict):
        keys.create(a_key(acme), hash_key("other"), idempotency=once(acme, "other body"))


def test_two_threads_with_one_key_make_one_api_key(acme: Tenant) -> None:
    made: list[str] = []
    together = threading.Barrier(4)

    def create() -> None:
        together.wait()
        key = acme.engine.api_keys.create(
            a_key(acme), hash_key(uuid7()), idempotency=once(acme, "body")
        )
        made.append(key.key_id)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 4
    assert len(set(made)) == 1
    assert len(acme.engine.api_keys.list(acme.tenant_id, PageRequest()).items) == 1

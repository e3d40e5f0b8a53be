"""Arguments of a wrong type are told by their name, before anything is asked or opened."""

from __future__ import annotations

from collections import UserList
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import AsyncClient, Client, Fiscus, ValidationError, use
from fiscus.client.clients import _CERTIFICATES, _PROXIES
from fiscus.ids import uuid7
from tests.client.apis import BUDGET, OPERATION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fiscus.client.blocking.api import BlockingApi
    from tests.client.apis import RunningServer


ID = uuid7()


@pytest.fixture(scope="module")
def embedded_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fiscus]:
    with Fiscus.open(data_dir=tmp_path_factory.mktemp("types"), tenant="acme") as opened:
        yield opened


@pytest.fixture(params=["embedded", "http"])
def api(
    request: pytest.FixtureRequest, server: RunningServer, embedded_api: Fiscus
) -> Iterator[BlockingApi]:
    if request.param == "embedded":
        yield embedded_api
        return
    with Client(server.url, server.key, tenant="acme") as client:
        yield client


BATCHES = ["check_batch", "check_quotas", "check_rate_limits", "record_batch"]


@pytest.mark.parametrize("call", BATCHES)
@pytest.mark.parametrize("given", [{"resource_type": "llm"}, "abc", b"abc", None, 5], ids=repr)
def test_a_batch_that_is_no_list_is_told(api: BlockingApi, call: str, given: Any) -> None:
    field = "records" if call == "record_batch" else "checks"
    with pytest.raises(ValidationError, match=f"{field} is not a list") as told:
        getattr(api, call)(given)
    assert told.value.field == field
    assert "dict" in (told.value.suggested_action or "")


@pytest.mark.parametrize("call", BATCHES)
@pytest.mark.parametrize("given", [None, "abc", 5, ["resource_type"]], ids=repr)
def test_an_item_that_is_no_dict_is_told_with_its_place(
    api: BlockingApi, call: str, given: Any
) -> None:
    field = "records" if call == "record_batch" else "checks"
    with pytest.raises(ValidationError, match=r"\[1\] is not a dict") as told:
        getattr(api, call)([{"resource_type": "llm"}, given])
    assert told.value.field == f"{field}[1]"


def test_a_batch_may_come_from_a_generator(api: BlockingApi) -> None:
    costs = ({**OPERATION, "cost_amount": cost} for cost in (1, 2))
    assert len(api.record_batch(costs).results) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, 5, b"x", ["x"]], ids=repr)
@pytest.mark.parametrize(
    ("call", "more", "field"),
    [
        ("get_budget", (), "budget_id"),
        ("delete_budget", (), "budget_id"),
        ("utilization", (), "budget_id"),
        ("update_budget", (), "budget_id"),
        ("get_quota", (), "quota_id"),
        ("quota_history", (), "quota_id"),
        ("update_quota", (), "quota_id"),
        ("delete_quota", (), "quota_id"),
        ("get_rate_limit", (), "policy_id"),
        ("update_rate_limit", (), "policy_id"),
        ("delete_rate_limit", (), "policy_id"),
        ("reset_rate_limit", (), "policy_id"),
        ("release", (), "reservation_id"),
        ("extend", (60,), "reservation_id"),
        ("settle", (1,), "reservation_id"),
        ("release_consumption", (), "consumption_id"),
        ("get_tenant", (), "tenant"),
        ("put_tenant", (), "tenant"),
    ],
)
def test_an_id_that_is_no_text_is_told(
    api: BlockingApi, call: str, more: tuple[Any, ...], field: str, given: Any
) -> None:
    with pytest.raises(ValidationError, match=f"{field} is not text") as told:
        getattr(api, call)(given, *more)
    assert told.value.field == field


def test_a_key_and_a_tenant_that_are_no_text_are_told(api: BlockingApi) -> None:
    wrong: Any = 5
    with pytest.raises(ValidationError) as told:
        api.record_batch([{**OPERATION, "cost_amount": 1}], idempotency_key=wrong)
    assert told.value.field == "idempotency_key"
    with pytest.raises(ValidationError) as told:
        api.get_budget("019cd7d8-7c00-7a11-8f00-0123456789ab", tenant=wrong)
    assert told.value.field == "tenant"


def test_one_field_by_both_of_its_names_is_told_with_both(api: BlockingApi) -> None:
    with pytest.raises(ValidationError, match="project and project_id") as told:
        api.reserve(resource_type="llm", estimate=1, project="search", project_id="other")
    assert told.value.suggested_action == "Give project or project_id."


@pytest.mark.parametrize("given", [UserList([1]), range(3), {"resource_types": UserList(["llm"])}])
def test_what_only_can_be_asked_by_a_key_is_no_object_without_fields(
    api: BlockingApi, given: Any
) -> None:
    """Else the filters of a budget would be empty, so that it counts everything."""
    wanted: Any = {**BUDGET, "filters": given}
    with pytest.raises(ValidationError, match="give a dict or a list") as told:
        api.create_budget(**wanted)
    assert told.value.field == "filters"
    with pytest.raises(ValidationError, match="give a dict or a list"):
        api.check(**OPERATION, estimate=1, tags=given)


class Tokens:
    """As a software development kit has them."""


FREE = [
    (Tokens(), "no form for"),
    (Decimal("NaN"), "NaN"),
    (Decimal("-Infinity"), "NaN"),
    ([{"deep": "\ud800"}], "surrogate"),
    ({None: 1}, "no form for"),
]


@pytest.mark.parametrize(("value", "what"), FREE, ids=["object", "nan", "inf", "text", "name"])
def test_what_json_cannot_say_in_a_free_object_is_told(
    api: BlockingApi, value: Any, what: str
) -> None:
    free = {"tokens": value}
    for call, field in [
        (lambda: api.record(**OPERATION, cost_amount=1, usage=free), "usage"),
        (lambda: api.record_batch([{**OPERATION, "cost_amount": 1, "usage": free}]), "usage"),
        (lambda: api.check(**OPERATION, estimate=1, operation_context=free), "operation_context"),
        (lambda: api.settle(ID, 1, usage=free), "usage"),
    ]:
        with pytest.raises(ValidationError, match=what) as told:
            call()
        assert (told.value.field or "").removeprefix("records[0].") == field


def test_a_free_object_is_kept_as_its_json_says(api: BlockingApi) -> None:
    moment = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
    free: dict[str, Any] = {"at": moment, "share": 0.5, "ids": (1, 2), "by": {3: Decimal("1.50")}}
    made = api.record(**OPERATION, cost_amount=1, usage=free, operation_id=f"op-{uuid7()}")
    [kept] = [one for one in api.records().items if one.record_id == made.record_id]
    assert kept.usage == {
        "at": "2026-03-10T12:00:00Z",
        "share": Decimal("0.5"),
        "ids": [1, 2],
        "by": {"3": Decimal("1.50")},
    }


def test_a_wrong_usage_settles_nothing_and_leaves_the_hold_as_it_is(api: BlockingApi) -> None:
    wrong: Any
    with api.reserve(**OPERATION, estimate=2) as r:
        for wrong in (Tokens(), {"details": Tokens()}, "many", {"n": Decimal("NaN")}):
            with pytest.raises(ValidationError) as told:
                r.settle(1, usage=wrong)
            assert told.value.field == "usage"
        assert r.settle(1, usage={"tokens": 3}).charged == 1


@pytest.mark.parametrize("lone", ["a\ud800", "\udfff"], ids=ascii)
def test_text_that_has_no_utf_8_is_told(api: BlockingApi, lone: str) -> None:
    cost: dict[str, Any] = {**OPERATION, "cost_amount": 1}
    for call, field in [
        (lambda: api.record(**cost, region=lone), "region"),
        (lambda: api.record(**cost, tags={"k": lone}), "tags.k"),
        (lambda: api.record(**cost, tags={lone: "v"}), "tags"),
        (lambda: api.record_batch([cost, {**cost, "region": lone}]), "records[1].region"),
        (lambda: api.check(**OPERATION, estimate=1, service_name=lone), "service_name"),
        (lambda: api.create_budget(**{**BUDGET, "budget_name": lone}), "budget_name"),
        (lambda: api.check_rate_limit(resource_type="api", resource_key=lone), "resource_key"),
        (lambda: api.get_budget(lone), "budget_id"),
        (lambda: api.records(region=lone), "region"),
    ]:
        with pytest.raises(ValidationError, match="surrogate") as told:
            call()
        assert told.value.field == field


def test_a_tag_with_nul_is_told_and_settles_nothing(api: BlockingApi) -> None:
    cost: dict[str, Any] = {**OPERATION, "cost_amount": 1}
    check: dict[str, Any] = {**OPERATION, "estimate": 1}
    wrong = {"team": "a\0"}
    with api.reserve(**check) as r:
        for call, field in [
            (lambda: api.check(**check, tags=wrong), "tags.team"),
            (lambda: api.check(**check, tags={"\0": "a"}), "tags"),
            (lambda: api.check_batch([check, {**check, "tags": wrong}]), "checks[1].tags.team"),
            (lambda: api.reserve(**check, tags=wrong), "tags.team"),
            (lambda: api.record(**cost, tags=wrong), "tags.team"),
            (lambda: api.settle(ID, 1, tags=wrong), "tags.team"),
            (lambda: r.settle(1, tags=wrong), "tags.team"),
        ]:
            with pytest.raises(ValidationError, match="must not contain the character NUL") as told:
                call()
            assert told.value.field == field
            assert told.value.message.startswith(f"{field}: ")
        assert r.settle(1).charged == 1
    [item] = api.record_batch([{**cost, "tags": wrong}]).results
    assert item.error is not None
    assert item.error.details == {"field": "tags.team"}


def test_an_amount_that_is_not_a_number_is_an_error_of_its_item(api: BlockingApi) -> None:
    good, bad = ({**OPERATION, "cost_amount": Decimal(cost)} for cost in ("1", "NaN"))
    first, second = api.record_batch([good, bad]).results
    assert first.error is None
    assert second.error is not None
    assert second.error.details == {"field": "cost_amount"}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("url", None),
        ("url", 5),
        ("key", None),
        ("key", 5),
        ("tenant", 5),
        ("tenant", "a b"),
        ("tenant", "\ud800"),
        ("timeout_seconds", "x"),
        ("timeout_seconds", None),
        ("total_seconds", True),
        ("max_retries", "3"),
        ("max_retries", 1.5),
    ],
)
def test_a_client_names_the_argument_that_cannot_be_used(kind: Any, field: str, given: Any) -> None:
    arguments = {"url": "http://127.0.0.1:3472", "key": "k", field: given}
    with pytest.raises(ValidationError) as told:
        kind(**arguments)
    assert told.value.field == field


@pytest.mark.parametrize("field", ["tenant", "data_dir", "database_url"])
def test_opening_names_the_argument_of_a_wrong_type(tmp_path: Path, field: str) -> None:
    arguments: dict[str, Any] = {"data_dir": tmp_path / "new", field: 5}
    with pytest.raises(ValidationError) as told:
        Fiscus.open(**arguments)
    assert told.value.field == field
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["\0", "\ud800"], ids=ascii)
def test_a_folder_that_no_system_can_name_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be the folder of Fiscus's data") as told:
        Fiscus.open(data_dir=f"{tmp_path}/{name}")
    assert told.value.field == "FISCUS_DATA_DIR"
    assert told.value.message.isprintable()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "url", ["http://host:3472?x=1", "http://host:3472/#a", "http://host:99999", "host:3472"]
)
def test_a_url_that_is_no_server_is_told(kind: Any, url: str) -> None:
    with pytest.raises(ValidationError, match="not the address of a server") as told:
        kind(url, "k")
    assert told.value.field == "url"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("HTTP_PROXY", "garbage://:::x"),
        ("http_proxy", "ftp://proxy"),
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("SSL_CERT_FILE", "/nonexistent"),
        ("SSL_CERT_FILE", __file__),
    ],
)
def test_an_environment_that_connections_cannot_use_is_told(
    monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, given: str
) -> None:
    for one in (*_PROXIES, *_CERTIFICATES):
        monkeypatch.delenv(one, raising=False)
        monkeypatch.delenv(one.lower(), raising=False)
    monkeypatch.setenv(name, given)
    with pytest.raises(ValidationError, match=f"{name} in the environment cannot be used") as told:
        kind("http://127.0.0.1:3472", "k")
    assert told.value.field == name


@pytest.mark.parametrize("given", [5, Client, "fiscus"], ids=repr)
def test_only_a_client_or_a_fiscus_can_be_used(given: Any) -> None:
    with pytest.raises(ValidationError, match="takes a Client or a Fiscus"):
        use(given)


def test_an_empty_idempotency_key_is_no_other_key(api: BlockingApi) -> None:
    with pytest.raises(ValidationError) as told:
        api.record_batch([{**OPERATION, "cost_amount": 1}], idempotency_key="")
    assert "idempotency" in told.value.message.lower()


@pytest.mark.parametrize("tenant", ["", "a b", "x" * 200], ids=len)
def test_a_tenant_that_is_no_id_is_told_by_every_call_that_takes_one(
    api: BlockingApi, tenant: str
) -> None:
    for call in (
        lambda: api.get_budget(ID, tenant=tenant),
        lambda: api.update_budget(ID, tenant=tenant, budget_amount=1),
        lambda: api.delete_budget(ID, tenant=tenant),
        lambda: api.get_quota(ID, tenant=tenant),
        lambda: api.release(ID, tenant=tenant),
        lambda: api.extend(ID, 60, tenant=tenant),
        lambda: api.settle(ID, 1, tenant=tenant),
        lambda: api.release_consumption(ID, tenant=tenant),
    ):
        with pytest.raises(ValidationError) as told:
            call()
        assert told.value.field == "tenant"


@pytest.mark.parametrize("given", ["", ".", ".."], ids=repr)
def test_what_can_be_no_id_is_told(api: BlockingApi, given: str) -> None:
    for call, field in [
        (api.get_budget, "budget_id"),
        (api.get_quota, "quota_id"),
        (api.release, "reservation_id"),
        (api.release_consumption, "consumption_id"),
    ]:
        with pytest.raises(ValidationError, match="is not an id") as told:
            call(given)
        assert told.value.field == field

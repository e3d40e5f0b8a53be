"""Checks of quotas over HTTP: what is taken, denied, given back, and how it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from tests.http.app_client import API, open_app
from tests.http.quota_calls import NOBODY, USE, path_of, use

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio


async def used(client: AppClient, quota: dict[str, Any]) -> tuple[Any, Any]:
    shown = (await client.get(path_of(quota))).json()
    return shown["used_amount"], shown["burst_used"]


async def test_an_amount_is_taken_until_nothing_is_left(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10)
    first = await use(client, 9)
    assert (first["allowed"], first["matched"]) == (True, 1)
    assert (first["quota_id"], first["remaining_amount"]) == (quota["quota_id"], 1)
    line = first["quotas"][0]
    assert line["scope"] == {"type": "project", "id": "vision"}
    assert (line["used_amount"], line["utilization_ratio"]) == (9, 0.9)
    assert (line["level"], line["crossed"]) == ("critical_90", ["warning_80", "critical_90"])
    denied = await use(client, 2)
    assert (denied["allowed"], denied["max_allowed_amount"]) == (False, 1)
    assert (denied["consumption_id"], denied["quotas"][0]["decision"]) == (None, "deny")
    assert denied["fits_at"] is None, "nobody allocates the next period"
    assert await used(client, quota) == (9, 0)
    last = await use(client, 1)
    assert last["quotas"][0]["crossed"] == ["exhausted_100"]


async def test_looking_takes_nothing(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10)
    looked = await use(client, 10, consume=False)
    assert (looked["allowed"], looked["consumption_id"]) == (True, None)
    assert await used(client, quota) == (0, 0)


async def test_every_matching_quota_is_taken_from_or_none(client: AppClient) -> None:
    project = await client.make_quota(allocated_amount=10)
    person = await client.make_quota(scope_type="user", scope_id="*", allocated_amount=3)
    assert (await use(client, 3, user_id="ada"))["matched"] == 2
    denied = await use(client, 1, user_id="ada")
    assert (denied["allowed"], denied["quota_id"]) == (False, person["quota_id"])
    assert await used(client, project) == (3, 0)
    assert (await use(client, 1, user_id="bob"))["allowed"] is True


async def test_without_a_quota_it_is_allowed_unless_the_tenant_requires_one(
    client: AppClient,
) -> None:
    answer = await use(client, 1)
    assert (answer["allowed"], answer["matched"], answer["quota_id"]) == (True, 0, None)
    assert answer["consumption_id"] is None
    assert (await client.put("/tenants/acme", {"require_quota": True})).status_code == 200
    answer = await use(client, 1)
    assert (answer["allowed"], answer["matched"]) == (False, 0)
    enforced = await client.post("/quotas/check?enforce=true", USE)
    assert (enforced.status_code, enforced.json()["error_code"]) == (429, "QUOTA_EXHAUSTED")
    assert 'fiscus_quota_denials_total{scope="require_quota"} 2.0' in (
        b"".join(client.metrics.render()).decode()
    )


async def test_an_enforced_denial_is_a_429_with_the_answer_in_it(client: AppClient) -> None:
    await client.make_quota(allocated_amount=10)
    assert (await client.post("/quotas/check?enforce=true", USE)).status_code == 200
    body = {**USE, "required_amount": "9.5"}
    reply = await client.post("/quotas/check?enforce=true", body)
    assert (reply.status_code, reply.json()["error_code"]) == (429, "QUOTA_EXHAUSTED")
    details = reply.json()["details"]
    assert (details["allowed"], details["max_allowed_amount"]) == (False, 9)
    assert details["correlation_id"] == reply.headers["X-Correlation-ID"]
    assert reply.headers["Content-Type"] == "application/problem+json"
    batch = await client.post("/quotas/check/batch?enforce=true", {"checks": [USE, body]})
    assert (batch.status_code, batch.json()["error_code"]) == (429, "QUOTA_EXHAUSTED")
    details = batch.json()["details"]
    assert details["correlation_id"] == batch.headers["X-Correlation-ID"]
    taken, denied = details["results"]
    assert (taken["allowed"], denied["allowed"]) == (True, False)
    path = f"/quotas/consumptions/{taken['consumption_id']}/release"
    assert (await client.post(path)).status_code == 200
    wrong = await client.post("/quotas/check?enforce=maybe", USE)
    assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "enforce")


async def test_a_batch_decides_in_order_each_for_itself(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10)
    checks = [{**USE, "required_amount": amount} for amount in (6, 5, 4)]
    answer = (await client.post("/quotas/check/batch", {"checks": checks})).json()
    assert [one["allowed"] for one in answer["results"]] == [True, False, True]
    assert answer["allowed"] is False
    assert await used(client, quota) == (10, 0)


async def test_a_batch_with_a_wrong_item_takes_nothing(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10)
    checks = [USE, {**USE, "required_amount": -1}]
    reply = await client.post("/quotas/check/batch", {"checks": checks})
    assert (reply.status_code, reply.json()["details"]["field"]) == (
        400,
        "checks[1].required_amount",
    )
    assert await used(client, quota) == (0, 0)
    many = await client.post("/quotas/check/batch", {"checks": [USE] * 501})
    assert (many.status_code, many.json()["error_code"]) == (413, "PAYLOAD_TOO_LARGE")
    none = await client.post("/quotas/check/batch", {"checks": []})
    assert (none.status_code, none.json()["details"]["field"]) == (400, "checks")


async def test_a_repeated_key_takes_once(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10)
    headers = {"X-Idempotency-Key": "once"}
    first = await client.post("/quotas/check", USE, headers=headers)
    again = await client.post("/quotas/check", USE, headers=headers)
    assert again.json()["consumption_id"] == first.json()["consumption_id"]
    assert await used(client, quota) == (1, 0)
    other = await client.post("/quotas/check", {**USE, "required_amount": 2}, headers=headers)
    assert (other.status_code, other.json()["error_code"]) == (409, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"required_amount": -1}, "required_amount"),
        ({"required_amount": "-1e-12"}, "required_amount"),
        ({"required_amount": "NaN"}, "required_amount"),
        ({"required_amount": "Infinity"}, "required_amount"),
        ({"required_amount": "1e26"}, "required_amount"),
        ({"required_amount": True}, "required_amount"),
        ({"required_amount": None}, "required_amount"),
        ({"resource_type": ""}, "resource_type"),
        ({"resource_type": "a\x00b"}, "resource_type"),
        ({"project_id": "a b"}, "project_id"),
        ({"user_id": ""}, "user_id"),
        ({"feature_id": "x" * 129}, "feature_id"),
        ({"operation_id": "*"}, "operation_id"),
        ({"consume": "yes"}, "consume"),
        ({"amount": 1}, "amount"),
    ],
)
async def test_wrong_checks_name_the_field(
    client: AppClient, fields: dict[str, Any], field: str
) -> None:
    reply = await client.post("/quotas/check", {**USE, **fields})
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, field)


async def test_a_denial_says_when_it_would_fit_if_that_is_known(client: AppClient) -> None:
    await client.make_quota(allocated_amount=10, auto_renew=True)
    await use(client, 10)
    assert (await use(client, 10))["fits_at"] == "2026-04-01T00:00:00Z"
    assert (await use(client, 11))["fits_at"] is None, "more than a whole period's"


async def test_amounts_are_answered_without_trailing_zeros(client: AppClient) -> None:
    await client.make_quota(allocated_amount="10.50")
    await use(client, "2.5")
    reply = await client.post("/quotas/check", {**USE, "required_amount": "2.50"})
    for told in ('"used_amount":5,', '"burst_used":0,', '"allocated_amount":10.5,'):
        assert told in reply.text
    assert '"remaining_amount":5.5,' in reply.text


async def test_an_amount_is_rounded_half_even_to_twelve_digits(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount="0.000000000003")
    answer = await use(client, "0.0000000000025")
    assert (answer["allowed"], answer["remaining_amount"]) == (True, 1e-12)
    assert await used(client, quota) == (2e-12, 0)


# ---------------------------------------------------------------- giving back


async def test_what_was_taken_is_given_back_in_parts_and_whole(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10, max_burst_amount=5)
    taken = await use(client, 12, operation_id="run-1")
    path = f"/quotas/consumptions/{taken['consumption_id']}/release"
    part = await client.post(path, {"amount": 3})
    assert part.status_code == 200, part.text
    view = part.json()
    assert (view["amount"], view["released_amount"]) == (12, 3)
    assert (view["operation_id"], view["quota_ids"]) == ("run-1", [quota["quota_id"]])
    assert await used(client, quota) == (9, 0), "the burst goes back first"
    rest = await client.send("POST", API + path)
    assert rest.status_code == 200, rest.text
    assert rest.json()["released_amount"] == 12
    assert await used(client, quota) == (0, 0)


async def test_more_than_is_held_is_not_given_back(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10)
    taken = await use(client, 4)
    path = f"/quotas/consumptions/{taken['consumption_id']}/release"
    reply = await client.post(path, {"amount": 5})
    assert (reply.status_code, reply.json()["error_code"]) == (409, "CONFLICT")
    assert await used(client, quota) == (4, 0)
    for body, field in (({"amount": -1}, "amount"), ({"amount": "NaN"}, "amount"), ({"a": 1}, "a")):
        wrong = await client.post(path, body)
        assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, field)


async def test_consumptions_that_are_none_are_not_found(client: AppClient) -> None:
    for consumption_id in (NOBODY, "x", "%00", "", "a" * 5000):
        reply = await client.post(f"/quotas/consumptions/{consumption_id}/release", {})
        assert (reply.status_code, reply.json()["error_code"]) == (404, "NOT_FOUND")
        if consumption_id and consumption_id != NOBODY:
            assert "consumption_id" in reply.json()["details"]
    # ids of one kind are not ids of another
    await client.make_quota()
    taken = await use(client)
    reply = await client.post(f"/budgets/reservations/{taken['consumption_id']}/release", {})
    assert reply.status_code == 404


async def test_a_release_sent_again_with_its_key_gives_back_once(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10)
    taken = await use(client, 8)
    path = f"/quotas/consumptions/{taken['consumption_id']}/release"
    for _ in range(2):
        reply = await client.post(path, {"amount": 3}, headers={"Idempotency-Key": "back"})
        assert reply.json()["released_amount"] == 3
    assert await used(client, quota) == (5, 0)


async def test_burst_with_a_premium_rate_is_a_cost_and_charged_to_budgets(
    client: AppClient,
) -> None:
    budget = await client.make_budget(allocated_to_id="vision")
    await client.make_quota(allocated_amount=10, max_burst_amount=5, burst_premium_rate="1.5")
    taken = await use(client, 12)
    assert taken["quotas"][0]["from_burst"] == 2
    records = (await client.get("/cost-tracking/records")).json()["records"]
    assert [(r["cost_amount"], r["resource_type"]) for r in records] == [(3, "gpu_hours")]
    assert records[0]["tags"]["charge"] == "burst"

    async def spent() -> Any:
        shown = await client.get(f"/budgets/{budget['budget_id']}/utilization")
        return shown.json()["periods"][0]["spent"]

    assert await spent() == 3
    await client.post(f"/quotas/consumptions/{taken['consumption_id']}/release", {"amount": 1})
    assert await spent() == 1.5


# ---------------------------------------------------------------- the edge


async def test_checks_and_releases_are_counted_in_metrics(client: AppClient) -> None:
    await client.make_quota(allocated_amount=1)
    taken = await use(client)
    await use(client)
    await client.post(f"/quotas/consumptions/{taken['consumption_id']}/release", {})
    shown = b"".join(client.metrics.render()).decode()
    for operation, outcome in (
        ("quota_check", "allowed"),
        ("quota_check", "denied"),
        ("release_consumption", "allowed"),
    ):
        labels = f'operation="{operation}",outcome="{outcome}"'
        assert f"fiscus_quota_duration_seconds_count{{{labels}}} 1.0" in shown
    assert 'fiscus_quota_denials_total{scope="project"} 1.0' in shown


async def test_checks_have_a_limit_of_their_own(data_dir: Path) -> None:
    async with open_app(data_dir, api_limit_quota_checks=2) as client:
        replies = [await client.post("/quotas/check", USE) for _ in range(3)]
        budget = await client.post("/budgets/check", {"resource_type": "llm", "estimated_cost": 1})
    assert [one.status_code for one in replies] == [200, 200, 429]
    assert replies[2].json()["details"]["limit"] == "api-quota-checks"
    assert budget.status_code == 200


async def test_another_tenants_quotas_do_not_apply(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=1)
    key = client.make_key(Role.SERVICE, tenant_id="globex")
    answer = await client.post("/quotas/check", USE, key=key)
    assert answer.json()["matched"] == 0
    for body in ({**USE, "tenant_id": "acme"},):
        assert (await client.post("/quotas/check", body, key=key)).status_code == 403
    assert await used(client, quota) == (0, 0)

"""Rate-limit policies over HTTP: definitions, how they bind, emergency capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from tests.http.app_client import API, POLICY
from tests.http.rate_limit_calls import EMERGENCY, NOBODY, path_of, take

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio


async def test_a_policy_is_made_read_and_listed(client: AppClient) -> None:
    made = await client.post("/rate-limits", POLICY)
    assert made.status_code == 201
    policy = made.json()
    assert made.headers["ETag"] == '"1"'
    assert made.headers["Location"] == f"{API}/rate-limits/{policy['policy_id']}"
    assert POLICY.items() <= policy.items()
    assert (policy["algorithm"], policy["effective_limit"]) == ("token_bucket", 5)
    read = await client.send("GET", made.headers["Location"])
    assert read.headers["ETag"] == '"1"'
    assert read.json() == {**policy, "correlation_id": read.headers["X-Correlation-ID"]}
    listed = (await client.get("/rate-limits")).json()["policies"]
    assert listed == [{**policy, "correlation_id": None}]


async def test_a_stale_version_is_a_409_by_header_and_by_body(client: AppClient) -> None:
    path = path_of(await client.make_policy())
    second = await client.put(path, {**POLICY, "limit_value": 7}, headers={"If-Match": '"1"'})
    assert (second.status_code, second.headers["ETag"]) == (200, '"2"')
    for body, headers in (
        (POLICY, {"If-Match": '"1"'}),
        ({**POLICY, "version": 1}, {}),
        ({**POLICY, "version": 1}, {"If-Match": "*"}),
    ):
        stale = await client.put(path, body, headers=headers)
        assert (stale.status_code, stale.json()["error_code"]) == (409, "CONFLICT")
    assert (await client.get(path)).json()["limit_value"] == 7
    earlier = await client.get(f"{path}/versions/1")
    assert (earlier.headers["ETag"], earlier.json()["limit_value"]) == ('"1"', 5)
    assert (await client.get(f"{path}/versions/3")).status_code == 404
    for version in ("0", "-1", "x", "1.5", "9" * 20):
        wrong = await client.get(f"{path}/versions/{version}")
        assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "version")


async def test_what_was_read_can_be_sent_again(client: AppClient) -> None:
    for fields in (
        {},
        {"algorithm": "fixed_window", "calendar": "month", "time_window_seconds": None},
        {"overrides": {"time_of_day": [{"from_hour": 22, "to_hour": 6, "multiplier": "1.5"}]}},
    ):
        policy = await client.make_policy(**fields)
        body = {
            name: value
            for name, value in policy.items()
            if name in {*POLICY, "algorithm", "burst_capacity", "calendar", "timezone"}
            or name in {"overrides", "shadow", "on_store_failure", "version"}
        }
        again = await client.put(path_of(policy), body)
        assert (again.status_code, again.json()["version"]) == (200, 2), again.text
        assert again.json()["overrides"] == policy["overrides"]


BAD_DEFINITIONS: list[tuple[dict[str, Any], str]] = [
    ({"limit_value": 0}, "limit_value"),
    ({"limit_value": -5}, "limit_value"),
    ({"limit_value": 1.5}, "limit_value"),
    ({"limit_value": 10**12 + 1}, "limit_value"),
    ({"limit_value": 10**400}, "limit_value"),
    ({"limit_value": "5"}, "limit_value"),
    ({"limit_value": None}, "limit_value"),
    ({"limit_value": 999_999_999_999, "time_window_seconds": 31_556_951}, "limit_value"),
    ({"limit_value": 10_001, "algorithm": "sliding_window_log"}, "limit_value"),
    ({"time_window_seconds": 0}, "time_window_seconds"),
    ({"time_window_seconds": -1}, "time_window_seconds"),
    ({"time_window_seconds": 367 * 86_400}, "time_window_seconds"),
    ({"time_window_seconds": None}, "time_window_seconds"),
    ({"algorithm": "leaky"}, "algorithm"),
    ({"algorithm": "fixed_window", "burst_capacity": 1}, "burst_capacity"),
    ({"burst_capacity": -1}, "burst_capacity"),
    ({"calendar": "day"}, "calendar"),
    ({"calendar": "year", "algorithm": "fixed_window"}, "calendar"),
    ({"calendar": "day", "algorithm": "fixed_window"}, "time_window_seconds"),
    ({"scope_type": "team"}, "scope_type"),
    ({"scope_id": ""}, "scope_id"),
    ({"scope_id": "a b"}, "scope_id"),
    ({"scope_id": "a" * 129}, "scope_id"),
    ({"scope_type": "tenant", "scope_id": "globex"}, "scope_id"),
    ({"resource_type": ""}, "resource_type"),
    ({"resource_type": "a*b"}, "resource_type"),
    ({"resource_type": "a" * 257}, "resource_type"),
    ({"resource_type": "a\x00"}, "resource_type"),
    ({"timezone": "Mars/Olympus"}, "timezone"),
    ({"overrides": {"time_of_day": [{"from_hour": 3, "to_hour": 3, "multiplier": 1}]}}, ""),
    ({"overrides": {"time_of_day": [{"from_hour": 24, "to_hour": 3, "multiplier": 1}]}}, ""),
    ({"overrides": {"time_of_day": [{"from_hour": 1, "to_hour": 3, "multiplier": 0}]}}, ""),
    ({"overrides": {"time_of_day": [{"from_hour": 1, "to_hour": 3, "multiplier": 101}]}}, ""),
    ({"overrides": {"usage_pattern": {"min_multiplier": 3}}}, ""),
    ({"overrides": {"weather": "rain"}}, ""),
    ({"on_store_failure": "panic"}, "on_store_failure"),
    ({"limit": 5}, "limit"),
]
"""And the field that the 400 names; empty: one of the overrides."""


async def test_a_definition_that_cannot_be_is_a_400_that_names_the_field(
    client: AppClient,
) -> None:
    for fields, field in BAD_DEFINITIONS:
        reply = await client.post("/rate-limits", {**POLICY, **fields})
        assert (reply.status_code, reply.json()["error_code"]) == (400, "VALIDATION_ERROR"), fields
        named = reply.json()["details"]["field"]
        assert named == field if field else named.startswith("overrides."), (fields, named)
    assert (await client.get("/rate-limits")).json()["policies"] == []


@pytest.mark.parametrize("algorithm", ["token_bucket", "leaky_bucket", "fixed_window"])
async def test_the_largest_limit_is_counted_exactly(client: AppClient, algorithm: str) -> None:
    largest = 10**12
    await client.make_policy(limit_value=largest, algorithm=algorithm)
    assert (await take(client, largest - 1))["remaining_requests"] == 1
    assert (await take(client, 1))["remaining_requests"] == 0
    assert (await take(client, 1))["allowed"] is False


async def test_ids_that_are_none_are_not_found(client: AppClient) -> None:
    policy = await client.make_policy()
    for policy_id in (NOBODY, "x", "check2", "%00", "a" * 5000):
        for method, rest, body in (
            ("GET", "", None),
            ("PUT", "", POLICY),
            ("DELETE", "", None),
            ("GET", "/usage", None),
            ("POST", "/reset", {}),
            ("POST", "/reset", {"scope_id": "ada"}),
            ("POST", "/emergency", EMERGENCY),
            ("POST", f"/emergency/{NOBODY}/approve", None),
        ):
            reply = await client.send(method, f"{API}/rate-limits/{policy_id}{rest}", json=body)
            assert reply.status_code == 404, (method, policy_id, rest)
            assert reply.json()["error_code"] == "NOT_FOUND"
    for emergency_id in (NOBODY, "x"):
        reply = await client.post(path_of(policy, f"/emergency/{emergency_id}/approve"))
        assert reply.status_code == 404


async def test_creating_again_with_the_same_key_makes_one_policy(client: AppClient) -> None:
    headers = {"X-Idempotency-Key": "once"}
    first = await client.post("/rate-limits", POLICY, headers=headers)
    again = await client.post("/rate-limits", POLICY, headers=headers)
    assert again.status_code == 201
    assert again.json()["policy_id"] == first.json()["policy_id"]
    assert len((await client.get("/rate-limits")).json()["policies"]) == 1
    other = await client.post("/rate-limits", {**POLICY, "limit_value": 1}, headers=headers)
    assert other.json()["error_code"] == "IDEMPOTENCY_CONFLICT"


async def test_lists_are_filtered(client: AppClient) -> None:
    await client.make_policy()
    await client.make_policy(scope_type="project", scope_id="search", resource_type="api*")
    await client.make_policy(algorithm="fixed_window", shadow=True)

    async def shown(**query: Any) -> list[tuple[str, str]]:
        reply = await client.get("/rate-limits", params=query)
        assert reply.status_code == 200, reply.text
        found = reply.json()["policies"]
        return sorted((one["scope_type"], one["algorithm"]) for one in found)

    bucket, window = ("user", "token_bucket"), ("user", "fixed_window")
    project = ("project", "token_bucket")
    assert await shown() == [project, window, bucket]
    assert await shown(scope_type="project") == [project]
    assert await shown(scope_id="*") == [window, bucket]
    assert await shown(resource_type="api*") == [project]
    assert await shown(resource_type="api") == []
    assert await shown(algorithm="fixed_window") == [window]
    assert await shown(shadow="true") == [window]
    assert await shown(shadow="false", scope_type="user") == [bucket]
    wrong = await client.get("/rate-limits?algorithm=leaky")
    assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "algorithm")


async def test_pages_by_number_and_by_token_show_each_policy_once(client: AppClient) -> None:
    made = [(await client.make_policy())["policy_id"] for _ in range(5)]
    first = (await client.get("/rate-limits?page_size=2")).json()
    assert first["pagination"]["total_count"] == 5
    seen = [one["policy_id"] for one in first["policies"]]
    token = first["pagination"]["next_page_token"]
    while token is not None:
        page = (
            await client.get("/rate-limits", params={"page_size": 2, "page_token": token})
        ).json()
        seen += [one["policy_id"] for one in page["policies"]]
        token = page["pagination"]["next_page_token"]
    assert sorted(seen) == sorted(made)
    numbered: list[str] = []
    for number in (1, 2, 3):
        page = (await client.get("/rate-limits", params={"page_size": 2, "page": number})).json()
        numbered += [one["policy_id"] for one in page["policies"]]
    assert numbered == seen


# ---------------------------------------------------------------- changes bind at once


async def test_a_policy_binds_from_the_next_check_on(client: AppClient) -> None:
    assert (await take(client))["policy_id"] is None
    policy = await client.make_policy()
    assert (await take(client, 2))["remaining_requests"] == 3
    await client.put(path_of(policy), {**POLICY, "limit_value": 3})
    assert (await take(client, 2))["allowed"] is False, "what was used stays used"
    assert (await take(client))["allowed"] is True
    await client.delete(path_of(policy, "?force=true"))
    assert (await take(client, 100))["policy_id"] is None


async def test_a_policy_in_use_is_deleted_by_force_only(client: AppClient) -> None:
    policy = await client.make_policy()
    await take(client)
    kept = await client.delete(path_of(policy))
    assert (kept.status_code, kept.json()["error_code"]) == (409, "CONFLICT")
    assert (await client.delete(path_of(policy, "?force=true"))).status_code == 204
    assert (await client.get(path_of(policy))).status_code == 404
    assert (await client.get("/rate-limits")).json()["policies"] == []


async def test_a_policy_that_nobody_used_lately_is_deleted(client: AppClient) -> None:
    never, idle = await client.make_policy(resource_type="api"), await client.make_policy()
    await take(client)
    tagged = await client.delete(path_of(never), headers={"If-Match": '"1"'})
    assert (tagged.status_code, tagged.json()["details"]["field"]) == (400, "If-Match")
    assert (await client.delete(path_of(never))).status_code == 204
    client.clock.advance(hours=3)
    assert (await client.delete(path_of(idle))).status_code == 204


# ---------------------------------------------------------------- emergency capacity


async def test_emergency_capacity_holds_at_once_and_four_hours_unapproved(
    client: AppClient,
) -> None:
    policy = await client.make_policy()
    asked = await client.post(path_of(policy, "/emergency"), EMERGENCY)
    assert asked.status_code == 201
    emergency = asked.json()
    assert (emergency["effective_until"], emergency["ends_at"]) == (
        "2026-03-10T16:00:00Z",
        "2026-03-10T22:00:00Z",
    )
    shown = (await client.get(path_of(policy))).json()
    assert (shown["limit_value"], shown["effective_limit"]) == (5, 10)
    assert [one["emergency_id"] for one in shown["emergencies"]] == [emergency["emergency_id"]]
    assert (await take(client, 0))["limit_value"] == 10
    client.clock.advance(hours=4)
    assert (await client.get(path_of(policy))).json()["effective_limit"] == 5
    assert (await take(client, 0))["limit_value"] == 5


async def test_a_second_persons_approval_makes_it_last(client: AppClient) -> None:
    policy = await client.make_policy()
    emergency = (await client.post(path_of(policy, "/emergency"), EMERGENCY)).json()
    path = path_of(policy, f"/emergency/{emergency['emergency_id']}/approve")
    own = await client.post(path)
    assert (own.status_code, own.json()["error_code"]) == (403, "FORBIDDEN")
    other = client.make_key(Role.SYSTEM_ARCHITECT)
    approved = await client.post(path, key=other)
    assert approved.status_code == 200
    assert approved.json()["effective_until"] == approved.json()["ends_at"]
    assert approved.json()["approved_by"] != approved.json()["requested_by"]
    assert (await client.post(path, key=other)).status_code == 409
    client.clock.advance(hours=9)
    assert (await take(client, 0))["limit_value"] == 10
    client.clock.advance(hours=1)
    assert (await take(client, 0))["limit_value"] == 5
    assert (await client.get(path_of(policy))).json()["emergencies"] == []


async def test_an_approval_takes_no_body(client: AppClient) -> None:
    policy = await client.make_policy()
    emergency = (await client.post(path_of(policy, "/emergency"), EMERGENCY)).json()
    path = path_of(policy, f"/emergency/{emergency['emergency_id']}/approve")
    other = client.make_key(Role.SYSTEM_ARCHITECT)
    reply = await client.post(path, {"tenant_id": "globex"}, key=other)
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, "tenant_id")
    assert (await client.post(path, {}, key=other)).status_code == 200


async def test_one_emergency_at_a_time_and_never_over_a_day(client: AppClient) -> None:
    policy = await client.make_policy()
    path = path_of(policy, "/emergency")
    for fields, field in (
        ({"duration_minutes": 1441}, "duration_minutes"),
        ({"duration_minutes": 0}, "duration_minutes"),
        ({"additional_capacity": 0}, "additional_capacity"),
        ({"additional_capacity": 10**13}, "additional_capacity"),
        ({"reason": ""}, "reason"),
    ):
        reply = await client.post(path, {**EMERGENCY, **fields})
        assert (reply.status_code, reply.json()["details"]["field"]) == (400, field)
    assert (await client.post(path, EMERGENCY)).status_code == 201
    second = await client.post(path, EMERGENCY)
    assert (second.status_code, second.json()["error_code"]) == (409, "CONFLICT")


async def test_an_idempotency_key_of_an_emergency_is_of_its_policy(client: AppClient) -> None:
    headers = {"Idempotency-Key": "launch"}
    policy, other = await client.make_policy(), await client.make_policy()
    path = path_of(policy, "/emergency")
    first, again = [await client.post(path, EMERGENCY, headers=headers) for _ in range(2)]
    assert first.status_code == 201
    assert first.json()["emergency_id"] == again.json()["emergency_id"]
    reply = await client.post(path_of(other, "/emergency"), EMERGENCY, headers=headers)
    assert (reply.status_code, reply.json()["error_code"]) == (409, "IDEMPOTENCY_CONFLICT")


async def test_emergency_capacity_is_the_system_architects(client: AppClient) -> None:
    path = path_of(await client.make_policy(), "/emergency")
    for role, status in ((Role.TENANT_ADMIN, 403), (Role.SYSTEM_ARCHITECT, 201)):
        reply = await client.post(path, EMERGENCY, key=client.make_key(role))
        assert reply.status_code == status

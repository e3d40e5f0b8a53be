"""Quotas over HTTP: allocating, sharing out, changing, history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from tests.http.app_client import API, QUOTA
from tests.http.quota_calls import NOBODY, path_of, use

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

SHARE = {
    "resource_type": "gpu_hours",
    "total_amount": 100,
    "strategy": "fair_share",
    "entities": [{"scope_type": "project", "scope_id": name} for name in ("a", "b", "c")],
}


@pytest.mark.parametrize("path", ["/quotas", "/quotas/allocate"])
async def test_a_quota_is_allocated_read_and_listed(client: AppClient, path: str) -> None:
    made = await client.post(path, {**QUOTA, "max_burst_amount": 20})
    assert made.status_code == 201, made.text
    quota = made.json()
    assert made.headers["ETag"] == '"1"'
    assert made.headers["Location"] == f"{API}/quotas/{quota['quota_id']}"
    assert QUOTA.items() <= quota.items()
    assert (quota["period_start"], quota["period_end"]) == (
        "2026-03-01T00:00:00Z",
        "2026-04-01T00:00:00Z",
    )
    assert (quota["used_amount"], quota["burst_used"], quota["remaining_amount"]) == (0, 0, 120)
    read = await client.send("GET", made.headers["Location"])
    assert read.headers["ETag"] == '"1"'
    assert read.json() == {**quota, "correlation_id": read.headers["X-Correlation-ID"]}
    listed = (await client.get("/quotas")).json()["quotas"]
    assert listed == [{**quota, "correlation_id": None}]


async def test_use_is_shown_for_one_scope_and_not_for_a_template(client: AppClient) -> None:
    one = await client.make_quota(allocated_amount=10, max_burst_amount=5)
    every = await client.make_quota(scope_id="*", resource_type="gpu_hours", allocated_amount=50)
    await use(client, 12)
    shown = {q["quota_id"]: q for q in (await client.get("/quotas")).json()["quotas"]}
    mine = shown[one["quota_id"]]
    assert (mine["used_amount"], mine["burst_used"], mine["remaining_amount"]) == (10, 2, 3)
    template = shown[every["quota_id"]]
    assert template["used_amount"] is None
    assert template["burst_used"] is None
    assert template["remaining_amount"] is None
    assert (await client.get(path_of(one))).json()["remaining_amount"] == 3


async def test_digits_are_kept_and_rounded_half_even_at_the_twelfth(client: AppClient) -> None:
    sent = '{"scope_type":"user","scope_id":"ada","resource_type":"t","allocated_amount":%s}'
    for given, kept in (
        ("0.1234567890125", "0.123456789012"),
        ("0.1234567890135", "0.123456789014"),
        ("1e25", "10000000000000000000000000"),
    ):
        reply = await client.send("POST", f"{API}/quotas", content=sent % given)
        assert reply.status_code == 201, reply.text
        assert f'"allocated_amount":{kept},' in reply.text
        assert (await client.delete(path_of(reply.json()))).status_code == 204


BAD_ALLOCATIONS: list[tuple[dict[str, Any], str]] = [
    ({"allocated_amount": 0}, "allocated_amount"),
    ({"allocated_amount": -1}, "allocated_amount"),
    ({"allocated_amount": "NaN"}, "allocated_amount"),
    ({"allocated_amount": "Infinity"}, "allocated_amount"),
    ({"allocated_amount": "1e26"}, "allocated_amount"),
    ({"allocated_amount": "1e999999"}, "allocated_amount"),
    ({"allocated_amount": "1e-13"}, "allocated_amount"),
    ({"allocated_amount": "1_0"}, "allocated_amount"),
    ({"allocated_amount": True}, "allocated_amount"),
    ({"allocated_amount": None}, "allocated_amount"),
    ({"max_burst_amount": -1}, "max_burst_amount"),
    ({"burst_premium_rate": -1}, "burst_premium_rate"),
    ({"currency": "usd"}, "currency"),
    ({"scope_type": "team"}, "scope_type"),
    ({"scope_id": ""}, "scope_id"),
    ({"scope_id": "a b"}, "scope_id"),
    ({"scope_id": "a" * 129}, "scope_id"),
    ({"scope_type": "tenant", "scope_id": "globex"}, "scope_id"),
    ({"scope_type": "tenant", "scope_id": "*"}, "scope_id"),
    ({"resource_type": ""}, "resource_type"),
    ({"resource_type": "a\x00"}, "resource_type"),
    ({"resource_type": "a" * 257}, "resource_type"),
    ({"period_type": "rolling"}, "period_type"),
    ({"period_type": "custom"}, "period_end"),
    ({"period_start": "2026-03-01T00:00:00"}, "period_start"),
    ({"period_start": "2025-01-01T00:00:00Z"}, "period_start"),
    ({"period_start": "9998-12-31T00:00:00Z", "period_type": "yearly"}, "period_start"),
    ({"period_end": "2026-03-20T00:00:00Z"}, "period_end"),
    (
        {
            "period_type": "custom",
            "period_start": "2026-04-01T00:00:00Z",
            "period_end": "2026-03-20T00:00:00Z",
        },
        "period_end",
    ),
    ({"period_type": "custom", "period_end": "2026-03-20T00:00:00"}, "period_end"),
    ({"period_type": "custom", "period_end": "2026-03-20"}, "period_end"),
    ({"period_start": "0001-01-01T00:00:00+14:00"}, "period_start"),
    ({"period_start": "9999-12-31T23:59:59-14:00"}, "period_start"),
    ({"period_type": "custom", "period_end": "0001-01-01T00:00:00+14:00"}, "period_end"),
    ({"period_type": "custom", "period_end": "9999-12-31T23:59:59-14:00"}, "period_end"),
    ({"timezone": "Mars/Olympus"}, "timezone"),
    ({"renewal_amount": "double"}, "renewal_amount"),
    ({"strategy": "luck"}, "strategy"),
    ({"version": 0}, "version"),
    ({"allocated": 5}, "allocated"),
]
"""And the field that the 400 names."""


async def test_an_allocation_that_cannot_be_is_a_400_that_names_the_field(
    client: AppClient,
) -> None:
    for fields, field in BAD_ALLOCATIONS:
        reply = await client.post("/quotas", {**QUOTA, **fields})
        assert (reply.status_code, reply.json()["error_code"]) == (400, "VALIDATION_ERROR"), fields
        assert reply.json()["details"]["field"] == field, fields
    reply = await client.send(
        "POST", f"{API}/quotas", content='{"allocated_amount": NaN, "scope_type": "user"}'
    )
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, "allocated_amount")
    assert (await client.get("/quotas")).json()["quotas"] == []


async def test_an_overlapping_allocation_is_a_409(client: AppClient) -> None:
    await client.make_quota()
    overlapping = await client.post("/quotas", {**QUOTA, "period_type": "yearly"})
    assert (overlapping.status_code, overlapping.json()["error_code"]) == (409, "CONFLICT")
    await client.make_quota(period_start="2026-04-01T00:00:00Z")
    await client.make_quota(resource_type="tokens")
    await client.make_quota(scope_id="speech")


async def test_allocating_again_with_the_same_key_makes_one_quota(client: AppClient) -> None:
    headers = {"X-Idempotency-Key": "once"}
    first = await client.post("/quotas", QUOTA, headers=headers)
    client.clock.advance(hours=6 * 24)
    again = await client.post("/quotas/allocate", QUOTA, headers=headers)
    assert (again.status_code, again.json()["quota_id"]) == (201, first.json()["quota_id"])
    other = await client.post("/quotas", {**QUOTA, "allocated_amount": 1}, headers=headers)
    assert other.json()["error_code"] == "IDEMPOTENCY_CONFLICT"
    assert len((await client.get("/quotas")).json()["quotas"]) == 1


async def test_ids_that_are_none_are_not_found(client: AppClient) -> None:
    for quota_id in (NOBODY, "x", "check2", "%00", "a" * 5000):
        for method, rest, body in (
            ("GET", "", None),
            ("PUT", "", QUOTA),
            ("DELETE", "", None),
            ("GET", "/versions/1", None),
            ("GET", "/history", None),
        ):
            reply = await client.send(method, f"{API}/quotas/{quota_id}{rest}", json=body)
            assert reply.status_code == 404, (method, quota_id, rest)
            assert reply.json()["error_code"] == "NOT_FOUND"


# ---------------------------------------------------------------- changing and ending


async def test_a_stale_version_is_a_409_by_header_and_by_body(client: AppClient) -> None:
    path = path_of(await client.make_quota())
    second = await client.put(path, {**QUOTA, "allocated_amount": 7}, headers={"If-Match": '"1"'})
    assert (second.status_code, second.headers["ETag"]) == (200, '"2"')
    for body, headers in (
        (QUOTA, {"If-Match": '"1"'}),
        ({**QUOTA, "version": 1}, {}),
        ({**QUOTA, "version": 1}, {"If-Match": "*"}),
    ):
        stale = await client.put(path, body, headers=headers)
        assert (stale.status_code, stale.json()["error_code"]) == (409, "CONFLICT")
    assert (await client.get(path)).json()["allocated_amount"] == 7
    earlier = await client.get(f"{path}/versions/1")
    assert (earlier.headers["ETag"], earlier.json()["allocated_amount"]) == ('"1"', 100)
    assert earlier.json()["used_amount"] is None
    assert (await client.get(f"{path}/versions/3")).status_code == 404
    wrong = await client.get(f"{path}/versions/0")
    assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "version")


async def test_what_was_read_can_be_sent_again(client: AppClient) -> None:
    for fields in (
        {},
        {"scope_id": "*", "max_burst_amount": "0.5", "burst_premium_rate": "1.25"},
        {
            "scope_id": "trial",
            "period_type": "custom",
            "period_end": "2026-03-20T00:00:00Z",
            "auto_renew": True,
        },
    ):
        quota = await client.make_quota(**fields)
        sent = {*QUOTA, "max_burst_amount", "burst_premium_rate", "currency", "period_type"}
        sent |= {"period_start", "timezone", "auto_renew", "renewal_amount", "strategy", "version"}
        body = {name: value for name, value in quota.items() if name in sent}
        body["period_end"] = quota["period_end"]
        again = await client.put(path_of(quota), body)
        assert (again.status_code, again.json()["version"]) == (200, 2), again.text


async def test_less_than_what_is_used_needs_force(client: AppClient) -> None:
    quota = await client.make_quota()
    await use(client, 40)
    cut = {**QUOTA, "allocated_amount": 30}
    kept = await client.put(path_of(quota), cut)
    assert (kept.status_code, kept.json()["error_code"]) == (409, "CONFLICT")
    forced = await client.put(path_of(quota, "?force=true"), cut)
    assert (forced.status_code, forced.json()["remaining_amount"]) == (200, -10)
    denied = await use(client, 1)
    assert (denied["allowed"], denied["max_allowed_amount"]) == (False, 0)


async def test_scope_resource_and_period_never_change(client: AppClient) -> None:
    path = path_of(await client.make_quota())
    for fields in (
        {"scope_id": "speech"},
        {"scope_type": "user"},
        {"resource_type": "tokens"},
        {"period_type": "yearly"},
    ):
        reply = await client.put(f"{path}?force=true", {**QUOTA, **fields})
        assert (reply.status_code, reply.json()["error_code"]) == (409, "CONFLICT"), fields


async def test_a_quota_in_use_is_deleted_by_force_only(client: AppClient) -> None:
    unused, used = await client.make_quota(scope_id="speech"), await client.make_quota()
    await use(client)
    tagged = await client.delete(path_of(unused), headers={"If-Match": '"1"'})
    assert (tagged.status_code, tagged.json()["details"]["field"]) == (400, "If-Match")
    assert (await client.delete(path_of(unused))).status_code == 204
    kept = await client.delete(path_of(used))
    assert (kept.status_code, kept.json()["error_code"]) == (409, "CONFLICT")
    assert (await client.delete(path_of(used, "?force=true"))).status_code == 204
    assert (await client.get(path_of(used))).status_code == 404
    assert (await client.get("/quotas")).json()["quotas"] == []
    assert (await use(client))["matched"] == 0
    wrong = await client.delete(path_of(used, "?force=yes"))
    assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "force")


# ---------------------------------------------------------------- lists


async def test_lists_are_filtered(client: AppClient) -> None:
    await client.make_quota()
    await client.make_quota(period_start="2026-04-15T00:00:00Z")
    await client.make_quota(scope_type="user", scope_id="*", resource_type="tokens")

    async def shown(**query: Any) -> list[tuple[str, str]]:
        reply = await client.get("/quotas", params=query)
        assert reply.status_code == 200, reply.text
        return sorted((q["scope_id"], q["period_start"][:7]) for q in reply.json()["quotas"])

    march, april, every = ("vision", "2026-03"), ("vision", "2026-04"), ("*", "2026-03")
    assert await shown() == [every, march, april]
    assert await shown(scope_type="project") == [march, april]
    assert await shown(scope_id="*") == [every]
    assert await shown(resource_type="tokens") == [every]
    assert await shown(active_only="true") == [every, march]
    assert await shown(active_only="false", scope_id="vision") == [march, april]
    client.clock.advance(hours=30 * 24)
    assert await shown(active_only="true") == [april]
    wrong = await client.get("/quotas?scope_type=team")
    assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "scope_type")


async def test_pages_by_number_and_by_token_show_each_quota_once(client: AppClient) -> None:
    made = [(await client.make_quota(scope_id=f"p-{n}"))["quota_id"] for n in range(5)]
    first = (await client.get("/quotas?page_size=2")).json()
    assert first["pagination"]["total_count"] == 5
    seen = [one["quota_id"] for one in first["quotas"]]
    token = first["pagination"]["next_page_token"]
    while token is not None:
        query = {"page_size": 2, "page_token": token}
        page = (await client.get("/quotas", params=query)).json()
        seen += [one["quota_id"] for one in page["quotas"]]
        token = page["pagination"]["next_page_token"]
    assert sorted(seen) == sorted(made)


# ---------------------------------------------------------------- many at once


async def test_in_a_batch_each_allocation_stands_or_falls_alone(client: AppClient) -> None:
    items: list[Any] = [
        QUOTA,
        {**QUOTA, "allocated_amount": 5},
        {**QUOTA, "scope_id": "speech", "allocated_amount": "NaN"},
        {**QUOTA, "scope_id": "speech", "allocated_amount": 0},
        {**QUOTA, "scope_id": "speech", "tenant_id": "globex"},
        7,
        {**QUOTA, "scope_id": "speech"},
    ]
    reply = await client.post("/quotas/allocate/batch", {"allocations": items})
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert (answer["allocated"], answer["failed"]) == (2, 5)
    assert [one["quota"] and one["quota"]["scope_id"] for one in answer["results"]] == [
        *("vision", None, None, None, None, None, "speech"),
    ]
    errors = [one["error"] for one in answer["results"] if one["error"]]
    assert [one["error_code"] for one in errors] == [
        "CONFLICT",
        "VALIDATION_ERROR",
        "VALIDATION_ERROR",
        "FORBIDDEN",
        "VALIDATION_ERROR",
    ]
    assert [one["details"].get("field") for one in errors[1:]] == [
        *("allocated_amount", "allocated_amount", "tenant_id", "body"),
    ]
    assert len((await client.get("/quotas")).json()["quotas"]) == 2


async def test_a_batch_for_another_tenant_is_a_403_and_of_101_a_413(client: AppClient) -> None:
    key = client.make_key(Role.TENANT_ADMIN)
    theirs = {**QUOTA, "tenant_id": "globex"}
    for body in (
        {"allocations": [theirs, theirs]},
        {"allocations": [QUOTA], "tenant_id": "globex"},
    ):
        reply = await client.post("/quotas/allocate/batch", body, key=key)
        assert (reply.status_code, reply.json()["details"]["field"]) == (403, "tenant_id")
    many = {"allocations": [{**QUOTA, "scope_id": f"p-{n}"} for n in range(101)]}
    reply = await client.post("/quotas/allocate/batch", many, key=key)
    assert (reply.status_code, reply.json()["error_code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert (await client.get("/quotas", key=key)).json()["quotas"] == []
    many["allocations"].pop()
    reply = await client.post("/quotas/allocate/batch", many, key=key)
    assert reply.json()["allocated"] == 100
    reply = await client.post("/quotas/allocate/batch", {"allocations": []}, key=key)
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, "allocations")


async def test_a_batch_sent_again_with_its_key_is_answered_as_before(client: AppClient) -> None:
    body = {"allocations": [QUOTA, {**QUOTA, "allocated_amount": -1}, QUOTA]}
    headers = {"Idempotency-Key": "batch"}
    first = await client.post("/quotas/allocate/batch", body, headers=headers)
    again = await client.post("/quotas/allocate/batch", body, headers=headers)
    assert first.json()["allocated"] == 1
    assert again.json()["results"] == first.json()["results"]


async def test_a_total_is_shared_out_exactly_and_all_of_it(client: AppClient) -> None:
    looked = await client.post("/quotas/distribute", {**SHARE, "dry_run": True})
    assert looked.status_code == 200, looked.text
    amounts = [part["allocated_amount"] for part in looked.json()["parts"]]
    assert (sum(amounts), sorted(amounts)) == (100, [33, 33, 34])
    assert {part["quota_id"] for part in looked.json()["parts"]} == {None}
    assert (await client.get("/quotas")).json()["quotas"] == []
    shared = (await client.post("/quotas/distribute", SHARE)).json()
    assert [part["allocated_amount"] for part in shared["parts"]] == amounts
    listed = {q["quota_id"]: q for q in (await client.get("/quotas")).json()["quotas"]}
    for part in shared["parts"]:
        quota = listed[part["quota_id"]]
        assert quota["allocated_amount"] == part["allocated_amount"]
        assert (quota["scope_id"], quota["strategy"]) == (part["scope_id"], "fair_share")


async def test_a_distribution_of_which_one_part_cannot_be_makes_none(client: AppClient) -> None:
    await client.make_quota(scope_id="b")
    reply = await client.post("/quotas/distribute", SHARE)
    assert (reply.status_code, reply.json()["error_code"]) == (409, "CONFLICT")
    assert len((await client.get("/quotas")).json()["quotas"]) == 1


A = {"scope_type": "project", "scope_id": "a"}
B = {"scope_type": "project", "scope_id": "b"}
BAD_DISTRIBUTIONS: list[tuple[dict[str, Any], str]] = [
    ({"total_amount": 0}, "total_amount"),
    ({"total_amount": -1}, "total_amount"),
    ({"total_amount": "NaN"}, "total_amount"),
    ({"entities": []}, "entities"),
    ({"entities": [A, A]}, "entities"),
    ({"entities": [{**A, "scope_id": "*"}]}, "entities"),
    ({"entities": [{**A, "scope_type": "tenant", "scope_id": "globex"}]}, ""),
    ({"entities": [{**A, "tier": 0}], "strategy": "priority"}, "entities"),
    ({"entities": [{**A, "tier": 4}], "strategy": "priority"}, "entities"),
    ({"entities": [{**A, "reserved_amount": -1}], "strategy": "reserved"}, "entities"),
    ({"entities": [{**A, "reserved_amount": 101}, B], "strategy": "reserved"}, ""),
    ({"strategy": "reserved", "then": "reserved"}, "then"),
    ({"strategy": "luck"}, "strategy"),
    ({"decimals": 13}, "decimals"),
    ({"max_burst_ratio": -1}, "max_burst_ratio"),
    ({"max_burst_ratio": "9" * 26, "total_amount": "9" * 26}, "max_burst_ratio"),
    ({"period_start": "2026-03-01T00:00:00"}, "period_start"),
    ({"scope_id": "a"}, "scope_id"),
]
"""And how the field that the 400 names begins; empty: any."""


async def test_a_distribution_that_cannot_be_is_a_400_that_names_the_field(
    client: AppClient,
) -> None:
    for fields, field in BAD_DISTRIBUTIONS:
        reply = await client.post("/quotas/distribute", {**SHARE, **fields})
        assert (reply.status_code, reply.json()["error_code"]) == (400, "VALIDATION_ERROR"), fields
        assert reply.json()["details"]["field"].startswith(field), (fields, reply.json())
    assert (await client.get("/quotas")).json()["quotas"] == []


# ---------------------------------------------------------------- history


async def test_history_shows_rows_newest_first_and_adds_up_days(client: AppClient) -> None:
    quota = await client.make_quota(allocated_amount=10, max_burst_amount=5)
    first = await use(client, 4)
    client.clock.advance(hours=24)
    await use(client, 8, user_id="ada")
    release = f"/quotas/consumptions/{first['consumption_id']}/release"
    assert (await client.post(release, {"amount": 1})).status_code == 200
    history = (await client.get(path_of(quota, "/history"))).json()
    assert history["quota_id"] == quota["quota_id"]
    rows = [(r["kind"], r["amount"], r["burst"], r["used_after"]) for r in history["rows"]]
    assert rows == [("release", 1, 0, 11), ("consume", 8, 2, 12), ("consume", 4, 0, 4)]
    assert history["rows"][1]["user_id"] == "ada"
    days = [(d["day"], d["consumed"], d["released"], d["burst"]) for d in history["days"]]
    assert days == [("2026-03-10", 4, 0, 0), ("2026-03-11", 8, 1, 2)]
    query = {"since": "2026-03-11T00:00:00Z", "until": "2026-03-12T00:00:00Z"}
    later = (await client.get(path_of(quota, "/history"), params=query)).json()
    assert [r["kind"] for r in later["rows"]] == ["release", "consume"]
    assert [d["day"] for d in later["days"]] == ["2026-03-11"]


async def test_history_of_a_template_is_narrowed_to_one_id_and_paged(client: AppClient) -> None:
    quota = await client.make_quota(scope_id="*")
    for name in ("vision", "speech", "vision", "vision"):
        await use(client, 1, project_id=name)
    path = path_of(quota, "/history")
    mine = (await client.get(path, params={"scope_id": "vision", "page_size": 2})).json()
    assert [r["used_after"] for r in mine["rows"]] == [3, 2]
    token = mine["pagination"]["next_page_token"]
    rest = await client.get(
        path, params={"scope_id": "vision", "page_size": 2, "page_token": token}
    )
    assert [r["used_after"] for r in rest.json()["rows"]] == [1]
    assert len((await client.get(path)).json()["rows"]) == 4


async def test_history_at_the_ends_of_time_is_empty_or_whole(client: AppClient) -> None:
    path = path_of(await client.make_quota(timezone="Pacific/Auckland"), "/history")
    await use(client)
    early = ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z")
    late = ("9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59Z")
    for name, moments, count in (
        ("since", early, 1),
        ("since", late, 0),
        ("until", early, 0),
        ("until", late, 1),
    ):
        for moment in moments:
            reply = await client.get(path, params={name: moment})
            assert reply.status_code == 200, (name, moment)
            history = reply.json()
            assert (len(history["rows"]), len(history["days"])) == (count, count), (name, moment)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"since": "2026-03-11T00:00:00"}, "since"),
        ({"until": "yesterday"}, "until"),
        ({"since": "2026-03-11T00:00:00Z", "until": "2026-03-11T00:00:00Z"}, "since"),
        ({"scope_id": "a b"}, "scope_id"),
        ({"page_size": 1001}, "page_size"),
        ({"from": "x"}, "from"),
    ],
)
async def test_wrong_queries_of_history_name_the_parameter(
    client: AppClient, query: dict[str, Any], field: str
) -> None:
    quota = await client.make_quota()
    reply = await client.get(path_of(quota, "/history"), params=query)
    assert (reply.status_code, reply.json()["details"]["field"]) == (400, field)

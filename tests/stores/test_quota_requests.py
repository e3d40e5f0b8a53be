"""Requests for more of a quota: asked, listed and decided."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fiscus.errors import Conflict, Forbidden, IdempotencyConflict, NotFound, ValidationError
from fiscus.paging import page_request
from fiscus.quotas.model import QuotaRequest, RequestStatus
from fiscus.quotas.port import QuotaRequestFilter
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.quotas import requests as quota_requests
from tests.stores.conftest import in_threads
from tests.stores.quota_desk import NOW, QuotaDesk, at

LATER = NOW + timedelta(hours=1)
ALL = QuotaRequestFilter()


@pytest.fixture
def desk(database: Database, tenant: str) -> QuotaDesk:
    return QuotaDesk(database, tenant)


def decide(
    desk: QuotaDesk, request: QuotaRequest | str, *, approve: bool = True, **fields: Any
) -> QuotaRequest:
    defaults: dict[str, Any] = {"comment": None, "by": "ann", "now": LATER}
    request_id = request if isinstance(request, str) else request.request_id
    return desk.quotas.decide_request(
        desk.tenant_id, request_id, approve=approve, **defaults | fields
    )


def requests(desk: QuotaDesk, wanted: QuotaRequestFilter = ALL, **page: Any) -> list[QuotaRequest]:
    return desk.quotas.requests(desk.tenant_id, wanted, page_request(**page)).items


def test_a_request_waits_until_it_is_decided(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    asked = desk.ask(quota, "12.5")
    assert (asked.status, asked.requested_by, asked.requested_at) == ("pending", "una", NOW)
    assert requests(desk) == [asked]
    assert desk.get(quota) == quota


def test_approval_makes_the_quota_larger_by_a_new_version(desk: QuotaDesk) -> None:
    quota = desk.allocate(max_burst_amount="5", auto_renew=True)
    before = desk.definitions_version()
    decided = decide(desk, desk.ask(quota, "12.5"), comment="for this once")
    assert (decided.status, decided.decided_by, decided.decided_at, decided.comment) == (
        RequestStatus.APPROVED,
        "ann",
        LATER,
        "for this once",
    )
    assert requests(desk) == [decided]
    larger = desk.get(quota)
    assert (larger.version, str(larger.allocated_amount), larger.max_burst_amount) == (
        2,
        "112.5",
        5,
    )
    assert larger.updated_at == LATER
    assert desk.get(quota, 1) == quota
    assert desk.definitions_version() == before + 1


def test_a_rejected_request_changes_no_quota(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    assert decide(desk, desk.ask(quota), approve=False).status is RequestStatus.REJECTED
    assert desk.get(quota) == quota


def test_who_asked_does_not_decide(desk: QuotaDesk) -> None:
    asked = desk.ask(desk.allocate())
    for approve in (True, False):
        with pytest.raises(Forbidden):
            decide(desk, asked, approve=approve, by="una")
    assert requests(desk) == [asked]


def test_a_request_is_decided_once(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    asked = desk.ask(quota)
    refused: list[Conflict] = []

    def approve() -> None:
        try:
            decide(desk, asked)
        except Conflict as error:
            refused.append(error)

    in_threads(6, approve)
    assert len(refused) == 5
    assert desk.get(quota).allocated_amount == 110
    with pytest.raises(Conflict):
        decide(desk, asked, approve=False)


def test_no_more_is_approved_of_a_quota_that_is_over_or_deleted(desk: QuotaDesk) -> None:
    over, deleted = desk.allocate(), desk.allocate(scope_id="gemini")
    first, second = desk.ask(over), desk.ask(deleted)
    desk.quotas.delete(desk.tenant_id, deleted.quota_id, force=True, by="ann", now=NOW)
    with pytest.raises(Conflict, match="over"):
        decide(desk, first, now=at("2026-04-01"))
    with pytest.raises(Conflict, match="deleted"):
        decide(desk, second)
    assert {one.status for one in requests(desk)} == {RequestStatus.PENDING}
    # but the list can be cleared
    assert decide(desk, first, approve=False, now=at("2026-04-01")).status == "rejected"
    assert decide(desk, second, approve=False).status == "rejected"


def test_a_decision_that_is_not_committed_changes_nothing(
    desk: QuotaDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = desk.allocate()
    asked = desk.ask(quota)

    def decide_and_fail(*arguments: Any, **options: Any) -> None:
        quota_requests_decide(*arguments, **options)
        raise RuntimeError("the process ends here")

    quota_requests_decide = quota_requests.decide
    monkeypatch.setattr(quota_requests, "decide", decide_and_fail)
    with pytest.raises(RuntimeError):
        decide(desk, asked)
    assert requests(desk) == [asked]
    assert desk.get(quota) == quota


@pytest.mark.parametrize("amount", ["0", "-1"])
def test_nothing_and_less_cannot_be_asked_for(desk: QuotaDesk, amount: str) -> None:
    quota = desk.allocate()
    with pytest.raises(ValidationError) as caught:
        desk.ask(quota, amount)
    assert caught.value.field == "additional_amount"


def test_more_than_an_amount_can_be_is_not_approved(desk: QuotaDesk) -> None:
    quota = desk.allocate(allocated_amount="9e25")
    asked = desk.ask(quota, "9e25")
    with pytest.raises(ValidationError):
        decide(desk, asked)
    assert requests(desk) == [asked]


def test_what_does_not_exist_is_not_found(desk: QuotaDesk, database: Database) -> None:
    quota = desk.allocate()
    asked = desk.ask(quota)
    other = QuotaDesk(database, f"{desk.tenant_id}-other")
    with pytest.raises(NotFound):
        other.ask(quota)
    for one in (asked.request_id, "nothing"):
        with pytest.raises(NotFound):
            decide(other, one)
    assert requests(other) == []


def test_a_request_sent_again_is_the_same_request(desk: QuotaDesk) -> None:
    quota = desk.allocate()
    asked = desk.ask(quota, key="k")
    assert desk.ask(quota, key="k") == asked
    with pytest.raises(IdempotencyConflict):
        desk.ask(quota, "11", key="k")
    assert requests(desk) == [asked]


def test_requests_are_listed_by_status_and_quota_newest_first(desk: QuotaDesk) -> None:
    one, two = desk.allocate(), desk.allocate(scope_id="gemini")
    first, second, third = desk.ask(one), desk.ask(two), desk.ask(one)
    rejected = decide(desk, second, approve=False)
    for wanted, found in (
        (ALL, [third, rejected, first]),
        (QuotaRequestFilter(status=RequestStatus.PENDING), [third, first]),
        (QuotaRequestFilter(quota_id=two.quota_id), [rejected]),
        (QuotaRequestFilter(RequestStatus.APPROVED, one.quota_id), []),
        (QuotaRequestFilter(quota_id="nothing"), []),
    ):
        assert requests(desk, wanted) == found
    page = desk.quotas.requests(desk.tenant_id, ALL, page_request(page_size=2))
    assert page.items == [third, rejected]
    assert requests(desk, page_token=page.pagination.next_page_token, page_size=2) == [first]

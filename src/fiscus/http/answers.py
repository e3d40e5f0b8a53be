"""Answers that only HTTP has: pages of things, with where the page stands."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fiscus.access.model import ApiKey
from fiscus.budgets.calls import ReservationView
from fiscus.budgets.model import Budget
from fiscus.costs.model import CostRecord
from fiscus.paging import Pagination
from fiscus.quotas.calls import QuotaView
from fiscus.quotas.model import QuotaRequest
from fiscus.ratelimits.calls import PolicyView


class BudgetPage(Struct, frozen=True, kw_only=True):
    """A page of budgets, newest first."""

    budgets: list[Budget]
    pagination: Pagination
    correlation_id: str


class ReservationPage(Struct, frozen=True, kw_only=True):
    """A page of reservations, newest first."""

    reservations: list[ReservationView]
    pagination: Pagination
    correlation_id: str


class PolicyPage(Struct, frozen=True, kw_only=True):
    """A page of policies, newest first."""

    policies: list[PolicyView]
    pagination: Pagination
    correlation_id: str


class QuotaPage(Struct, frozen=True, kw_only=True):
    """A page of quotas, newest first."""

    quotas: list[QuotaView]
    pagination: Pagination
    correlation_id: str


class QuotaRequestPage(Struct, frozen=True, kw_only=True):
    """A page of requests for more of a quota, newest first."""

    requests: list[QuotaRequest]
    pagination: Pagination
    correlation_id: str


class RecordPage(Struct, frozen=True, kw_only=True):
    """A page of cost records, newest first."""

    records: list[CostRecord]
    pagination: Pagination
    correlation_id: str


class CostRecordView(CostRecord, frozen=True, kw_only=True):
    """A cost record as answered over the API."""

    correlation_id: str


class ApiKeyPage(Struct, frozen=True, kw_only=True):
    """A page of API keys, newest first; revoked ones too, the keys themselves never."""

    api_keys: list[ApiKey]
    pagination: Pagination
    correlation_id: str


class ApiKeyView(ApiKey, frozen=True, kw_only=True):
    """An API key as answered over the API, without the key itself."""

    correlation_id: str


class Dependency(Struct, frozen=True, kw_only=True):
    """One thing Fiscus needs, and how it is."""

    name: Annotated[
        str, Meta(description="store, ledger, counters, disk, exchange_rates or worker.")
    ]
    status: Annotated[str, Meta(description="UP, DEGRADED or DOWN.")]
    latency_ms: Annotated[
        float | None, Meta(description="How long the check took, for the store; else null.")
    ]
    message: Annotated[str, Meta(description="What was seen, in words.")]


class HealthAnswer(Struct, frozen=True, kw_only=True):
    """How Fiscus is: the worst of its dependencies."""

    status: Annotated[
        str, Meta(description="UP, DEGRADED (it works, but look at it) or DOWN (with 503).")
    ]
    version: Annotated[str, Meta(description="The version of Fiscus.")]
    dependencies: list[Dependency]
    reasons: Annotated[list[str], Meta(description="Why the status is not UP; else empty.")]
    correlation_id: str


class ProbeAnswer(Struct, frozen=True, kw_only=True):
    """The answer of a probe."""

    status: Annotated[str, Meta(description="live; ready or not_ready (with 503).")]
    reasons: Annotated[list[str], Meta(description="Why it is not ready; else empty.")]
    correlation_id: str

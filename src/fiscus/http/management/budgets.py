"""Endpoints of budgets and reservations that people read and manage."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response
from msgspec.structs import asdict, replace

from fiscus.access.model import Action
from fiscus.budgets.calls import (
    BudgetPage,
    BudgetView,
    ReservationPage,
    ReservationView,
    Utilization,
)
from fiscus.budgets.model import Budget, BudgetSpec
from fiscus.budgets.queries import (
    BudgetQuery,
    DeleteBudgetQuery,
    ReservationQuery,
    UtilizationQuery,
)
from fiscus.http.management.endpoints import Call, Endpoint, NoBody
from fiscus.http.management.queries import NoQuery
from fiscus.http.management.versions import etag, expected_version
from fiscus.http.replies import json_reply
from fiscus.idempotency import CREATE_BUDGET
from fiscus.wire.queries import TenantQuery

_BUDGET_ID: Final = {"budget_id": "The id of the budget."}
_RESERVATION_ID: Final = {"reservation_id": "The id of the reservation, from the check."}


async def create_budget(call: Call[NoQuery, BudgetSpec]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    budget = await call.run(
        call.engine.budgets.create,
        tenant_id,
        call.body,
        by=call.principal.subject,
        now=call.now,
        idempotency=call.idempotency(tenant_id, CREATE_BUDGET),
    )
    return _budget(budget, call, status=201)


async def list_budgets(call: Call[BudgetQuery, NoBody]) -> Response:
    query = call.query
    page = await call.run(
        call.engine.budgets.list,
        call.tenant_for(query.tenant_id),
        query.wanted(),
        query.wanted_page(),
    )
    return json_reply(
        BudgetPage(
            budgets=page.items, pagination=page.pagination, correlation_id=call.correlation_id
        )
    )


async def get_budget(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    budget = await call.run(call.engine.budgets.get, tenant_id, call.path_id("budget_id", "budget"))
    return _budget(budget, call)


async def get_budget_version(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    budget_id = call.path_id("budget_id", "budget")
    budget = await call.run(call.engine.budgets.get, tenant_id, budget_id, call.path_version())
    return _budget(budget, call)


async def replace_budget(call: Call[NoQuery, BudgetSpec]) -> Response:
    tenant_id = call.tenant_for(call.body.tenant_id)
    budget = await call.run(
        call.engine.budgets.replace,
        tenant_id,
        call.path_id("budget_id", "budget"),
        call.body,
        expected_version=expected_version(call, call.body.version),
        by=call.principal.subject,
        now=call.now,
    )
    return _budget(budget, call)


async def delete_budget(call: Call[DeleteBudgetQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    await call.run(
        call.engine.budgets.delete,
        tenant_id,
        call.path_id("budget_id", "budget"),
        force=call.query.force,
        by=call.principal.subject,
        now=call.now,
    )
    return Response(status_code=204)


async def get_utilization(call: Call[UtilizationQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    utilization = await call.run(
        call.engine.budgets.utilization,
        tenant_id,
        call.path_id("budget_id", "budget"),
        call.query.wanted_page(),
        scope_id=call.query.scope_id,
        now=call.now,
    )
    return json_reply(replace(utilization, correlation_id=call.correlation_id))


async def list_reservations(call: Call[ReservationQuery, NoBody]) -> Response:
    query = call.query
    page = await call.run(
        call.engine.reservations.list,
        call.tenant_for(query.tenant_id),
        query.wanted(),
        query.wanted_page(),
        call.now,
    )
    return json_reply(
        ReservationPage(
            reservations=page.items,
            pagination=page.pagination,
            correlation_id=call.correlation_id,
        )
    )


async def get_reservation(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    reservation_id = call.path_id("reservation_id", "reservation")
    view = await call.run(call.engine.reservations.get, tenant_id, reservation_id, call.now)
    return json_reply(replace(view, correlation_id=call.correlation_id))


def _budget(budget: Budget, call: Call[Any, Any], *, status: int = 200) -> Response:
    view = BudgetView(**asdict(budget), correlation_id=call.correlation_id)
    headers = etag(budget.version)
    if status == 201:
        headers |= call.location(f"/budgets/{budget.budget_id}", budget.tenant_id)
    return json_reply(view, status=status, headers=headers)


ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    Endpoint(
        operation="create_budget",
        method="POST",
        path="/budgets",
        tag="Budgets",
        summary="Create a budget",
        handler=create_budget,
        action=Action.CHANGE_BUDGETS,
        answer=BudgetView,
        query=NoQuery,
        request=BudgetSpec,
        status=201,
        errors=("IDEMPOTENCY_CONFLICT", "PAYLOAD_TOO_LARGE"),
        idempotent=True,
        versioned=True,
    ),
    Endpoint(
        operation="list_budgets",
        method="GET",
        path="/budgets",
        tag="Budgets",
        summary="List budgets",
        handler=list_budgets,
        action=Action.VIEW_BUDGETS,
        answer=BudgetPage,
        query=BudgetQuery,
        request=NoBody,
    ),
    # before /budgets/{budget_id}, which would take "reservations" for an id
    Endpoint(
        operation="list_reservations",
        method="GET",
        path="/budgets/reservations",
        tag="Reservations",
        summary="List reservations",
        handler=list_reservations,
        action=Action.VIEW_RESERVATIONS,
        answer=ReservationPage,
        query=ReservationQuery,
        request=NoBody,
    ),
    Endpoint(
        operation="get_reservation",
        method="GET",
        path="/budgets/reservations/{reservation_id}",
        tag="Reservations",
        summary="Get a reservation",
        handler=get_reservation,
        action=Action.VIEW_RESERVATIONS,
        answer=ReservationView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        path_notes=_RESERVATION_ID,
    ),
    Endpoint(
        operation="get_budget",
        method="GET",
        path="/budgets/{budget_id}",
        tag="Budgets",
        summary="Get a budget",
        handler=get_budget,
        action=Action.VIEW_BUDGETS,
        answer=BudgetView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        versioned=True,
        path_notes=_BUDGET_ID,
    ),
    Endpoint(
        operation="replace_budget",
        method="PUT",
        path="/budgets/{budget_id}",
        tag="Budgets",
        summary="Replace a budget's definition by a new version",
        description="Fields left out take their defaults; currency and time zone stay. With "
        "`version` or `If-Match`, a budget that was changed meanwhile is left alone (409). Period, "
        "time zone and currency of a budget that has usage cannot change (409).",
        handler=replace_budget,
        action=Action.CHANGE_BUDGETS,
        answer=BudgetView,
        query=NoQuery,
        request=BudgetSpec,
        errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_TOO_LARGE"),
        versioned=True,
        path_notes=_BUDGET_ID,
    ),
    Endpoint(
        operation="delete_budget",
        method="DELETE",
        path="/budgets/{budget_id}",
        tag="Budgets",
        summary="End a budget; its history stays",
        handler=delete_budget,
        action=Action.CHANGE_BUDGETS,
        answer=None,
        query=DeleteBudgetQuery,
        request=NoBody,
        status=204,
        errors=("NOT_FOUND", "CONFLICT"),
        path_notes=_BUDGET_ID,
    ),
    Endpoint(
        operation="get_budget_version",
        method="GET",
        path="/budgets/{budget_id}/versions/{version}",
        tag="Budgets",
        summary="Get a budget as it was in one of its versions",
        handler=get_budget_version,
        action=Action.VIEW_BUDGETS,
        answer=BudgetView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        versioned=True,
        path_notes={**_BUDGET_ID, "version": "The number of the version, from 1."},
    ),
    Endpoint(
        operation="get_utilization",
        method="GET",
        path="/budgets/{budget_id}/utilization",
        tag="Budgets",
        summary="How far a budget is used, now and in past periods",
        handler=get_utilization,
        action=Action.VIEW_BUDGETS,
        answer=Utilization,
        query=UtilizationQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        path_notes=_BUDGET_ID,
    ),
)

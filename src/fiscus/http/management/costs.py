"""Endpoints of costs that people read: records and reports; and the stream of records."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response
from msgspec.structs import asdict, replace

from fiscus.access.model import Action
from fiscus.costs.calls import CostRecordView, RecordPage
from fiscus.costs.csv import report_csv
from fiscus.costs.queries import CostQuery
from fiscus.costs.report_model import Report, ReportFormat, ReportRequest
from fiscus.costs.reports import build_report
from fiscus.http.api_limits import ApiLimit
from fiscus.http.management.endpoints import Call, Endpoint, NoBody
from fiscus.http.management.queries import NoQuery
from fiscus.http.management.stream import NDJSON, StreamLine, stream_records
from fiscus.http.replies import json_reply
from fiscus.wire.queries import TenantQuery


async def list_records(call: Call[CostQuery, NoBody]) -> Response:
    query = call.query
    page = await call.run(
        call.engine.costs.list,
        call.tenant_for(query.tenant_id),
        query.wanted(),
        query.wanted_page(),
    )
    return json_reply(
        RecordPage(
            records=page.items, pagination=page.pagination, correlation_id=call.correlation_id
        )
    )


async def get_record(call: Call[TenantQuery, NoBody]) -> Response:
    tenant_id = call.tenant_for(call.query.tenant_id)
    record_id = call.path_id("record_id", "record")
    record = await call.run(call.engine.costs.get, tenant_id, record_id)
    return json_reply(CostRecordView(**asdict(record), correlation_id=call.correlation_id))


async def report_by_query(call: Call[ReportRequest, NoBody]) -> Response:
    return await _report(call, call.query)


async def report_by_body(call: Call[NoQuery, ReportRequest]) -> Response:
    return await _report(call, call.body)


async def _report(call: Call[Any, Any], request: ReportRequest) -> Response:
    tenant_id = call.tenant_for(request.tenant_id)
    as_csv = request.format is ReportFormat.CSV
    if as_csv:
        call.principal.require(Action.EXPORT_COSTS)

    def work() -> bytes | Report:
        engine = call.engine
        report = build_report(
            request,
            engine.costs,
            engine.rates,
            engine.tenants.settings(tenant_id),
            tenant_id,
            call.now,
        )
        return report_csv(report).encode() if as_csv else report

    result = await call.run(work)
    if isinstance(result, bytes):
        return Response(
            result,
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="costs.csv"'},
        )
    return json_reply(replace(result, correlation_id=call.correlation_id))


_REPORT_DESCRIPTION: Final = (
    "Costs of a range, added up, converted and grouped. Totals come from quarter-hour sums, so the "
    "time of a report does not grow with the number of records; a tag that the tenant did not "
    "declare scans them, and `source` says so. `format=csv` needs a role that may export costs."
)
_REPORT_TYPES: Final = ("application/json", "text/csv")

ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    Endpoint(
        operation="stream_records",
        limited_as=ApiLimit.COST_RECORDS,
        method="POST",
        path="/cost-tracking/record/stream",
        tag="Costs",
        summary="Record any number of costs, one JSON object per line",
        description="The body is NDJSON: lines as for `/cost-tracking/record`, of at most 64 KiB "
        "each, of one tenant. Lines are committed in chunks while they arrive; a chunk is whole or "
        "not there at all, also when the client hangs up. The answer has one line per line sent, "
        "in order, and a last one that sums up. Give each line an `idempotency_key` or an "
        "`operation_id`, so that a stream that was cut off can be sent again. A stream counts once "
        "against the limit on calls that record costs.",
        handler=stream_records,
        action=Action.OPERATE,
        answer=StreamLine,
        query=TenantQuery,
        request=NoBody,
        content_types=(NDJSON,),
        streams=True,
    ),
    Endpoint(
        operation="list_records",
        method="GET",
        path="/cost-tracking/records",
        tag="Costs",
        summary="List cost records, newest first",
        handler=list_records,
        action=Action.VIEW_COSTS,
        answer=RecordPage,
        query=CostQuery,
        request=NoBody,
    ),
    Endpoint(
        operation="get_record",
        method="GET",
        path="/cost-tracking/records/{record_id}",
        tag="Costs",
        summary="Get a cost record",
        handler=get_record,
        action=Action.VIEW_COSTS,
        answer=CostRecordView,
        query=TenantQuery,
        request=NoBody,
        errors=("NOT_FOUND",),
        path_notes={"record_id": "The id of the record."},
    ),
    Endpoint(
        operation="get_report",
        limited_as=ApiLimit.REPORTS,
        method="GET",
        path="/cost-tracking/reports",
        tag="Reports",
        summary="Report costs",
        description=_REPORT_DESCRIPTION,
        handler=report_by_query,
        action=Action.VIEW_COSTS,
        answer=Report,
        query=ReportRequest,
        request=NoBody,
        content_types=_REPORT_TYPES,
    ),
    Endpoint(
        operation="make_report",
        limited_as=ApiLimit.REPORTS,
        method="POST",
        path="/cost-tracking/reports",
        tag="Reports",
        summary="Report costs, asked for in a body",
        description=_REPORT_DESCRIPTION,
        handler=report_by_body,
        action=Action.VIEW_COSTS,
        answer=Report,
        query=NoQuery,
        request=ReportRequest,
        errors=("PAYLOAD_TOO_LARGE",),
        content_types=_REPORT_TYPES,
    ),
)

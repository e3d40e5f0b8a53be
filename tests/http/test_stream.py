"""The stream of cost records: whole chunks, answers in order, nothing for wrong lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import batches
from fiscus.http.stream import MAX_LINE_BYTES, _lines
from tests.http.app_client import API

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

URL = f"{API}/cost-tracking/record/stream"


def line(**fields: Any) -> bytes:
    return json.dumps({"resource_type": "llm", "cost_amount": 1, **fields}).encode()


async def parts(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def stream(client: AppClient, content: Any, **more: Any) -> tuple[list[Any], Any]:
    reply = await client.send("POST", URL, content=content, **more)
    assert reply.status_code == 200, reply.text
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    *lines, summary = map(json.loads, reply.text.splitlines())
    assert summary["summary"] is True
    assert summary["correlation_id"] == reply.headers["X-Correlation-ID"]
    return lines, summary


async def total(client: AppClient) -> tuple[int, float]:
    report = (await client.get("/cost-tracking/reports")).json()
    return report["record_count"], report["total_cost"]


async def test_every_line_is_recorded_and_answered_in_order(client: AppClient) -> None:
    body = b"\n".join(line(cost_amount=number) for number in range(1, 1201)) + b"\n"
    lines, summary = await stream(client, body)
    assert [one["line"] for one in lines] == list(range(1, 1201))
    assert len({one["record_id"] for one in lines}) == 1200
    assert (summary["recorded"], summary["failed"], summary["completed"]) == (1200, 0, True)
    assert await total(client) == (1200, sum(range(1, 1201)))


async def test_a_wrong_line_is_an_error_in_its_place(client: AppClient) -> None:
    body = b"\n".join(
        [
            line(),
            b"{",
            b"",
            b"  \r",
            line(tenant_id="globex"),
            line(cost_amount="NaN"),
            line(note="x" * MAX_LINE_BYTES),
            line(reservation_id="019cd7d8-7c00-7a11-8f00-0123456789ab"),
            b'{"resource_type":"llm","usage":{"tokens":1}}',
            line(),
        ]
    )
    lines, summary = await stream(client, body)
    codes = {one["line"]: one["error"]["error_code"] for one in lines if "error" in one}
    assert codes == {
        2: "VALIDATION_ERROR",
        5: "FORBIDDEN",
        6: "VALIDATION_ERROR",
        7: "PAYLOAD_TOO_LARGE",
        8: "NOT_FOUND",
        9: "COST_CALCULATION_ERROR",
    }
    assert [one["line"] for one in lines if "record_id" in one] == [1, 10]
    assert (summary["recorded"], summary["failed"]) == (2, 6)
    assert await total(client) == (2, 2)


async def test_lines_may_be_cut_anywhere_by_the_network(client: AppClient) -> None:
    body = b"\n".join(line(cost_amount=number, tags={"ö": "ü"}) for number in range(1, 11))
    pieces = [body[place : place + 7] for place in range(0, len(body), 7)]
    lines, summary = await stream(client, parts(pieces))
    assert [one["line"] for one in lines] == list(range(1, 11))
    assert summary["recorded"] == 10
    assert await total(client) == (10, 55)


async def test_a_stream_that_is_sent_again_records_nothing_twice(client: AppClient) -> None:
    body = b"\n".join(line(operation_id=f"op-{number}") for number in range(20))
    first, _ = await stream(client, body)
    again, summary = await stream(client, body)
    assert [one["record_id"] for one in again] == [one["record_id"] for one in first]
    assert summary["recorded"] == 20
    assert await total(client) == (20, 20)


async def test_a_key_for_the_whole_stream_is_refused(client: AppClient) -> None:
    for header in ("X-Idempotency-Key", "Idempotency-Key"):
        reply = await client.send("POST", URL, content=line(), headers={header: "k"})
        assert reply.status_code == 400
    assert await total(client) == (0, 0)


async def test_an_empty_stream_is_summed_up(client: AppClient) -> None:
    for body in (b"", b"\n\n", parts([])):
        lines, summary = await stream(client, body)
        assert lines == []
        assert (summary["recorded"], summary["failed"], summary["completed"]) == (0, 0, True)


async def test_a_chunk_that_meets_too_many_budgets_is_recorded_in_parts(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_MET_BY_RECORDS", 20)
    for _ in range(3):
        await client.make_budget()
    lines, summary = await stream(
        client, b"\n".join([*[line(project_id="search")] * 20, b"{", line()])
    )
    assert [one["line"] for one in lines] == list(range(1, 23))
    assert [one["line"] for one in lines if "error" in one] == [21]
    assert (summary["recorded"], summary["failed"], summary["completed"]) == (21, 1, True)


async def test_when_the_ledger_cannot_go_on_the_stream_says_where(client: AppClient) -> None:
    client.engine.ledger.close()
    lines, summary = await stream(client, b"\n".join([line()] * 1200))
    assert len(lines) == 500
    assert {one["error"]["error_code"] for one in lines} == {"SERVICE_UNAVAILABLE"}
    assert {one["error"]["retriable"] for one in lines} == {True}
    assert (summary["recorded"], summary["failed"], summary["completed"]) == (0, 500, False)


async def test_a_client_that_hangs_up_leaves_whole_chunks_only(client: AppClient) -> None:
    """Spoken to as a server does: two reads arrive, then the client is gone."""
    messages = [
        {"type": "http.request", "body": b"\n".join([line()] * 30) + b"\n", "more_body": True},
        {"type": "http.request", "body": b"\n".join([line()] * 12) + b"\n{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": URL,
        "raw_path": URL.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"x-api-key", client.key.encode())],
    }
    await client.app(scope, receive, send)
    assert sent[0]["status"] == 200
    assert b'"summary"' not in b"".join(one.get("body", b"") for one in sent)
    assert await total(client) == (42, 42)


async def test_a_line_without_end_is_dropped_while_it_arrives() -> None:
    long = [b"x" * 40_000] * 5
    pieces = [b"a\n", *long, b"yy\nb\n", *long, b"z"]
    messages = [
        {"type": "http.request", "body": piece, "more_body": place < len(pieces) - 1}
        for place, piece in enumerate(pieces)
    ]

    async def receive() -> Any:
        return messages.pop(0)

    found = [one async for lines in _lines(receive) for one in lines]
    assert found == [b"a", None, b"b", None]

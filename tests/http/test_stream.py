"""The stream of cost records: whole chunks, answers in order, nothing for wrong lines."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from fiscus import match_limits
from fiscus.http import server as server_module
from fiscus.http.management import backlog
from fiscus.http.management.stream import MAX_LINE_BYTES, _lines, _send_all
from tests.http.app_client import API, open_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

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


def scope_of(client: AppClient) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": URL,
        "raw_path": URL.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"x-api-key", client.key.encode())],
    }


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
            b'{"resource_type":"llm","cost_amount":1,"usage":{"tokens":%b}}' % (b"9" * 4301),
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
        11: "VALIDATION_ERROR",
    }
    assert [one["line"] for one in lines if "record_id" in one] == [1, 10]
    assert (summary["recorded"], summary["failed"]) == (2, 7)
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
    monkeypatch.setattr(match_limits, "MAX_MATCHES_OF_RECORDS", 20)
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

    await client.app(scope_of(client), receive, send)
    assert sent[0]["status"] == 200
    assert b'"summary"' not in b"".join(one.get("body", b"") for one in sent)
    assert await total(client) == (42, 42)


@pytest.mark.parametrize("more_body", [True, False])
async def test_answers_that_cannot_be_sent_are_given_up_with_what_they_took(
    client: AppClient, monkeypatch: pytest.MonkeyPatch, more_body: bool
) -> None:
    """As servers do that raise an error when the client is gone (ASGI 2.4)."""
    spaces: list[backlog.AnswerSpace] = []
    hung_up = asyncio.Event()
    messages = [{"type": "http.request", "body": b"x\n", "more_body": more_body}]
    make = backlog.Backlog.__init__

    def made(waiting: backlog.Backlog, space: backlog.AnswerSpace) -> None:
        spaces.append(space)
        make(waiting, space)

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            hung_up.set()
            raise OSError("the client is gone")

    monkeypatch.setattr(backlog.Backlog, "__init__", made)
    await client.app(scope_of(client), receive, send)
    assert [space.free_bytes for space in spaces] == [backlog.MAX_WAITING_BYTES]


async def test_a_client_that_takes_nothing_is_read_no_further_than_there_is_room(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spoken to as a server does, with a client that sends on and on."""
    monkeypatch.setattr(backlog, "_IN_MEMORY_BYTES", 10_000)
    monkeypatch.setattr(server_module, "MAX_WAITING_BYTES", 200_000)
    stopped, takes = asyncio.Event(), asyncio.Event()
    wait = backlog.AnswerSpace.next_given_back

    async def stop(space: backlog.AnswerSpace) -> None:
        stopped.set()
        await wait(space)

    monkeypatch.setattr(backlog.AnswerSpace, "next_given_back", stop)
    most, read_count, sent = 40, 0, b""

    async def receive() -> dict[str, Any]:
        nonlocal read_count
        read_count += 1
        return {"type": "http.request", "body": b"x\n" * 100, "more_body": read_count < most}

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        if "body" in message:
            await takes.wait()
            sent += message["body"]

    async with open_app(data_dir) as client:
        answering = asyncio.create_task(client.app(scope_of(client), receive, send))
        await asyncio.wait_for(stopped.wait(), 30)
        assert 0 < read_count < most / 2
        takes.set()
        await asyncio.wait_for(answering, 30)
    assert read_count == most
    assert [json.loads(one).get("line") for one in sent.splitlines()] == [
        *range(1, 100 * most + 1),
        None,
    ]


async def test_a_client_that_hangs_up_when_there_is_no_more_room_is_waited_for_no_longer(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which a server tells by an error, and then by what is received."""
    monkeypatch.setattr(backlog, "_IN_MEMORY_BYTES", 10_000)
    monkeypatch.setattr(server_module, "MAX_WAITING_BYTES", 200_000)
    hung_up = asyncio.Event()
    wait = backlog.AnswerSpace.next_given_back

    async def hang_up(space: backlog.AnswerSpace) -> None:
        hung_up.set()
        await wait(space)

    async def receive() -> dict[str, Any]:
        if hung_up.is_set():
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"x\n" * 100, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        if "body" in message:
            await hung_up.wait()
            raise OSError("the client is gone")

    monkeypatch.setattr(backlog.AnswerSpace, "next_given_back", hang_up)
    async with open_app(data_dir) as client:
        answering = asyncio.create_task(client.app(scope_of(client), receive, send))
        done, _ = await asyncio.wait({answering}, timeout=30)
    assert done


async def test_an_answer_that_is_whole_is_not_ended_again_by_a_stop(client: AppClient) -> None:
    ends: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x\n", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message.get("more_body") is False:
            ends.append(message["body"])
            asyncio.get_running_loop().call_soon(answering.cancel)

    answering = asyncio.create_task(client.app(scope_of(client), receive, send))
    await answering
    assert ends == [b""]


async def test_every_stream_finds_room_and_a_small_one_always_goes_on() -> None:
    space = backlog.AnswerSpace(4_000_000)
    first, second, third = (backlog.Backlog(space) for _ in range(3))
    for one, put_bytes in ((first, 2_500_000), (second, 1_200_000), (third, 1_000_000)):
        one.put(b"x" * put_bytes)
    stopped = [asyncio.ensure_future(one.room()) for one in (first, second)]
    await asyncio.wait_for(third.room(), 30)
    await asyncio.sleep(0)
    assert [one.done() for one in stopped] == [False, False]
    taken = 0
    while taken < 2_500_000:
        taken += len(await first.next())
    assert (await asyncio.wait_for(asyncio.gather(*stopped), 30)) == [None, None]
    for one in (first, second, third):
        one.close()
    assert space.free_bytes == 4_000_000


async def test_what_is_left_for_a_client_that_hung_up_keeps_nobody_waiting() -> None:
    """As a server does, `send` returns at once when the client is gone."""
    turns = 0
    counted = asyncio.Event()
    waiting = backlog.Backlog(backlog.AnswerSpace(10_000_000))
    waiting.put(b"x" * 65_536 * 50)
    waiting.finish()

    async def send(message: dict[str, Any]) -> None:
        pass

    async def others() -> None:
        nonlocal turns
        while not counted.is_set():
            turns += 1
            await asyncio.sleep(0)

    going_on = asyncio.create_task(others())
    await _send_all(waiting, send)
    counted.set()
    await going_on
    waiting.close()
    assert turns >= 50


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

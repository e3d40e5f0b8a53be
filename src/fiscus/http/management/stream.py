"""Cost records as a stream: NDJSON in, NDJSON out, of any length, in chunks that are whole or not.

Answers go out while records come in. A client that sends everything before it reads anything would
stop both sides once the sockets' buffers are full; so answers it does not take yet wait in a
temporary file, and memory stays bounded by what one read brings. The files are bounded, too: beyond
that no more is read of a client, and one that then takes nothing is hung up on as any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from time import perf_counter
from typing import Annotated, Any, Final

from fastapi import Response
from msgspec import Meta, Struct

from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer
from fiscus.costs.model import CostFlag
from fiscus.errors import FiscusError, PayloadTooLarge, ValidationError
from fiscus.http.body import ClientGone, require_plain
from fiscus.http.management.backlog import Backlog
from fiscus.http.management.endpoints import Call, NoBody
from fiscus.http.refusals import note_refused_items
from fiscus.ledger.commands import InvalidRecord, Record, RecordBatch
from fiscus.ledger.requests.costs import record_item
from fiscus.runtime.logs import get_logger
from fiscus.wire.encoding import encode
from fiscus.wire.items import ItemError, item_error
from fiscus.wire.queries import TenantQuery

CHUNK_LINES: Final = 500
MAX_LINE_BYTES: Final = 65_536
NDJSON: Final = "application/x-ndjson"
_END: Final = {"type": "http.response.body", "body": b"", "more_body": False}

log = get_logger(__name__)


class StreamLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one line: `record_id`, or `error` for a line that was not recorded."""

    line: Annotated[int, Meta(description="Number of the line that was sent, from 1.")]
    record_id: Annotated[str | None, Meta(description="The id of the record.")] = None
    flags: Annotated[
        list[CostFlag] | None, Meta(description="late, excess, unreserved, unconverted.")
    ] = None
    error: Annotated[ItemError | None, Meta(description="Why the line was not recorded.")] = None


class StreamSummary(Struct, frozen=True, kw_only=True):
    """The last line of the answer; without it the answer was cut off."""

    summary: Annotated[bool, Meta(description="Always true: tells this line from the others.")]
    recorded: Annotated[int, Meta(description="Lines recorded, repeated ones included.")]
    failed: Annotated[int, Meta(description="Lines not recorded; each says why in its place.")]
    completed: Annotated[
        bool,
        Meta(description="False: the ledger could not go on, and later lines were not looked at."),
    ]
    correlation_id: Annotated[str, Meta(description="Names this request in the logs.")]


async def stream_records(call: Call[TenantQuery, NoBody]) -> Response:
    """Records every line of the body that is sound; a wrong line is an error in its place."""
    if {"x-idempotency-key", "idempotency-key"} & set(call.request.headers):
        raise ValidationError(
            "A stream takes no idempotency key of its own",
            field="X-Idempotency-Key",
            suggested_action="Give each line an idempotency_key or operation_id.",
        )
    require_plain(dict(call.request.scope["headers"]))
    return RecordStream(call, call.tenant_for(call.query.tenant_id))


class RecordStream(Response):
    """The answer that is written while its request is read."""

    def __init__(self, call: Call[TenantQuery, NoBody], tenant_id: str) -> None:
        super().__init__(status_code=200, media_type=NDJSON)
        self._call = call
        self._tenant_id = tenant_id
        self._line = 0
        self._recorded = 0
        self._failed = 0
        self._noted = False
        """Whether the log says that a line was refused for who sent it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        started = perf_counter()
        headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]

        async def send_if_there(message: Any) -> None:
            # Some servers raise an error for a client that hung up. What it would get is dropped,
            # as others do, so that it takes no room until `receive` tells of that.
            with contextlib.suppress(OSError):
                await send(message)

        await send_if_there({"type": "http.response.start", "status": 200, "headers": headers})
        completed = stopped = False
        with contextlib.closing(Backlog(self._call.server.answer_space)) as backlog:
            sending = asyncio.create_task(_send_all(backlog, send_if_there))
            try:
                completed = await self._record_all(receive, backlog)
                backlog.finish()
                await sending
            except (ClientGone, asyncio.CancelledError) as reason:
                # cancelled: the server stops, and has waited for this stream for as long as it does
                stopped = isinstance(reason, asyncio.CancelledError)
                log.info("stream_cut_off", lines=self._line, recorded=self._recorded)
            finally:
                self._call.server.metrics.decided(
                    "record_stream",
                    "allowed" if completed and not self._failed else "error",
                    perf_counter() - started,
                )
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
        if stopped and sending.cancelled():  # before it had sent the end
            with contextlib.suppress(asyncio.CancelledError):  # of a client that reads nothing
                await send_if_there(_END)

    async def _record_all(self, receive: Callable[[], Awaitable[Any]], backlog: Backlog) -> bool:
        """Take the lines to the ledger, a chunk at a time: reading waits for the commit.

        False when the ledger cannot go on; raises `ClientGone`.
        """
        completed = True

        async def receive_with_room() -> Any:
            await backlog.room()
            return await receive()

        async for lines in _lines(receive_with_room):
            for begin in range(0, len(lines), CHUNK_LINES):
                # shielded: a request that is given up leaves the chunk whole
                work = self._call.run(self._record, lines[begin : begin + CHUNK_LINES])
                answers, completed = await asyncio.shield(asyncio.ensure_future(work))
                backlog.put(answers)
                if not completed:
                    break
            if not completed:
                break
        summary = StreamSummary(
            summary=True,
            recorded=self._recorded,
            failed=self._failed,
            completed=completed,
            correlation_id=self._call.correlation_id,
        )
        backlog.put(encode(summary) + b"\n")
        return completed

    def _record(self, lines: list[bytes | None]) -> tuple[bytes, bool]:
        """Record a chunk: its answers, and whether the ledger can go on."""
        now = self._call.engine.clock.now()
        numbers: list[int] = []
        items: list[Record | InvalidRecord] = []
        for line in lines:
            self._line += 1
            if line is None or line.strip():
                numbers.append(self._line)
                items.append(_read(line, self._tenant_id, now))
        if not items:
            return b"", True
        if not self._noted:
            self._noted = note_refused_items(
                (one.error for one in items if isinstance(one, InvalidRecord)),
                self._call.server.metrics,
                principal=self._call.principal,
                path=self._call.request.scope["path"],
                correlation_id=self._call.correlation_id,
            )
        return self._commit(numbers, items, now)

    def _commit(
        self, numbers: list[int], items: list[Record | InvalidRecord], now: datetime
    ) -> tuple[bytes, bool]:
        """As `_record`; items that meet too many budgets for one command are two."""
        try:
            outcome = self._call.engine.ledger.execute(
                RecordBatch(tenant_id=self._tenant_id, records=items, now=now)
            )
        except FiscusError as error:
            outcome = error
        if isinstance(outcome, PayloadTooLarge):
            half = len(items) // 2
            first, completed = self._commit(numbers[:half], items[:half], now)
            if not completed:
                return first, False
            second, completed = self._commit(numbers[half:], items[half:], now)
            return first + second, completed
        recorded = isinstance(outcome, RecordBatchAnswer)
        if recorded:
            answers = [
                _answer(number, item.record, item.error)
                for number, item in zip(numbers, outcome.results, strict=True)
            ]
            self._recorded += outcome.recorded
            self._failed += outcome.failed
        else:
            assert isinstance(outcome, FiscusError)
            failure = item_error(outcome)
            answers = [StreamLine(line=number, error=failure) for number in numbers]
            self._failed += len(numbers)
        return b"".join(encode(answer) + b"\n" for answer in answers), recorded


def _read(line: bytes | None, tenant_id: str, now: datetime) -> Record | InvalidRecord:
    try:
        if line is None:
            raise PayloadTooLarge(
                f"The line is longer than {MAX_LINE_BYTES} bytes",
                details={"maximum_bytes": MAX_LINE_BYTES},
                suggested_action="Send shorter lines.",
            )
        return record_item(line, tenant_id, now)
    except FiscusError as error:
        return InvalidRecord(item_error(error))


def _answer(number: int, record: RecordAnswer | None, error: ItemError | None) -> StreamLine:
    if record is None:
        return StreamLine(line=number, error=error)
    return StreamLine(line=number, record_id=record.record_id, flags=record.flags or None)


async def _lines(
    receive: Callable[[], Awaitable[Any]],
) -> AsyncGenerator[list[bytes | None], None]:
    """The lines that each read brought, None in the place of one that is too long.

    Raises `ClientGone`.
    """
    rest = b""
    skipping = False
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone("The request ended before its body was whole")
        more = message.get("more_body", False)
        *whole, rest = (rest + message.get("body", b"")).split(b"\n")
        if not more and rest:
            whole.append(rest)
        if skipping and whole:
            del whole[0]
            skipping = False
        lines = [line if len(line) <= MAX_LINE_BYTES else None for line in whole]
        if more and skipping:
            rest = b""
        elif more and len(rest) > MAX_LINE_BYTES:
            lines.append(None)
            rest = b""
            skipping = True
        if lines:
            yield lines


async def _send_all(backlog: Backlog, send: Callable[[Any], Awaitable[None]]) -> None:
    while part := await backlog.next():
        await send({"type": "http.response.body", "body": part, "more_body": True})
        # to a client that hung up this returns at once, however much is left
        await asyncio.sleep(0)
    await send(_END)

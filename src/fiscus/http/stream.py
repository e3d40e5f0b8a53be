"""Cost records as a stream: NDJSON in, NDJSON out, of any length, in chunks that are whole or not.

Answers go out while records come in. A client that sends everything before it reads anything would
stop both sides once the sockets' buffers are full; so answers it does not take yet wait in a
temporary file, and memory stays bounded by one chunk of lines.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from tempfile import SpooledTemporaryFile
from time import perf_counter
from typing import Annotated, Any, Final

import structlog
from fastapi import Response
from msgspec import Meta, Struct

from fiscus.costs.calls import RecordAnswer, RecordBatchAnswer
from fiscus.costs.model import CostFlag
from fiscus.errors import FiscusError, PayloadTooLarge, ValidationError
from fiscus.http.endpoints import Call, NoBody
from fiscus.http.queries import TenantQuery
from fiscus.ledger.commands import Record, RecordBatch
from fiscus.ledger.requests import record_item
from fiscus.wire import ItemError, encode, item_error

CHUNK_LINES: Final = 500
MAX_LINE_BYTES: Final = 65_536
NDJSON: Final = "application/x-ndjson"
_IN_MEMORY_BYTES: Final = 1_000_000
_READ_BYTES: Final = 65_536

log = structlog.get_logger(__name__)


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
    return RecordStream(call, call.principal.tenant_for(call.query.tenant_id))


class RecordStream(Response):
    """The answer that is written while its request is read."""

    def __init__(self, call: Call[TenantQuery, NoBody], tenant_id: str) -> None:
        super().__init__(status_code=200, media_type=NDJSON)
        self._call = call
        self._tenant_id = tenant_id

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        started = perf_counter()
        headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        backlog = _Backlog()
        recorder = _Recorder(self._call, self._tenant_id, backlog)
        sender = asyncio.create_task(_send_all(backlog, send))
        try:
            whole = await recorder.record_all(receive)
            backlog.finish()
            await sender
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await sender
            backlog.close()
        self._call.server.metrics.decided(
            "record_stream",
            "allowed" if whole and not recorder.failed else "error",
            perf_counter() - started,
        )


class _Recorder:
    """Takes lines to the ledger, one chunk at a time: reading waits for the commit."""

    def __init__(self, call: Call[TenantQuery, NoBody], tenant_id: str, backlog: _Backlog) -> None:
        self._call = call
        self._tenant_id = tenant_id
        self._backlog = backlog
        self._line = 0
        self.recorded = 0
        self.failed = 0

    async def record_all(self, receive: Callable[[], Awaitable[Any]]) -> bool:
        """Whether the body was read to its end; not so when the client hung up or the ledger
        cannot go on."""
        completed = True
        lines = _lines(receive)
        async with contextlib.aclosing(lines):
            chunk: list[bytes | None] = []
            async for line in lines:
                if line is _END_OF_READ:
                    # what has arrived is recorded now, though the chunk is not full
                    completed = await self._record(chunk)
                    chunk = []
                elif line is _GONE:
                    log.info("stream_cut_off", lines=self._line)
                    return False
                else:
                    chunk.append(line)
                    if len(chunk) == CHUNK_LINES:
                        completed = await self._record(chunk)
                        chunk = []
                if not completed:
                    break
            if completed:
                completed = await self._record(chunk)
        summary = StreamSummary(
            summary=True,
            recorded=self.recorded,
            failed=self.failed,
            completed=completed,
            correlation_id=self._call.correlation_id,
        )
        await self._call.run(self._backlog.put, encode(summary) + b"\n")
        return completed

    async def _record(self, chunk: list[bytes | None]) -> bool:
        """Record a chunk in one command; whether the ledger can go on."""
        if not chunk:
            return True
        # shielded: a client that hangs up leaves the chunk whole
        return await asyncio.shield(asyncio.ensure_future(self._call.run(self._work, chunk)))

    def _work(self, chunk: list[bytes | None]) -> bool:
        now = self._call.engine.clock.now()
        numbers: list[int] = []
        items: list[Record | FiscusError] = []
        for line in chunk:
            self._line += 1
            if line is None or line.strip():
                numbers.append(self._line)
                items.append(self._read(line, now))
        if not items:
            return True
        command = RecordBatch(tenant_id=self._tenant_id, records=items, now=now)
        try:
            outcome = self._call.engine.ledger.execute(command)
        except FiscusError as error:
            outcome = error
        answers: list[bytes] = []
        if isinstance(outcome, RecordBatchAnswer):
            for number, item in zip(numbers, outcome.results, strict=True):
                answers.append(encode(_answer(number, item.record, item.error)))
            self.recorded += outcome.recorded
            self.failed += outcome.failed
        else:
            assert isinstance(outcome, FiscusError)
            for number in numbers:
                answers.append(encode(StreamLine(line=number, error=item_error(outcome))))
            self.failed += len(numbers)
        answers.append(b"")
        self._backlog.put(b"\n".join(answers))
        return isinstance(outcome, RecordBatchAnswer)

    def _read(self, line: bytes | None, now: datetime) -> Record | FiscusError:
        if line is None:
            return PayloadTooLarge(
                f"The line is longer than {MAX_LINE_BYTES} bytes",
                details={"maximum_bytes": MAX_LINE_BYTES},
                suggested_action="Send shorter lines.",
            )
        try:
            return record_item(line, self._tenant_id, now)
        except FiscusError as error:
            return error


def _answer(number: int, record: RecordAnswer | None, error: ItemError | None) -> StreamLine:
    if record is None:
        return StreamLine(line=number, error=error)
    return StreamLine(line=number, record_id=record.record_id, flags=record.flags or None)


_END_OF_READ: Final = b"\n"
"""Stands between lines, which hold no newline: nothing more has arrived yet."""
_GONE: Final = b"\n\n"


async def _lines(receive: Callable[[], Awaitable[Any]]) -> AsyncGenerator[bytes | None, None]:
    """Lines of the body; None for one that is too long, `_END_OF_READ` after what one message
    brought, `_GONE` when the client hung up."""
    rest = b""
    skipping = False
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            yield _GONE
            return
        more = message.get("more_body", False)
        *whole, rest = (rest + message.get("body", b"")).split(b"\n")
        for line in whole:
            if skipping:
                skipping = False
            else:
                yield line if len(line) <= MAX_LINE_BYTES else None
        if len(rest) > MAX_LINE_BYTES:
            if not skipping:
                yield None
            skipping = True
        if skipping:
            rest = b""
        if whole and more:
            yield _END_OF_READ
    if rest and not skipping:
        yield rest


class _Backlog:
    """Answers that wait to be sent: written by a worker thread, read by the event loop.

    One side is active at a time per call, each call is short, and both are in one process, so a
    position for each side is all there is to keep apart.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = SpooledTemporaryFile[bytes](max_size=_IN_MEMORY_BYTES)
        self._lock = asyncio.Lock()
        self._written = 0
        self._read = 0
        self._ready = asyncio.Event()
        self._finished = False

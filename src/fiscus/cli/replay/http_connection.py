"""One keep-alive HTTP/1.1 connection, for driving a server hard.

A load driver must not be the bottleneck of what it measures. At 64 connections to a bare ASGI app
a second of CPU made 44 000 requests this way and 400 with httpx, which all other commands use.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

ANSWER_SECONDS: Final = 30.0


class Reply(NamedTuple):
    """A status and a body; `retry_after_seconds` when the server said when to come back."""

    status: int
    body: bytes
    retry_after_seconds: float | None


class Target(NamedTuple):
    """Where requests go, and the lines every request carries."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    path: str
    """What the server's own paths are appended to; without a trailing slash."""
    headers: bytes


def target(url: str, key: str) -> Target:
    """`url` split; raises `ValueError` when it is not http(s)://host[:port][/path]."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    headers = (
        f"Host: {parts.netloc.rpartition('@')[2]}\r\nX-API-Key: {key}\r\n"
        "Content-Type: application/json\r\n"
    )
    return Target(
        parts.hostname,
        port,
        ssl.create_default_context() if parts.scheme == "https" else None,
        parts.path.rstrip("/"),
        headers.encode("latin-1"),
    )


class HttpConnection:
    """Requests one after another; connects when needed and again after the server hung up."""

    def __init__(self, where: Target) -> None:
        self._where = where
        self._protocol: _Protocol | None = None

    async def post(self, path: str, body: bytes, idempotency_key: str) -> Reply:
        """Send a POST and wait for its answer; raises `OSError` or `TimeoutError`."""
        where = self._where
        head = (
            f"POST {where.path}{path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n"
            f"Idempotency-Key: {idempotency_key}\r\n"
        ).encode("latin-1")
        async with asyncio.timeout(ANSWER_SECONDS):
            protocol = await self._connected()
            try:
                return await protocol.exchange(head + where.headers + b"\r\n" + body)
            except BaseException:
                # the answer may still come: this connection is of no more use
                self.close()
                raise

    def close(self) -> None:
        if self._protocol is not None:
            self._protocol.close()
            self._protocol = None

    async def _connected(self) -> _Protocol:
        if self._protocol is None or self._protocol.is_closed:
            where = self._where
            _, self._protocol = await asyncio.get_running_loop().create_connection(
                _Protocol, where.host, where.port, ssl=where.tls
            )
        return self._protocol


class _Protocol(asyncio.Protocol):
    """asyncio's side and httptools' callbacks (the `on_…` methods)."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._body: list[bytes] = []
        self._retry_after: float | None = None
        self.is_closed = False

    def exchange(self, request: bytes) -> asyncio.Future[Reply]:
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiter

    def close(self) -> None:
        self.is_closed = True
        if self._transport is not None:
            self._transport.close()

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods without the base class
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(OSError(f"the server's answer is not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._fail(exc or ConnectionResetError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    # -- httptools

    def on_message_begin(self) -> None:
        self._body.clear()
        self._retry_after = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():
            self._retry_after = float(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        reply = Reply(self._parser.get_status_code(), b"".join(self._body), self._retry_after)
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(reply)

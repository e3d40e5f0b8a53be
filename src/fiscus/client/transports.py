"""One HTTP exchange, and waiting: blocking and asynchronous."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import anyio
import httpx

from fiscus.client.problems import (
    closed,
    of_another_loop,
    of_another_process,
    without_asyncio,
)

T = TypeVar("T")

log = logging.getLogger("fiscus")

GRACE_SECONDS: Final = 5.0
"""How long a cancelled task may be held up by what must not be interrupted."""
INTERRUPTED_SECONDS: Final = 1.0
"""How long closing may wait for connections that an interruption left."""
_LATER_SECONDS: Final = 0.1
"""How much later a try is ended as a whole than any step of it, which tells better what failed."""
_LEAST_SECONDS: Final = 0.001
"""A socket that may wait for no time at all does not wait, which is another error."""
_TOO_SLOW: Final = "the answer came too slowly"
_CLIENT: Final = "This client"


class Request(NamedTuple):
    """One request. `query` holds names and values in order; a name may repeat."""

    method: str
    path: str
    content: bytes | None
    query: list[tuple[str, str]]
    headers: dict[str, str]

    def for_httpx(self, ends: float) -> dict[str, Any]:
        """The arguments that say so to httpx, and when it is to give up, by the monotonic clock."""
        return {
            "method": self.method,
            "url": self.path,
            "content": self.content,
            "params": tuple(self.query) or None,
            "headers": self.headers,
            "extensions": {"timeout": _TimeLeft(ends)},
        }


class _TimeLeft:
    """What httpx asks how long a step of a try may take, such as connecting: as long as the steps
    before it left."""

    def __init__(self, ends: float) -> None:
        self._ends = ends

    def get(self, _step: str, _default: float | None) -> float:
        return max(_LEAST_SECONDS, self._ends - time.monotonic())


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: httpx.Headers
    body: bytes


class Transport(Protocol):
    async def send(self, request: Request, timeout_seconds: float) -> Reply:
        """Raises `httpx.RequestError` when no whole answer came in time, and `ServiceUnavailable`
        when none can come: after `close`."""
        ...

    async def pause(self, seconds: float) -> None: ...

    async def uninterrupted(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T: ...

    async def close(self) -> None: ...


class BlockingTransport:
    """Blocks the calling thread; safe to share among threads, and usable after a fork.

    Two processes on one connection would read each other's answers, so each has connections of its
    own. Those of the process that it was forked from are in use there: they are neither used nor
    closed here, also not by the garbage collector.
    """

    def __init__(self, connect: Callable[[], httpx.Client]) -> None:
        self._connect = connect
        self._clients = {os.getpid(): connect()}
        self._interrupted: list[tuple[int, httpx.Client]] = []
        self._closed = False

    async def send(self, request: Request, timeout_seconds: float) -> Reply:
        client = self._client()
        if self._closed:
            raise closed(_CLIENT)
        try:
            return _exchange(client, request, timeout_seconds)
        except httpx.RequestError:
            raise
        except BaseException as error:
            if self._closed and isinstance(error, RuntimeError):
                raise closed(_CLIENT) from error  # by another thread, meanwhile
            self._interrupt(client)
            raise

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - never runs in an event loop

    async def uninterrupted(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await call()

    async def close(self) -> None:
        self._closed = True
        pid = os.getpid()
        if (client := self._clients.get(pid)) is not None:
            client.close()
        for of_pid, interrupted in self._interrupted:
            if of_pid == pid:
                closing = threading.Thread(
                    target=interrupted.close, name="fiscus-closing", daemon=True
                )
                closing.start()
                closing.join(INTERRUPTED_SECONDS)

    def _client(self) -> httpx.Client:
        """The connections of this process."""
        pid = os.getpid()
        # No lock: it could have been held by another thread at the fork. A client that a thread
        # makes too many has no connection yet.
        return self._clients.get(pid) or self._clients.setdefault(pid, self._connect())

    def _interrupt(self, client: httpx.Client) -> None:
        """Go on with other connections: Ctrl-C may have left these half way through anything, also
        with a lock taken that nobody gives back.

        Other threads may be using them still, so they are closed with everything else.
        """
        pid = os.getpid()
        if self._clients.get(pid) is client:
            self._clients[pid] = self._connect()
            self._interrupted.append((pid, client))


def _exchange(client: httpx.Client, request: Request, timeout_seconds: float) -> Reply:
    """What comes in pieces has its time as a whole, too: it is looked at between them."""
    ends = time.monotonic() + timeout_seconds
    with client.stream(**request.for_httpx(ends)) as response:
        pieces: list[bytes] = []
        for piece in response.iter_bytes():
            if time.monotonic() > ends:
                raise httpx.ReadTimeout(_TOO_SLOW)
            pieces.append(piece)
    return Reply(response.status_code, response.headers, b"".join(pieces))


class AsyncTransport:
    """For tasks of one event loop of asyncio, in one process: the first that sends."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._unfinished: set[asyncio.Future[Any]] = set()

    async def send(self, request: Request, timeout_seconds: float) -> Reply:
        if self._client.is_closed:
            raise closed(_CLIENT)
        if self._loop is None:
            self._loop = _running_loop()
            self._pid = os.getpid()
        if self._pid != os.getpid():
            raise of_another_process()
        if not self._is_at_home():
            raise of_another_loop()
        try:
            async with asyncio.timeout(timeout_seconds + _LATER_SECONDS):
                ends = time.monotonic() + timeout_seconds
                response = await self._client.request(**request.for_httpx(ends))
        except TimeoutError:
            raise httpx.ReadTimeout(_TOO_SLOW) from None
        except RuntimeError as error:
            if self._client.is_closed:
                raise closed(_CLIENT) from error  # by another task, meanwhile
            raise
        return Reply(response.status_code, response.headers, response.content)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def uninterrupted(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await uninterrupted(call, self._unfinished)

    async def close(self) -> None:
        if not self._is_at_home():
            return  # its connections are of a loop that is gone, or of another process
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=GRACE_SECONDS)
        await self._client.aclose()

    def _is_at_home(self) -> bool:
        if self._loop is None:
            return True
        return self._pid == os.getpid() and self._loop is asyncio.get_running_loop()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise without_asyncio() from None


async def uninterrupted(
    call: Callable[[], Awaitable[T]], unfinished: set[asyncio.Future[Any]]
) -> T:
    """Run `call` in a task of its own, which a cancellation of the caller does not reach.

    A cancelled caller waits for it for up to `GRACE_SECONDS`; then it goes on alone. The end of
    `asyncio.run` cancels that task, too: then the caller calls again meanwhile. It is among the
    `unfinished` while it runs.
    """
    running = _start(call, unfinished)
    try:
        await asyncio.wait({running})
    except asyncio.CancelledError:
        # the shield is for cancel scopes, which cancel again and again until they are left
        with anyio.CancelScope(shield=True):
            await _see_through(running, call, unfinished)
        raise
    return running.result()


def _start(
    call: Callable[[], Awaitable[T]], unfinished: set[asyncio.Future[Any]]
) -> asyncio.Future[T]:
    running = asyncio.ensure_future(call())
    unfinished.add(running)

    def finished(_running: asyncio.Future[T]) -> None:
        unfinished.discard(running)
        if not running.cancelled():
            running.exception()  # seen, also when the caller was cancelled and is gone

    running.add_done_callback(finished)
    return running


async def _see_through(
    running: asyncio.Future[T],
    call: Callable[[], Awaitable[T]],
    unfinished: set[asyncio.Future[Any]],
) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + GRACE_SECONDS
    loop_ends = False
    while loop.time() < ends:
        if running.cancelled():
            loop_ends = True
            running = _start(call, unfinished)
        if running.done():
            return
        try:
            await asyncio.wait({running}, timeout=ends - loop.time())
        except asyncio.CancelledError:
            continue  # a second one changes nothing: the first is raised when this is over
    running.add_done_callback(_tell_if_cut_off)
    if loop_ends:
        running.cancel()


def _tell_if_cut_off(running: asyncio.Future[Any]) -> None:
    if running.cancelled():
        log.error(
            "the event loop ended first: a cost may not be recorded, or money be held until it"
            " expires"
        )

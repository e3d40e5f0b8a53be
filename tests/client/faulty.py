"""A real HTTP server on loopback that misbehaves as told, in front of a real Fiscus server."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANSWER_AS_FISCUS = "pass"
DROP = "drop"
"""Hang up without having asked Fiscus."""
CUT = "cut"
"""Let Fiscus do it, then hang up without an answer."""
CUT_HALF_WAY = "cut half way"
"""Let Fiscus do it, then hang up in the middle of the answer."""
TRICKLE = "trickle"
"""Let Fiscus do it, then send the answer a byte at a time."""
GARBAGE = "garbage"
"""A success that Fiscus did not write."""


class Answer(NamedTuple):
    """An answer of the faulty server's own."""

    status: int
    headers: dict[str, str]
    body: bytes = b"<html>not Fiscus</html>"


class Seen(NamedTuple):
    method: str
    path: str
    key: str | None


Step = str | Answer


class Faulty:
    """What the next requests meet, and what was asked."""

    def __init__(self, url: str, upstream: str) -> None:
        self.url = url
        self.upstream = urlsplit(upstream)
        self.steps: deque[Step] = deque()
        self.seen: list[Seen] = []
        self.before_answering: Callable[[Seen], None] = lambda _seen: None
        """Called when Fiscus has done what was asked, before that is told."""

    def of(self, ending: str) -> list[Seen]:
        """What was asked of paths that end so."""
        return [one for one in self.seen if one.path.partition("?")[0].endswith(ending)]


@contextmanager
def faulty_server(upstream: str) -> Iterator[Faulty]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.faulty = Faulty(f"http://127.0.0.1:{server.server_port}", upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.faulty
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    faulty: Faulty

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        faulty = self.server.faulty
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        seen = Seen(self.command, self.path, self.headers.get("idempotency-key"))
        faulty.seen.append(seen)
        step = faulty.steps.popleft() if faulty.steps else ANSWER_AS_FISCUS
        if step == DROP:
            return self._hang_up()
        if step == GARBAGE:
            return self._answer(Answer(200, {}))
        if isinstance(step, Answer):
            return self._answer(step)
        answer = self._ask_fiscus(body)
        faulty.before_answering(seen)
        if step == CUT:
            return self._hang_up()
        if step == CUT_HALF_WAY:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer.body))
            self.wfile.write(answer.body[:10])
            return self._hang_up()
        if step == TRICKLE:
            return self._trickle(answer)
        return self._answer(answer)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _ask_fiscus(self, body: bytes) -> Answer:
        upstream = self.server.faulty.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            kept = {
                name: value
                for name, value in response.getheaders()
                if name.lower() in {"content-type", "retry-after", "x-correlation-id"}
            }
            return Answer(response.status, kept, response.read())
        finally:
            connection.close()

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.status != 204:
            self.wfile.write(answer.body)

    def _trickle(self, answer: Answer) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer.body))
        with suppress(OSError):  # the client does not wait for all of it
            for byte in answer.body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)  # for the client's time-out, which is of the real clock
        self.close_connection = True

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


def problem(status: int, code: str, *, retry_after: str | None = None, **members: object) -> Answer:
    """A problem body as Fiscus writes it."""
    headers = {"Content-Type": "application/problem+json"}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    body = {"error_code": code, "message": f"said {code}", "details": {}, **members}
    return Answer(status, headers, json.dumps(body).encode())

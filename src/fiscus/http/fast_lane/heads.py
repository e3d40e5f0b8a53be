"""Heads of requests: how large they may be, how one goes on without `Upgrade`, what is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserInvalidURLError,
    parse_url,
)

from fiscus.errors import FiscusError, PayloadTooLarge, ValidationError
from fiscus.runtime.logs import get_logger
from fiscus.wire.problems import request_failed

log = get_logger(__name__)

MAX_HEAD_BYTES: Final = 65_536
MAX_HEADERS: Final = 100
_LINE_BYTES: Final = len(": \r\n")

Head = list[tuple[bytes, bytes]]
"""Header fields as they were sent, with lower-case names."""


class HeadTooLarge(Exception):
    """Raised while a head is read; to be answered with `head_too_large`."""


def check_size(url: bytes, headers: Head) -> None:
    """Raises `HeadTooLarge`. For heads that may be: most came in so few bytes that they are not."""
    size = len(url) + sum(len(name) + len(value) + _LINE_BYTES for name, value in headers)
    if size > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
        raise HeadTooLarge


def head_too_large() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The request's path and headers are more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} "
        "headers",
        details={"maximum_bytes": MAX_HEAD_BYTES, "maximum_headers": MAX_HEADERS},
        suggested_action="Send fewer or shorter headers, and large queries as a body.",
    )


def with_path(url: bytes) -> bytes:
    """A request's target with the path that one of absolute form may leave out (RFC 9112, 3.2.2).

    Raises `HttpParserInvalidURLError`.
    """
    if url.startswith(b"/"):
        return url
    parsed: Any = parse_url(url)  # what is not there is None
    if parsed.path is not None:
        return url
    return b"/" if parsed.query is None else b"/?" + parsed.query


def without_upgrade(
    method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """The head of the same request that asks for no other protocol."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    lines += [b"%b: %b\r\n" % field for field in headers if field[0] != b"upgrade"]
    return b"".join(lines) + b"\r\n"


def tunnel() -> ValidationError:
    return ValidationError(
        "CONNECT is not a method of this service",
        field="method",
        suggested_action="Send requests to Fiscus itself; it is no proxy.",
    )


def cut_short() -> ValidationError:
    return ValidationError(
        "The request ended before it was whole",
        field="body",
        suggested_action="Send as many bytes as Content-Length says, or the last chunk.",
    )


def gone_silent(seconds: int) -> ValidationError:
    return ValidationError(
        f"Nothing more of the request came for {seconds} seconds",
        field="body",
        suggested_action="Send a request without such pauses.",
    )


def why_unfit(error: HttpParserError) -> tuple[FiscusError, int | None]:
    """What to answer to what the parser did not take, and the status if not the error's own."""
    cause = error.__context__
    if isinstance(cause, HeadTooLarge):
        return head_too_large(), 431
    if isinstance(error, HttpParserInvalidMethodError):
        field, what = "method", "The method is none that is known"
    elif isinstance(error, HttpParserInvalidURLError) or isinstance(
        cause, HttpParserInvalidURLError | UnicodeDecodeError
    ):
        field, what = "path", "The path is not valid"
    elif cause is None:
        field, what = "request", f"The request is not valid HTTP: {error}"
    else:
        log.error("request_failed", exc_info=cause)
        return request_failed(), None
    return ValidationError(
        what, field=field, suggested_action="Send a well-formed HTTP/1.1 request."
    ), None


__all__ = [
    "MAX_HEADERS",
    "MAX_HEAD_BYTES",
    "Head",
    "HeadTooLarge",
    "check_size",
    "cut_short",
    "gone_silent",
    "head_too_large",
    "tunnel",
    "why_unfit",
    "with_path",
    "without_upgrade",
]

"""Request bodies, limited in size."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fiscus.errors import FiscusError, PayloadTooLarge, ValidationError


class ClientGone(FiscusError):
    """The client hung up before its request was whole; nobody reads the answer."""

    code = "VALIDATION_ERROR"


async def read_body(
    headers: Mapping[bytes, bytes],
    receive: Callable[[], Awaitable[Any]],
    max_bytes: int,
) -> bytes:
    """The whole body.

    Raises `PayloadTooLarge` beyond `max_bytes`, before reading it when the request says its length,
    `ValidationError` when it is compressed, and `ClientGone`. Codings of no body are ignored: some
    clients name one with every request.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and length_of(declared) > max_bytes:
        raise _too_large(max_bytes)
    if declared.strip(b"0") or b"transfer-encoding" in headers:
        require_plain(headers)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise ClientGone("The request ended before its body was whole")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


def length_of(digits: bytes) -> int:
    """A `Content-Length`; the zeros that it may begin with can be more than `int` reads."""
    return int(digits.lstrip(b"0") or b"0")


def require_plain(headers: Mapping[bytes, bytes]) -> None:
    """Raises `ValidationError` for a body that is compressed."""
    for name, plain in ((b"content-encoding", b"identity"), (b"transfer-encoding", b"chunked")):
        if headers.get(name, plain).lower() != plain:
            field = name.decode().title()
            raise ValidationError(
                "Compressed bodies are not taken",
                field=field,
                suggested_action=f"Send the body as it is, with no {field} of gzip or the like.",
            )


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is larger than {max_bytes} bytes",
        details={"maximum_bytes": max_bytes},
        suggested_action="Send less at once, or stream records to /cost-tracking/record/stream.",
    )


__all__ = ["ClientGone", "length_of", "read_body", "require_plain"]

"""Header fields in the three forms they are needed in; their text is Latin-1."""

from __future__ import annotations

Headers = list[tuple[str, str]]
"""Names and values."""
FieldLines = str
"""Fields as HTTP/1.1 sends them (RFC 9112, section 5): a line each, with its end."""


def lines_of(headers: Headers) -> FieldLines:
    return "".join([f"{name}: {text}\r\n" for name, text in headers])


def headers_of(lines: FieldLines) -> Headers:
    """The reverse of `lines_of`."""
    parts = [line.partition(": ") for line in lines.split("\r\n")[:-1]]
    return [(name, text) for name, _, text in parts]


def raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    """As ASGI has them."""
    return [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in headers]


def arrives_whole(text: str) -> bool:
    """Whether every sender and reader of a field takes all of `text` for its one word."""
    return text.isascii() and text.isprintable() and " " not in text


__all__ = ["FieldLines", "Headers", "arrives_whole", "headers_of", "lines_of", "raw"]

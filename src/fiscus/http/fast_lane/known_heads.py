"""Heads of decisions that come again on a connection, byte for byte.

Who asks again and again over one connection mostly sends the same head, and to read it takes as
long as to read the body. So a connection keeps some of those it has read, for no longer than it
lasts, as credentials are in them. What has a field of its own in each request, as an idempotency
key, is not kept: it would not come again (docs/decisions/0060).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fiscus.http.fast_lane.exchanges import Target
from fiscus.http.header_fields import HeaderFields

MAX_KNOWN: Final = 16
"""Of one connection; they differ in the length of the body. Another takes the place of all."""
MAX_BYTES: Final = 1024
"""Of a head that is kept."""
_ALIKE: Final = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"connection",
        b"content-length",
        b"content-type",
        b"host",
        b"user-agent",
        b"x-api-key",
    }
)
"""What a client sends with each of its requests."""
_START: Final = b"POST "
_END: Final = b"\r\n\r\n"


class KnownHead(NamedTuple):
    """What was read of a head."""

    target: Target
    fields: HeaderFields
    body_bytes: int


class KnownHeads:
    """Those of one connection. On one whose heads seldom come again, as that of a proxy may be, it
    soon keeps none: that would take longer than it spares."""

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        self._found = 0
        """How often one of those that there are has come again."""
        self._keeps_some = True

    def find(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """Head and body, when `data` is one whole request with a head that is known."""
        if not self._heads:
            return None
        body_at = data.find(_END) + len(_END)
        head = self._heads.get(data[:body_at])
        if head is None or len(data) - body_at != head.body_bytes:
            return None
        self._found += 1
        return head, data[body_at:]

    def keep(self, data: bytes, read: KnownHead) -> None:
        """Keep the head that `data` begins with, and what was `read` of it, if it may come again.

        Its lines are counted, in case the parser takes other ends of lines as well: a body in which
        the head seemed to end would be taken for a part of it.
        """
        if not self._keeps_some:
            return
        head = data[: data.find(_END) + len(_END)]
        if not (
            head.startswith(_START) and len(head) <= MAX_BYTES and _ALIKE.issuperset(read.fields)
        ):
            return
        lines = len(read.fields) + 2  # and the first, and the empty one at the end
        if not head.count(b"\n") == head.count(b"\r\n") == lines:
            return
        if len(self._heads) >= MAX_KNOWN:
            self._keeps_some = self._found >= MAX_KNOWN
            self._heads.clear()
            self._found = 0
        if self._keeps_some:
            self._heads[head] = read


__all__ = ["MAX_BYTES", "MAX_KNOWN", "KnownHead", "KnownHeads"]

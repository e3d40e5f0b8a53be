"""Correlation ids: taken from `X-Correlation-ID` or made, and carried through logs and answers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fiscus.ids import uuid7

_SAFE = re.compile(rb"[A-Za-z0-9._:/+=@\-]{1,128}")


def correlation_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The caller's correlation id, or a new one when there is none or it is not safe to log."""
    given = headers.get(b"x-correlation-id")
    if given is not None and _SAFE.fullmatch(given) is not None:
        return given.decode()
    return uuid7()


__all__ = ["correlation_id_of"]

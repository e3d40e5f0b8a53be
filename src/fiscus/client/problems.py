"""Answers that are errors, as the errors a caller in process would get."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any, Final

import httpx
from msgspec import Struct

from fiscus.errors import (
    ERROR_BY_CODE,
    UNKNOWN_OUTCOME,
    Conflict,
    FiscusError,
    Forbidden,
    InternalError,
    NotFound,
    PayloadTooLarge,
    RateLimitViolated,
    ServiceUnavailable,
    Unauthorized,
    ValidationError,
    rebuild_error,
)
from fiscus.wire.decoding import decode

NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Nothing of such a request has reached the server."""
# for answers of something in between, such as a proxy
_OF_STATUS: Final[dict[int, type[FiscusError]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: PayloadTooLarge,
    429: RateLimitViolated,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: ServiceUnavailable,
}

_MAX_SECONDS: Final = 10 * 365 * 86_400
"""Whoever is told to wait for longer waits for good."""


class _Problem(Struct, frozen=True, kw_only=True):
    """What of a problem body becomes part of an error."""

    error_code: str
    message: str
    details: dict[str, Any] = {}
    correlation_id: str | None = None
    suggested_action: str | None = None
    retriable: bool | None = None


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> FiscusError:
    """The error that an answer with this status is."""
    retry_after_seconds = _retry_after_seconds(headers)
    try:
        problem = decode(body, _Problem)
    except ValidationError:
        return _not_of_fiscus(status, retry_after_seconds)
    kind = ERROR_BY_CODE.get(problem.error_code) or _OF_STATUS.get(status, InternalError)
    error = _make(kind, problem, retry_after_seconds)
    if problem.retriable is not None:
        error.retriable = problem.retriable
    error.correlation_id = problem.correlation_id or headers.get("x-correlation-id")
    return error


def _retry_after_seconds(headers: Mapping[str, str]) -> int | None:
    """How long to wait by `Retry-After` (RFC 9110, section 10.2.3), from when the answer was made.

    A date counts from that of the answer itself, so nothing depends on the clock here. None: no
    such header, or one that says nothing.
    """
    after = headers.get("retry-after", "")
    if after.isascii() and after.isdigit():
        return int(min(float(after), _MAX_SECONDS))
    try:
        wait = _http_date(after) - _http_date(headers.get("date", ""))
    except (ValueError, OverflowError):  # no date, or one out of range
        return None
    return min(max(0, ceil(wait / timedelta(seconds=1))), _MAX_SECONDS)


def _http_date(text: str) -> datetime:
    """Any of the forms that HTTP dates have had; always in UTC, also where they do not say so."""
    moment = parsedate_to_datetime(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _make(
    kind: type[FiscusError], problem: _Problem, retry_after_seconds: int | None
) -> FiscusError:
    return rebuild_error(
        kind, problem.message, problem.details, problem.suggested_action, retry_after_seconds
    )


def _not_of_fiscus(status: int, retry_after_seconds: int | None) -> FiscusError:
    """An answer without a problem body: something in between, or no Fiscus at that address."""
    problem = _Problem(
        error_code="",
        message=f"The answer was HTTP {status} without an explanation by Fiscus",
        # 503: what stands in between has reached nobody
        details={"status": status, **(UNKNOWN_OUTCOME if status >= 500 and status != 503 else {})},
        suggested_action="Check the URL, and what stands between here and the Fiscus server.",
    )
    return _make(_OF_STATUS.get(status, InternalError), problem, retry_after_seconds)


def not_an_answer(error: ValidationError) -> FiscusError:
    """A success whose body is not what the call answers."""
    return InternalError(
        f"The answer is not one of Fiscus: {error.message}",
        details={**UNKNOWN_OUTCOME},
        suggested_action="Check the URL, and what stands between here and the Fiscus server.",
    )


def unreachable(url: str, failure: Exception) -> ServiceUnavailable:
    """No answer came: nobody listens, the connection broke, or it took too long."""
    return ServiceUnavailable(
        f"No answer from {url}: {type(failure).__name__}{f': {failure}' if str(failure) else ''}",
        details={} if isinstance(failure, NOT_SENT) else {**UNKNOWN_OUTCOME},
        suggested_action="See that the Fiscus server runs and can be reached, then try again.",
    )


def closed(what: str) -> ServiceUnavailable:
    """A call on something that was closed before; no other try can succeed."""
    return _for_good(
        ServiceUnavailable(
            f"{what} is closed", suggested_action="Close it after the last call, or open another."
        )
    )


def of_another_loop() -> ServiceUnavailable:
    """A call in another event loop than the first one, whose connections are that loop's."""
    return _for_good(
        ServiceUnavailable(
            "This client was used in another event loop, and its connections are of that one",
            suggested_action="Make an AsyncClient in every event loop, so in every asyncio.run.",
        )
    )


def of_another_process() -> ServiceUnavailable:
    """A call in a process that was forked from the one whose connections these are."""
    return _for_good(
        ServiceUnavailable(
            "This client was used in another process, and its connections are of that one",
            suggested_action="Make an AsyncClient after the fork, in the process that uses it.",
        )
    )


def without_asyncio() -> ServiceUnavailable:
    """A call where no event loop of asyncio runs, as under trio."""
    return _for_good(
        ServiceUnavailable(
            "An AsyncClient needs a running event loop of asyncio, and here is none",
            suggested_action="Await it within asyncio.run; elsewhere use a Client, in a thread.",
        )
    )


def _for_good(error: ServiceUnavailable) -> ServiceUnavailable:
    error.retriable = False
    return error

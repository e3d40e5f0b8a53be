"""The commands' way to a running server: ordinary calls, checked answers, one-line errors."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Final, TypeVar

import httpx
from msgspec import Struct

from fiscus.cli.terminal import CommandError, UsageError
from fiscus.errors import ValidationError
from fiscus.wire import decode, encode

T = TypeVar("T")

BASE_PATH: Final = "/budget/v1"
ATTEMPTS: Final = 6
TIMEOUT_SECONDS: Final = 60.0


class Problem(Struct, frozen=True, kw_only=True):
    """What of a problem body a person needs."""

    message: str = "the server gave no reason"
    error_code: str = ""
    suggested_action: str | None = None
    retriable: bool = False


class ApiError(CommandError):
    """The server answered with an error; `may_pass_later` says whether to try again."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(
            f"{problem.message} ({problem.error_code or 'HTTP'} {status})",
            suggested_action=problem.suggested_action,
        )
        self.status: Final = status
        self.error_code: Final = problem.error_code
        self.may_pass_later: Final = problem.retriable or status in {429, 503}


class Api:
    """Calls with one key to one server. What a call answers is decoded as the `kind` given."""

    def __init__(self, url: str, key: str) -> None:
        self.url: Final = url.rstrip("/")
        try:
            self._http = httpx.Client(
                base_url=self.url + BASE_PATH,
                headers={"X-API-Key": key},
                timeout=TIMEOUT_SECONDS,
            )
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise UsageError(
                f"{url} or the key cannot be used",
                suggested_action="look at --url and --key, or FISCUS_URL and FISCUS_KEY.",
            ) from None

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, kind: type[T], **parameters: str | int | None) -> T:
        given = {name: value for name, value in parameters.items() if value is not None}
        return decode(self._send("GET", path, params=given), kind)

    def post(
        self, path: str, body: object, kind: type[T], *, idempotency_key: str | None = None
    ) -> T:
        """Without a key only for calls that change nothing."""
        return decode(self.post_text(path, body, idempotency_key), kind)

    def post_text(self, path: str, body: object, idempotency_key: str | None = None) -> str:
        """The body as it came, for CSV and for `--json`."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._send("POST", path, content=encode(body), headers=headers)

    def put(self, path: str, body: object, kind: type[T]) -> T:
        return decode(self._send("PUT", path, content=encode(body)), kind)

    def _send(self, method: str, path: str, **options: Any) -> str:
        """Every call is safe to repeat (by its nature or by its key), so it is, a few times."""
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                response = self._http.request(method, path, headers=headers, **options)
            except httpx.ConnectError:
                raise no_server(self.url) from None
            except (httpx.HTTPError, httpx.InvalidURL) as failure:
                if last:
                    raise CommandError(f"{self.url} does not answer: {failure}") from None
            else:
                if response.is_success:
                    return response.text
                error = ApiError(response.status_code, problem_of(response.content))
                if last or not error.may_pass_later:
                    raise error
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def no_server(url: str) -> CommandError:
    return CommandError(
        f"no Fiscus server answers at {url}",
        suggested_action="start one with `fiscus serve`, or give the address with --url.",
    )


def problem_of(body: bytes) -> Problem:
    """The problem a server answered with, or that it gave none."""
    try:
        return decode(body, Problem)
    except ValidationError:
        return Problem()

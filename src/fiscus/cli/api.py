"""The commands' way to a running server: the client's, for any path, with errors for a person."""

from __future__ import annotations

from types import TracebackType
from typing import Final, TypeVar

import httpx

from fiscus.cli.terminal import CommandError, UsageError
from fiscus.client.backend import run_blocking
from fiscus.client.clients import blocking_backend
from fiscus.client.problems import not_an_answer
from fiscus.client.retries import RetryPolicy
from fiscus.client.sender import answer_of
from fiscus.client.transports import Reply
from fiscus.errors import ServiceUnavailable, ValidationError

T = TypeVar("T")

_PATIENCE: Final = RetryPolicy(timeout_seconds=60.0, max_retries=4, total_seconds=120.0)


class Api:
    """Calls with one key to one server. What a call answers is decoded as the `kind` given."""

    def __init__(self, url: str, key: str) -> None:
        try:
            self._backend = blocking_backend(url, key, _PATIENCE)
        except ValidationError as error:
            raise UsageError(
                error.message,
                suggested_action="look at --url and --key, or FISCUS_URL and FISCUS_KEY.",
            ) from None
        self.url: Final = self._backend.url

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        run_blocking(self._backend.close())

    def get(self, path: str, kind: type[T], **parameters: str | int | None) -> T:
        given = [(name, str(value)) for name, value in parameters.items() if value is not None]
        return answer_of(self._call("GET", path, query=given), kind)

    def post(
        self, path: str, body: object, kind: type[T], *, idempotency_key: str | None = None
    ) -> T:
        """Without a key only for calls that change nothing."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return answer_of(self._call("POST", path, body=body, headers=headers), kind)

    def post_for_csv(self, path: str, body: object) -> str:
        """What a call that changes nothing answers as CSV."""
        reply = self._call("POST", path, body=body)
        content_type = reply.headers.get("Content-Type", "none")
        if content_type.partition(";")[0].strip().lower() != "text/csv":
            what = ValidationError(f"its type is {content_type}", field="Content-Type")
            raise not_an_answer(what)
        try:
            return reply.body.decode()
        except UnicodeDecodeError as error:
            what = ValidationError(f"it is no UTF-8 from byte {error.start} on", field="body")
            raise not_an_answer(what) from None

    def put(self, path: str, body: object, kind: type[T]) -> T:
        return answer_of(self._call("PUT", path, body=body), kind)

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: list[tuple[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Every call is safe to repeat, by its nature or by its key."""
        call = self._backend.call(method, path, body=body, query=query, headers=headers)
        try:
            return run_blocking(call)
        except ServiceUnavailable as error:
            if isinstance(error.__cause__, httpx.ConnectError):
                raise CommandError(
                    f"no Fiscus server answers at {self.url}",
                    suggested_action="start one with `fiscus serve`, or give the address with "
                    "--url.",
                ) from None
            raise

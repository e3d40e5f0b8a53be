"""`Client` and `AsyncClient`: the Python API against a Fiscus server."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Final, TypeVar

import httpx

from fiscus.client.arguments import given_count, given_seconds, given_text, tenant_named
from fiscus.client.asynchronous.api import AsyncApi
from fiscus.client.blocking.api import BlockingApi
from fiscus.client.http_backend import HttpBackend
from fiscus.client.retries import RetryPolicy
from fiscus.client.transports import AsyncTransport, BlockingTransport
from fiscus.errors import ValidationError
from fiscus.wire.headers import arrives_whole
from fiscus.wire.paths import BASE_PATH

TIMEOUT_SECONDS: Final = 10.0
MAX_RETRIES: Final = 4
TOTAL_SECONDS: Final = 30.0

_LEAST_SECONDS: Final = 0.001
_MAX_SECONDS: Final = 86_400  # a socket cannot wait for much longer: its milliseconds have 31 bits
_LAST_PORT: Final = 65535
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")

C = TypeVar("C", httpx.Client, httpx.AsyncClient)


class Client(BlockingApi):
    """The API of one server, with one API key or JSON Web Token; safe to share among threads.

    `tenant` stands in where a call names none; by default it is the credential's. One try takes at
    most `timeout_seconds`, up to `max_retries` follow it, and all of that at most `total_seconds`;
    neither may be longer than a day. Raises `ValidationError` naming what cannot be used.

    >>> with Client("http://127.0.0.1:3472", key) as client:
    ...     client.check(project="search", resource_type="llm", estimate="0.02").allowed
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        tenant: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_retries: int = MAX_RETRIES,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        policy = _checked_policy(timeout_seconds, max_retries, total_seconds)
        tenant = tenant_named(tenant, None)
        super().__init__(blocking_backend(url, key, policy), tenant)


class AsyncClient(AsyncApi):
    """As `Client`, for the tasks of one event loop of asyncio.

    >>> async with AsyncClient("http://127.0.0.1:3472", key) as client:
    ...     (await client.check(project="search", resource_type="llm", estimate="0.02")).allowed
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        tenant: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_retries: int = MAX_RETRIES,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        base_url = checked_url(url)
        policy = _checked_policy(timeout_seconds, max_retries, total_seconds)
        tenant = tenant_named(tenant, None)
        http = _connections(httpx.AsyncClient, base_url, _headers(key))
        super().__init__(HttpBackend(base_url, AsyncTransport(http), policy), tenant)


def blocking_backend(url: str, key: str, policy: RetryPolicy) -> HttpBackend:
    """One server, for calls that block. Raises `ValidationError` as `Client` does."""
    base_url = checked_url(url)
    headers = _headers(key)
    transport = BlockingTransport(lambda: _connections(httpx.Client, base_url, headers))
    return HttpBackend(base_url, transport, policy)


def checked_url(url: str) -> str:
    """The server's address, with or without the base path of the API."""
    url = given_text(url, "url")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    is_server = parsed.scheme in {"http", "https"} and parsed.host
    if not is_server or parsed.query or parsed.fragment or (parsed.port or 0) > _LAST_PORT:
        raise ValidationError(
            "url is not the address of a server",
            field="url",
            suggested_action="Give an address such as http://127.0.0.1:3472.",
        )
    if parsed.userinfo:  # which would be sent in place of the key, and shown in errors
        raise ValidationError(
            "url holds a user's name or password, which no server of Fiscus takes",
            field="url",
            suggested_action="Take what is before the @ out of url, and give an API key as key.",
        )
    return url.rstrip("/").removesuffix(BASE_PATH)


def _connections(kind: type[C], base_url: str, headers: dict[str, str]) -> C:
    """As the environment says; raises `ValidationError` naming what of it cannot be used."""
    try:
        return kind(base_url=base_url, headers=headers)
    except OSError as error:
        raise _wrong_environment(_CERTIFICATES, error) from error
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise _wrong_environment(_PROXIES, error) from error


def _wrong_environment(names: tuple[str, ...], error: Exception) -> ValidationError:
    given = [one for name in names for one in (name, name.lower()) if os.environ.get(one)]
    named = ", ".join(given or names)
    return ValidationError(
        f"{named} in the environment cannot be used: {error}",
        field=named,
        suggested_action=f"Correct or unset {named}.",
    )


def _headers(key: str) -> dict[str, str]:
    key = given_text(key, "key")
    if not key or not arrives_whole(key):
        raise ValidationError(
            "key is not an API key or a token",
            field="key",
            suggested_action="Give the key as it was shown when it was made.",
        )
    # the server takes API keys here, too, and logs of HTTP traffic know to hide this header
    return {
        "Authorization": f"Bearer {key}",
        "User-Agent": f"fiscus-python/{version('fiscus')}",
    }


def _checked_policy(timeout_seconds: float, max_retries: int, total_seconds: float) -> RetryPolicy:
    for name, value in (("timeout_seconds", timeout_seconds), ("total_seconds", total_seconds)):
        if not _LEAST_SECONDS <= given_seconds(value, name) <= _MAX_SECONDS:
            raise _out_of_bounds(name, f"between {_LEAST_SECONDS} and {_MAX_SECONDS} seconds")
    if given_count(max_retries, "max_retries") < 0:
        raise _out_of_bounds("max_retries", "0 or more")
    return RetryPolicy(timeout_seconds, max_retries, total_seconds)


def _out_of_bounds(name: str, bounds: str) -> ValidationError:
    return ValidationError(
        f"{name} must be {bounds}", field=name, suggested_action=f"Give another {name}."
    )

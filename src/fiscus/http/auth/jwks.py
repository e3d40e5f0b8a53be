"""The keys of an identity provider, by its JWKS URL: fetched when needed, and kept."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from msgspec import Struct

from fiscus.errors import ServiceUnavailable, Unauthorized, ValidationError
from fiscus.runtime.logs import get_logger
from fiscus.wire.decoding import decode

KEEP_SECONDS: Final = 600.0
LEAST_PAUSE_SECONDS: Final = 30.0
"""A key id nobody knows makes us ask again, but not more often than this."""
TIMEOUT_SECONDS: Final = 5.0
"""How long a fetch may take in all: whoever needs a key waits for it."""
FAILED_SECONDS: Final = 1.0
"""For so long after a fetch that failed, everybody is told so: those who waited for it too."""
MAX_BYTES: Final = 1_000_000
MIN_RSA_BITS: Final = 2048

log = get_logger(__name__)


class Jwks:
    """Public keys by key id. Thread-safe; `key` blocks while it fetches, and is for threads that
    run no event loop.

    Keys that were fetched once stay in use while the provider cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        # for the log: what is left out may be a password
        self._shown_url = str(httpx.URL(url).copy_with(userinfo=b"", query=None))
        self._lock = threading.Lock()
        self._keys: list[jwt.PyJWK] | None = None
        self._asked_at = float("-inf")
        self._failed_at = float("-inf")

    def key(self, key_id: str | None, algorithm: str) -> Any:
        """The key named `key_id`, or the only one for `algorithm` when a token names none.

        Raises `Unauthorized` for a key the provider does not have, and `ServiceUnavailable` when
        its keys were never fetched.
        """
        with self._lock:
            if self._keys is None or monotonic() - self._asked_at >= KEEP_SECONDS:
                self._refresh()
            found = self._find(key_id, algorithm)
            if found is None and monotonic() - self._asked_at >= LEAST_PAUSE_SECONDS:
                self._refresh()
                found = self._find(key_id, algorithm)
        if found is None:
            raise Unauthorized(
                "The token is signed with a key that the identity provider does not publish",
                suggested_action="Get a new token and send it.",
            )
        return found.key

    def _find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        fit = [key for key in self._keys or () if key.algorithm_name == algorithm]
        if key_id is not None:
            return next((key for key in fit if key.key_id == key_id), None)
        return fit[0] if len(fit) == 1 else None

    def _refresh(self) -> None:
        if self._keys is None and monotonic() - self._failed_at < FAILED_SECONDS:
            raise _unreachable()
        self._asked_at = monotonic()
        try:
            self._keys = _keys_of(asyncio.run(_fetched(self._url)))
        except (
            httpx.HTTPError,
            ValueError,
            ValidationError,
            # proxies and certificates that the environment names and that cannot be used
            httpx.InvalidURL,
            ImportError,
            OSError,
        ) as error:
            log.warning("jwks_not_fetched", url=self._shown_url, reason=str(error))
            self._failed_at = monotonic()
            if self._keys is None:
                raise _unreachable() from None


async def _fetched(url: str) -> bytes:
    """The answer's body. A coroutine, as httpx bounds a call as a whole in no other way."""
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client,
        ):
            return await _read(client, url)
    except TimeoutError:
        raise ValueError("the answer takes too long") from None


async def _read(client: httpx.AsyncClient, url: str) -> bytes:
    # a few compressed bytes may stand for any number
    async with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
        if not answer.is_success:
            # httpx's own error tells the URL
            raise ValueError(f"the answer has the status {answer.status_code}")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ValueError("the answer is compressed, which was not asked for")
        body = b""
        async for part in answer.aiter_raw():
            body += part
            if len(body) > MAX_BYTES:
                raise ValueError("the answer is too large")
        return body


class _Set(Struct, frozen=True):
    keys: list[Any]


def _keys_of(body: bytes) -> list[jwt.PyJWK]:
    """The keys of a set that are fit to verify tokens; others are left out.

    Raises `ValueError` when there is none, and `ValidationError` for what is no set.
    """
    fit = [key for key in map(_fit_key, decode(body, _Set).keys) if key is not None]
    if not fit:
        raise ValueError("the answer has no key that is fit to verify tokens")
    return fit


def _fit_key(given: Any) -> jwt.PyJWK | None:
    try:
        key = jwt.PyJWK(given)
        for_this = given.get("use", "sig") == "sig" and "verify" in given.get("key_ops", ["verify"])
    except (jwt.PyJWTError, LookupError, ValueError, TypeError, AttributeError):
        return None
    public = key.key  # with a private one whoever reads the set could sign
    is_strong = (
        public.key_size >= MIN_RSA_BITS
        if isinstance(public, RSAPublicKey)
        else isinstance(public, EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey)
    )
    return key if for_this and is_strong else None


def _unreachable() -> ServiceUnavailable:
    return ServiceUnavailable(
        "The keys of the identity provider cannot be fetched",
        suggested_action="Try again later, or use an API key.",
        retry_after_seconds=5,
    )


def _checked(url: str) -> str:
    """Keys must come over TLS, but for a provider on this machine."""
    with suppress(httpx.InvalidURL, ValueError):
        parts = httpx.URL(url)
        is_encrypted = parts.scheme == "https" and parts.host
        if is_encrypted or (parts.scheme == "http" and _is_loopback(parts.host)):
            return url
    raise ValidationError(
        "jwt_jwks_url is not an https URL",
        field="jwt_jwks_url",
        suggested_action="Set FISCUS_JWT_JWKS_URL to an address that begins with https://.",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


__all__ = ["MIN_RSA_BITS", "Jwks"]

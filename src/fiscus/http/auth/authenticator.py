"""Who calls: an API key or a JSON Web Token becomes a `Principal`.

Known credentials are answered from memory in microseconds; a new one is looked up in a thread, so
that the event loop never waits for the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import anyio
import anyio.to_thread

from fiscus.access.keys import (
    KEEP_KEY,
    CachedCredential,
    CredentialCache,
    good_key,
    is_good,
    known_key,
)
from fiscus.access.model import Principal, hash_key, is_token
from fiscus.access.port import ApiKeyStore
from fiscus.errors import ServiceUnavailable, Unauthorized
from fiscus.http.auth.tokens import TokenVerifier, refused
from fiscus.http.header_fields import HeaderFields
from fiscus.runtime.cache_stats import CacheStats
from fiscus.runtime.logs import get_logger
from fiscus.settings import Settings

log = get_logger(__name__)

KEEP_TOKEN: Final = timedelta(minutes=5)
REFRESH_EARLY: Final = KEEP_KEY / 4
"""Keys that would be due so soon are looked up along with one that is: all in one wave, not each
at its own moment."""
PATIENCE_SECONDS: Final = 1.0
"""How long a caller whose key was good a while ago waits for it to be looked up again."""
MAX_LOOKUPS: Final = 1000
"""Of API keys, and of tokens, that may be in hand."""


class _Lookups:
    """Those of one kind of credential, each with threads and a bound of its own: tokens, whose
    identity provider hangs, must not hold up API keys."""

    def __init__(self, check: Callable[[str, datetime], CachedCredential]) -> None:
        self.check: Final = check
        self.in_hand: Final[dict[str, asyncio.Task[CachedCredential]]] = {}
        """By the digest of the credential."""
        self._threads: anyio.CapacityLimiter | None = None

    @property
    def threads(self) -> anyio.CapacityLimiter:
        """How many look up at once; made on the loop that they serve."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(4)
        return self._threads


class Authenticator:
    """API keys and tokens, those that were good known again; one per event loop.

    Nothing is remembered of a credential that was refused. API keys that are in use are looked up
    again before their time is over, all together, so that their callers never wait for it. While
    the store is gone they are taken on, for minutes.
    """

    def __init__(self, api_keys: ApiKeyStore, known: CredentialCache, settings: Settings) -> None:
        self._api_keys = api_keys
        self._known = known
        self._tokens = TokenVerifier(settings)
        self.lookups: Final = CacheStats()
        self._of_keys: Final = _Lookups(self._find)
        self._of_tokens: Final = _Lookups(self._verify)
        self._refreshing: asyncio.Task[None] | None = None

    def cached(self, headers: HeaderFields, now: datetime) -> Principal | None:
        """The principal of a credential that was good a moment ago; None: ask `authenticate`.

        Raises `Unauthorized` when there is no credential.
        """
        known = self._known.get(_digest(headers))
        if known is None or not known.since <= now < known.until:
            return None
        self.lookups.count += 1
        known.used = True
        if now >= known.refresh_at and self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(now))
        return known.principal

    async def authenticate(self, headers: HeaderFields, now: datetime) -> Principal:
        """The principal, looked up when it is not known.

        Raises `Unauthorized`, and `ServiceUnavailable` when the store cannot be asked and the
        credential was not good minutes ago.
        """
        digest = _digest(headers)
        known = self._known.get(digest)
        self.lookups.count += 1
        if known is not None and known.since <= now < known.until:
            return known.principal
        try:
            lookup = self._lookup(_credential(headers), digest, now)
            if known is not None and now < known.without_store_until:
                await asyncio.wait({lookup}, timeout=PATIENCE_SECONDS)
                if not lookup.done():
                    raise ServiceUnavailable(
                        "The credential is still being looked up", retry_after_seconds=1
                    )
            # shielded: a caller that hangs up must not fail the others that wait for the same one
            return (await asyncio.shield(lookup)).principal
        except ServiceUnavailable as error:
            known = self._known.get(digest)  # it may have been revoked meanwhile
            if known is None or not known.keep(now):
                raise
            log.warning("api_key_not_looked_up", key_id=known.key_id, reason=error.message)
            return known.principal

    def _lookup(
        self, credential: str, digest: str, now: datetime
    ) -> asyncio.Task[CachedCredential]:
        """The lookup of a credential, begun now or before."""
        lookups = self._of_tokens if is_token(credential) else self._of_keys
        lookup = lookups.in_hand.get(digest)
        if lookup is None:
            if len(lookups.in_hand) >= MAX_LOOKUPS:
                raise ServiceUnavailable(
                    "Too many credentials are being looked up", retry_after_seconds=1
                )
            lookup = asyncio.create_task(self._look_up(lookups, credential, digest, now))
            self.lookups.misses += 1
            lookups.in_hand[digest] = lookup
            lookup.add_done_callback(partial(self._looked_up, lookups, digest))
        return lookup

    async def _look_up(
        self, lookups: _Lookups, credential: str, digest: str, now: datetime
    ) -> CachedCredential:
        revocations = self._known.revocations
        known = await anyio.to_thread.run_sync(
            partial(lookups.check, credential, now), limiter=lookups.threads
        )
        self._known.keep(digest, known, revocations)
        return known

    async def _refresh(self, now: datetime) -> None:
        """Look up the keys again that are in use and about half through their time."""
        due = self._known.due(now + REFRESH_EARLY)
        revocations = self._known.revocations
        try:
            found = await anyio.to_thread.run_sync(self._api_keys.find_many, due)
        except ServiceUnavailable as error:
            log.warning("api_keys_not_refreshed", reason=error.message)
            for digest in due:
                if (kept := self._known.get(digest)) is not None:
                    kept.keep(now)
            return
        finally:
            self._refreshing = None
        for digest in due:
            key = found.get(digest)
            if key is not None and is_good(key, now):
                self._known.keep(digest, known_key(key, now), revocations)
            else:
                self._known.drop(digest)

    def _looked_up(
        self, lookups: _Lookups, digest: str, lookup: asyncio.Task[CachedCredential]
    ) -> None:
        del lookups.in_hand[digest]
        # seen here too, for when every caller has hung up, or could wait no longer
        if not lookup.cancelled() and isinstance(lookup.exception(), Unauthorized):
            self._known.drop(digest)

    def _find(self, credential: str, now: datetime) -> CachedCredential:
        return known_key(good_key(self._api_keys, credential, now), now)

    def _verify(self, credential: str, now: datetime) -> CachedCredential:
        verified = self._tokens.verify(credential.encode(), now)
        until = min(verified.expires_at, now + KEEP_TOKEN)
        return CachedCredential(verified.principal, now, until, until)


def _digest(headers: HeaderFields) -> str:
    """The hash of the credential, worked out once. Raises `Unauthorized` when there is none."""
    digest = headers.credential_digest
    if digest is None:
        digest = headers.credential_digest = hash_key(_credential(headers))
    return digest


def _credential(headers: Mapping[bytes, bytes]) -> str:
    key = headers.get(b"x-api-key")
    authorization = headers.get(b"authorization")
    if key is not None and authorization is not None:
        raise refused(
            "Two credentials were sent",
            action="Send either X-API-Key or Authorization, not both.",
        )
    if authorization is not None:
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise refused(
                "The Authorization header is not of the scheme Bearer",
                action="Send Authorization: Bearer and a token or API key.",
            )
        key = key.strip()
    if not key:
        raise Unauthorized(
            "No credential was sent",
            suggested_action="Send X-API-Key, or Authorization: Bearer and a token or API key.",
        )
    try:
        return key.decode("ascii")
    except UnicodeDecodeError:
        raise refused("The credential is not valid") from None


__all__ = ["Authenticator"]

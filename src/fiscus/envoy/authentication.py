"""Who calls: the API key in a call's metadata becomes a `Principal`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from fiscus.access.keys import KEEP_KEY, CachedCredential, CredentialCache, good_key, known_key
from fiscus.access.model import Action, Principal, hash_key, is_token
from fiscus.access.port import ApiKeyStore
from fiscus.errors import ServiceUnavailable, Unauthorized
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

METADATA_KEY: Final = "x-api-key"


class ApiKeyAuthenticator:
    """Authenticates calls by API keys that may check rate limits. Safe to share among threads."""

    def __init__(self, api_keys: ApiKeyStore, known: CredentialCache) -> None:
        self._api_keys = api_keys
        self._known = known
        self._asking: set[str] = set()
        """Known keys that somebody looks up again at this moment."""

    def authenticate(self, metadata: Iterable[tuple[str, str | bytes]], now: datetime) -> Principal:
        """The principal of a call. Blocks on the store for a key not seen for some seconds.

        Of those who come with a key that was good seconds ago, one at a time asks the store.

        Raises `Unauthorized`, `Forbidden` for a key whose roles may not check, and
        `ServiceUnavailable` when the store cannot be asked and the key was not good minutes ago.
        """
        secret = _secret(metadata)
        digest = hash_key(secret)
        known = self._known.get(digest)
        if known is None or not (
            known.since <= now < known.until or self._is_asked_about(digest, known, now)
        ):
            self._asking.add(digest)
            try:
                known = self._looked_up(secret, digest, now)
            finally:
                self._asking.discard(digest)
        known.used = True
        known.principal.require(Action.OPERATE)
        return known.principal

    def _is_asked_about(self, digest: str, known: CachedCredential, now: datetime) -> bool:
        """Whether another call looks up again who was good seconds ago."""
        until = min(known.until + KEEP_KEY, known.without_store_until)
        return digest in self._asking and known.since <= now < until

    def _looked_up(self, secret: str, digest: str, now: datetime) -> CachedCredential:
        revocations = self._known.revocations
        try:
            known = known_key(good_key(self._api_keys, secret, now), now)
        except Unauthorized:
            self._known.drop(digest)
            raise
        except ServiceUnavailable as error:
            before = self._known.get(digest)  # it may have been revoked meanwhile
            if before is None or not before.keep(now):
                raise
            log.warning("api_key_not_looked_up", key_id=before.key_id, reason=error.message)
            return before
        self._known.keep(digest, known, revocations)
        return known


def _secret(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == METADATA_KEY and isinstance(value, str) and value:
            if is_token(value):
                raise Unauthorized(
                    "A JSON Web Token was sent, which is not taken here",
                    suggested_action=f"Send an API key as {METADATA_KEY}.",
                )
            return value
    raise Unauthorized(
        "No API key was sent",
        suggested_action=f"Send {METADATA_KEY} in initial_metadata of Envoy's grpc_service.",
    )


__all__ = ["METADATA_KEY", "ApiKeyAuthenticator"]

"""Who asks: the API key in a call's metadata, known again for some seconds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from fiscus.access.keys import KEEP_KEY, KnownCaller, good_key, known_key
from fiscus.access.model import Action, Principal, hash_key
from fiscus.access.port import ApiKeyStore
from fiscus.errors import ServiceUnavailable, Unauthorized
from fiscus.logs import get_logger

log = get_logger(__name__)

METADATA_KEY: Final = "x-api-key"
MAX_KNOWN: Final = 1000


class Door:
    """Lets API keys in that may check rate limits. Safe to share among threads."""

    def __init__(self, api_keys: ApiKeyStore) -> None:
        self._api_keys = api_keys
        self._known: dict[str, KnownCaller] = {}
        self._asking: set[str] = set()
        """Known keys that somebody looks up again at this moment."""

    def enter(self, metadata: Iterable[tuple[str, str | bytes]], now: datetime) -> Principal:
        """The principal of a call. Blocks on the store for a key not seen for some seconds.

        Of those who come with a key that was good seconds ago, one at a time asks the store.

        Raises `Unauthorized`, `Forbidden` for a key whose roles may not check, and
        `ServiceUnavailable` when the store cannot be asked and the key was not good minutes ago.
        """
        secret = _secret(metadata)
        digest = hash_key(secret)
        known = self._known.get(digest)
        if known is None or not known.since <= now < known.until:
            if (
                known is not None
                and digest in self._asking
                and known.since <= now < min(known.until + KEEP_KEY, known.without_store_until)
            ):
                return known.principal
            self._asking.add(digest)
            try:
                known = self._known[digest] = self._looked_up(secret, known, now)
            finally:
                self._asking.discard(digest)
        return known.principal

    def _looked_up(self, secret: str, before: KnownCaller | None, now: datetime) -> KnownCaller:
        try:
            key = good_key(self._api_keys, secret, now)
        except Unauthorized:
            self._known.pop(hash_key(secret), None)
            raise
        except ServiceUnavailable as error:
            if before is None or not before.keep(now):
                raise
            log.warning("api_key_not_looked_up", reason=error.message)
            return before
        known = known_key(key, now)
        known.principal.require(Action.OPERATE)
        if len(self._known) >= MAX_KNOWN:
            # a few keys are used here; this many are somebody's mistake
            self._known.clear()
        return known


def _secret(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == METADATA_KEY and isinstance(value, str) and value:
            return value
    raise Unauthorized(
        "No API key was sent",
        suggested_action=f"Send {METADATA_KEY} in initial_metadata of Envoy's grpc_service.",
    )


__all__ = ["METADATA_KEY", "Door"]

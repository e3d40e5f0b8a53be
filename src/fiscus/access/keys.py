"""API keys that callers send: which are good, and those known to be."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Final

from fiscus.access.model import MAX_KEY_LENGTH, ApiKey, Principal, hash_key
from fiscus.access.port import ApiKeyStore
from fiscus.errors import Unauthorized

KEEP_KEY: Final = timedelta(seconds=10)
"""How long a key that another process revoked may still be taken here."""
KEEP_KEY_WITHOUT_STORE: Final = timedelta(minutes=10)
"""How long a key is taken after it was last looked up, as long as the store cannot be asked: what
is decided without the store needs its callers let in. Nobody can see meanwhile that it was revoked.
"""
MAX_KNOWN: Final = 10_000


class CachedCredential:
    """A credential that was good at `since`, and is taken until `until`.

    When it cannot be looked up again after that, it is taken until `without_store_until`.
    """

    __slots__ = (
        "key_id",
        "principal",
        "refresh_at",
        "since",
        "until",
        "used",
        "without_store_until",
    )

    def __init__(
        self,
        principal: Principal,
        since: datetime,
        until: datetime,
        without_store_until: datetime,
        key_id: str | None = None,
    ) -> None:
        self.principal = principal
        self.since = since
        self.until = until
        self.without_store_until = without_store_until
        self.key_id = key_id
        """The API key it is; None for a token."""
        self.refresh_at = until if key_id is None else since + KEEP_KEY / 2
        self.used = False
        """Whether anybody came with it since it was looked up."""

    def keep(self, now: datetime) -> bool:
        """Take it for some seconds more without the store; False when it was not for too long."""
        if not self.since <= now < self.without_store_until:
            return False
        self.until = min(now + KEEP_KEY, self.without_store_until)
        self.refresh_at = now + KEEP_KEY / 2
        return True


class CredentialCache:
    """Credentials that were good when they were looked up, by their hashes.

    One for all edges of a process, so that a key revoked in it is refused by each at once. Holds a
    bounded number. Safe to share among threads.
    """

    def __init__(self) -> None:
        self._known: dict[str, CachedCredential] = {}
        self._changing = threading.Lock()
        self.get: Final = self._known.get
        """Who comes with the credential of a hash, also when it is due to be looked up again."""
        self.revocations = 0
        """How many keys were revoked here: to be read before a look-up begins."""

    def keep(self, digest: str, known: CachedCredential, revocations: int) -> None:
        """Remember who was looked up when there had been so many revocations.

        Does nothing when there were more since: the look-up may have missed them.
        """
        with self._changing:
            if revocations != self.revocations:
                return
            while len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[digest] = known

    def drop(self, digest: str) -> None:
        """A credential was seen to be no longer good."""
        with self._changing:
            self._known.pop(digest, None)

    def forget(self, key_id: str) -> None:
        """A key was revoked: it is refused from now on."""
        with self._changing:
            self.revocations += 1
            for digest in [one for one, known in self._known.items() if known.key_id == key_id]:
                del self._known[digest]

    def due(self, before: datetime) -> list[str]:
        """The keys in use that are to be looked up again until `before`."""
        with self._changing:
            return [
                digest
                for digest, known in self._known.items()
                if known.used and known.key_id is not None and before >= known.refresh_at
            ]


def good_key(api_keys: ApiKeyStore, secret: str, now: datetime) -> ApiKey:
    """The key whose secret was sent.

    Raises `Unauthorized` when there is none or it is no longer good, and `ServiceUnavailable` when
    the store cannot be asked.
    """
    key = api_keys.find(hash_key(secret)) if len(secret) <= MAX_KEY_LENGTH else None
    if key is None:
        raise _refused("The API key is not valid", "Send a valid API key.")
    if not is_good(key, now):
        gone = "has expired" if key.revoked_at is None else "was revoked"
        raise _refused(f"The API key {gone}", "Send another API key.")
    return key


def is_good(key: ApiKey, now: datetime) -> bool:
    """Whether a key may be taken at `now`."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def known_key(key: ApiKey, now: datetime) -> CachedCredential:
    """A key that was found good at `now`."""
    return CachedCredential(
        principal_of(key),
        now,
        _not_past_its_end(key, now + KEEP_KEY),
        _not_past_its_end(key, now + KEEP_KEY_WITHOUT_STORE),
        key.key_id,
    )


def principal_of(key: ApiKey) -> Principal:
    return Principal(
        f"api_key:{key.key_id}",
        key.tenant_id,
        frozenset(key.roles),
        key.highest_priority,
        key.key_id,
    )


def _not_past_its_end(key: ApiKey, until: datetime) -> datetime:
    return until if key.expires_at is None else min(until, key.expires_at)


def _refused(message: str, action: str) -> Unauthorized:
    return Unauthorized(message, suggested_action=action)


__all__ = [
    "KEEP_KEY",
    "KEEP_KEY_WITHOUT_STORE",
    "MAX_KNOWN",
    "CachedCredential",
    "CredentialCache",
    "good_key",
    "is_good",
    "known_key",
    "principal_of",
]

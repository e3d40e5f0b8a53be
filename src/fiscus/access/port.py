"""What access needs of a store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from fiscus.access.model import ApiKey
from fiscus.idempotency import Idempotency
from fiscus.paging import Page, PageRequest


class ApiKeyStore(Protocol):
    def create(
        self, key: ApiKey, key_hash: str, *, idempotency: Idempotency | None = None
    ) -> ApiKey:
        """Keep a key; with the same idempotency key, the one made before is answered.

        Raises `Conflict` when the same secret is kept already."""
        ...

    def find(self, key_hash: str) -> ApiKey | None:
        """The key with this hash, of any tenant, revoked and expired ones too."""
        ...

    def find_many(self, key_hashes: Sequence[str]) -> dict[str, ApiKey]:
        """As `find` for each, by its hash; those that do not exist are left out."""
        ...

    def get(self, tenant_id: str, key_id: str) -> ApiKey:
        """Raises `NotFound`."""
        ...

    def list(self, tenant_id: str, page: PageRequest) -> Page[ApiKey]:
        """Keys of a tenant, newest first; revoked ones too."""
        ...

    def revoke(self, tenant_id: str, key_id: str, now: datetime) -> ApiKey:
        """Make a key useless from now on; again is the same. Raises `NotFound`."""
        ...

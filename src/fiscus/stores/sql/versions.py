"""Every version of a definition as it was written, kept for good: receipts refer to them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.budgets.model import Budget
from fiscus.errors import NotFound, ValidationError
from fiscus.ids import is_uuid
from fiscus.quotas.model import Quota
from fiscus.ratelimits.model import Policy
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode

D = TypeVar("D", Budget, Policy, Quota)


class Versions(Generic[D]):
    """The versions of all definitions of one kind; `what` is what people call one."""

    def __init__(self, table: sa.Table, kind: type[D], what: str) -> None:
        self._table = table
        self._kind = kind
        self._what = what
        self._id = f"{what}_id"

    def keep(self, connection: Connection, definitions: Sequence[D], by: str) -> None:
        """Keep definitions of which none has been kept at its version."""
        rows = [
            {
                self._id: getattr(one, self._id),
                "version": one.version,
                "tenant_id": one.tenant_id,
                "definition": encode(one).decode(),
                "changed_by": by,
                "changed_at": one.updated_at,
            }
            for one in definitions
        ]
        connection.execute(sa.insert(self._table), rows)

    def find(self, connection: Connection, tenant_id: str, name: str, version: int) -> D:
        """The version of the definition with the id `name`, also of one that was deleted; its last
        says when that was. Raises `NotFound`."""
        c = self._table.c
        definition = None
        # Versions are 32-bit on PostgreSQL, which refuses to compare them with more.
        if is_uuid(name) and 1 <= version < 2**31:
            definition = connection.execute(
                sa.select(c.definition).where(
                    c[self._id] == name, c.version == version, c.tenant_id == tenant_id
                )
            ).scalar_one_or_none()
        if definition is None:
            raise NotFound(
                f"No version {version} of {self._what} {name} exists",
                details={self._id: name, "version": version},
                suggested_action=f"Use a version from 1 to the {self._what}'s own.",
            )
        return decode(definition, self._kind)

    def at(
        self, connection: Connection, tenant_id: str, name: str, moments: Collection[datetime]
    ) -> dict[datetime, D]:
        """A definition as it was just before each of `moments`; before its first, as that was."""
        c = self._table.c
        query = sa.select(c.version, c.changed_at).where(
            c[self._id] == name, c.tenant_id == tenant_id
        )
        kept = sorted((row.changed_at, row.version) for row in connection.execute(query))
        versions = {at: kept[max(0, bisect_left(kept, (at, 0)) - 1)][1] for at in moments}
        query = sa.select(c.version, c.definition).where(
            c[self._id] == name, c.tenant_id == tenant_id, c.version.in_(set(versions.values()))
        )
        found = {
            row.version: decode(row.definition, self._kind) for row in connection.execute(query)
        }
        return {at: found[version] for at, version in versions.items()}


def replaces_none(what: str) -> ValidationError:
    """What is wrong with a new definition that names a version."""
    return ValidationError(
        f"version names the version being replaced; a new {what} replaces none",
        field="version",
        suggested_action=f"Leave version out, or replace a {what} with PUT.",
    )

"""Short forms of the columns that migrations make.

What they say of a table that exists never changes: a later migration that wants other types says so
itself.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

SCOPE: Final = sa.String(128)


def uuid_type() -> sa.types.TypeEngine[str]:
    return sa.String(36).with_variant(sa.Uuid(as_uuid=False), "postgresql")


def moment() -> sa.types.TypeEngine[Any]:
    return sa.BigInteger().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def amount(digits: int = 38) -> sa.types.TypeEngine[Any]:
    return sa.Text().with_variant(sa.Numeric(digits, 12), "postgresql")


def required(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def tenant() -> sa.Column[Any]:
    return required("tenant_id", SCOPE)

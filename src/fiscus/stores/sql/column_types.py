"""The types of the tables' columns, each as it is on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import BigInteger, Numeric, String, Text, Uuid
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from fiscus.clock import from_us, to_us


class UtcTime(TypeDecorator[datetime]):
    """An aware moment, in UTC."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return to_us(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or isinstance(value, datetime):
            return value
        return from_us(value)


class ExactAmount(TypeDecorator[Decimal]):
    """A decimal with 12 places; `digits` in all."""

    impl = Text
    cache_ok = True

    def __init__(self, digits: int = 38) -> None:
        super().__init__()
        self.digits = digits

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Numeric(self.digits, 12))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return format(value, "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return value if value is None or isinstance(value, Decimal) else Decimal(value)


def uuid_type() -> TypeEngine[str]:
    """An id that Fiscus made."""
    return String(36).with_variant(Uuid(as_uuid=False), "postgresql")


AMOUNT: Final = ExactAmount(38)
# Sums and converted amounts may have more digits than one amount that came in.
SUM: Final = ExactAmount(60)
SCOPE_ID: Final = String(128)

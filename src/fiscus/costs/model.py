"""Costs: what something cost and who it is attributed to. A cost record never changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from typing import Any

from msgspec import Struct

from fiscus.scopes import ScopeType
from fiscus.wire.texts import MAX_TAGS


class ChargeCategory(StrEnum):
    """FOCUS charge categories; only credits and adjustments may be negative."""

    USAGE = "usage"
    PURCHASE = "purchase"
    TAX = "tax"
    CREDIT = "credit"
    ADJUSTMENT = "adjustment"

    __hash__ = str.__hash__  # that of an enum is worked out in Python


MAY_BE_NEGATIVE = frozenset({ChargeCategory.CREDIT, ChargeCategory.ADJUSTMENT})


class CostFlag(StrEnum):
    """Why `spent` may pass a budget's amount, or what is missing from a record."""

    LATE = "late"
    EXCESS = "excess"
    UNRESERVED = "unreserved"
    UNCONVERTED = "unconverted"


UNATTRIBUTED_TAG = "unattributed"
"""Set to `"true"` on costs that name no project, user or feature."""


def first_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The first of what several have said of one cost, as many as may be sent of one."""
    return dict(islice(tags.items(), MAX_TAGS))


class CostRecord(Struct, frozen=True, gc=False):
    """What something cost; immutable. Corrections are records of category `adjustment`."""

    record_id: str
    tenant_id: str
    timestamp: datetime
    recorded_at: datetime
    resource_type: str
    cost_amount: Decimal
    currency: str
    charge_category: ChargeCategory
    attributed_to_type: ScopeType
    attributed_to_id: str
    project_id: str | None = None
    user_id: str | None = None
    feature_id: str | None = None
    usage_quantity: Decimal | None = None
    usage_unit: str | None = None
    usage: dict[str, Any] | None = None
    resource_id: str | None = None
    service_name: str | None = None
    region: str | None = None
    tags: dict[str, str] = {}
    flags: list[CostFlag] = []
    reservation_id: str | None = None
    operation_id: str | None = None

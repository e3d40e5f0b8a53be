"""Operations: what a caller is about to do or has done, and who it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from fiscus.scopes import ScopeType

NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


class Operation(Struct, frozen=True, array_like=True, gc=False):
    """A tenant's use of a resource, with the ids the caller gave; nothing is inferred."""

    tenant_id: str
    resource_type: str
    project_id: str | None = None
    user_id: str | None = None
    feature_id: str | None = None
    service_name: str | None = None
    tags: Mapping[str, str] = NO_TAGS

    def attributed_to(self) -> tuple[ScopeType, str]:
        """The most specific scope given: feature > user > project > tenant."""
        if self.feature_id is not None:
            return ScopeType.FEATURE, self.feature_id
        if self.user_id is not None:
            return ScopeType.USER, self.user_id
        if self.project_id is not None:
            return ScopeType.PROJECT, self.project_id
        return ScopeType.TENANT, self.tenant_id

"""Operations: what a caller is about to do or has done, and who it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Final, Generic, TypeVar

from msgspec import Struct

from fiscus.scopes import ScopeType

C = TypeVar("C", bound=Sized)
"""What is kept for a type of scope."""

ScopeIds = tuple[str | None, str | None, str | None, str | None]
"""Of tenant, project, user and feature."""

# Kept apart, as a member of an enum is found by way of its metaclass each time.
_FEATURE: Final = ScopeType.FEATURE
_USER: Final = ScopeType.USER
_PROJECT: Final = ScopeType.PROJECT
_TENANT: Final = ScopeType.TENANT


class Operation(Struct, frozen=True, array_like=True, gc=False):
    """A tenant's use of a resource, with the ids the caller gave; nothing is inferred."""

    tenant_id: str
    resource_type: str
    project_id: str | None = None
    user_id: str | None = None
    feature_id: str | None = None
    service_name: str | None = None
    tags: dict[str, str] = {}

    def attributed_to(self) -> tuple[ScopeType, str]:
        """The most specific scope given: feature > user > project > tenant."""
        if self.feature_id is not None:
            return _FEATURE, self.feature_id
        if self.user_id is not None:
            return _USER, self.user_id
        if self.project_id is not None:
            return _PROJECT, self.project_id
        return _TENANT, self.tenant_id


class ByScopeType(Generic[C]):
    """One collection for each type of scope."""

    def __init__(self, empty: Callable[[], C]) -> None:
        self._tenant, self._project, self._user, self._feature = empty(), empty(), empty(), empty()

    def of(self, kind: ScopeType) -> C:
        match kind:
            case ScopeType.TENANT:
                return self._tenant
            case ScopeType.PROJECT:
                return self._project
            case ScopeType.USER:
                return self._user
            case ScopeType.FEATURE:
                return self._feature

    def ids_of(self, operation: Operation) -> ScopeIds:
        """The ids of an operation for whose types there is anything; others are None."""
        return (
            operation.tenant_id if self._tenant else None,
            operation.project_id if self._project else None,
            operation.user_id if self._user else None,
            operation.feature_id if self._feature else None,
        )

    def at(self, ids: ScopeIds) -> Iterator[tuple[C, str]]:
        """The collections in which to look, with the id to look for, from tenant to feature."""
        kept = (self._tenant, self._project, self._user, self._feature)
        for collection, scope_id in zip(kept, ids, strict=True):
            if scope_id is not None:
                yield collection, scope_id

"""Whether two reserve blocks are for the same operation, so that one may draw from the other."""

from __future__ import annotations

from fiscus.budgets.calls import CheckRequest
from fiscus.errors import ValidationError
from fiscus.scopes import ScopeType


def covers(mine: CheckRequest, nested: CheckRequest) -> bool:
    """Whether a block for `nested` draws from one for `mine`, in the same engine or client.

    Raises `ValidationError` when they name one operation, but estimate in two currencies.
    """
    if nested.tenant_id != mine.tenant_id:
        return False
    if nested.operation_id is not None:
        if nested.operation_id != mine.operation_id:
            return False
        if nested.currency != mine.currency:
            raise ValidationError(
                "A nested reserve of the same operation is in another currency",
                field="currency",
                suggested_action="Estimate both in one currency.",
            )
        return True
    return (
        nested.currency == mine.currency
        and nested.resource_type == mine.resource_type
        and scope_ids(nested) == scope_ids(mine)
        and nested.service_name in {None, mine.service_name}
        and nested.tags.items() <= mine.tags.items()
    )


def scope_ids(request: CheckRequest) -> tuple[str | None, str | None, str | None]:
    """Project, user and feature, with the short form in its place."""
    ids = {
        ScopeType.PROJECT: request.project_id,
        ScopeType.USER: request.user_id,
        ScopeType.FEATURE: request.feature_id,
    }
    kind = request.allocated_to_type
    if kind is not None and kind is not ScopeType.TENANT:
        ids[kind] = request.allocated_to_id
    return ids[ScopeType.PROJECT], ids[ScopeType.USER], ids[ScopeType.FEATURE]

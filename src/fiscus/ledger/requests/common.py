"""What requests of all kinds have in common on their way to a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, TypeVar

from fiscus.budgets.calls import CheckRequest
from fiscus.costs.calls import RecordRequest
from fiscus.errors import IdempotencyConflict, ValidationError, too_many
from fiscus.ledger.commands import Check, Consume, Record
from fiscus.money import ZERO, negative
from fiscus.operations import Operation
from fiscus.quotas.calls import QuotaCheckRequest
from fiscus.scopes import ScopeType
from fiscus.wire.explaining import not_a_label, not_an_id
from fiscus.wire.texts import is_id, is_label

MAX_CHECKS: Final = 500

_Checked = TypeVar("_Checked", CheckRequest, QuotaCheckRequest)
_Made = TypeVar("_Made", Check, Consume)


def tenant_of_checks(
    checks: Sequence[CheckRequest | QuotaCheckRequest], tenant_for: Callable[[str | None], str]
) -> str:
    """The tenant of a batch of checks; `tenant_for` gives that of what a check names, or does not.

    Raises `ValidationError` when they are of several, naming the first that is not as those before.
    """
    named = dict.fromkeys([check.tenant_id for check in checks])
    tenant_id, *others = dict.fromkeys([tenant_for(one) for one in named])
    if others:
        index = [tenant_for(check.tenant_id) for check in checks].index(others[0])
        raise ValidationError(
            "All checks of a batch must be of one tenant",
            field=f"checks[{index}].tenant_id",
            suggested_action="Send one batch per tenant.",
        )
    return tenant_id


def operation_of(
    request: CheckRequest | RecordRequest,
    tenant_id: str,
    scope_type: ScopeType | None,
    scope_id: str | None,
    names: tuple[str, str],
) -> Operation:
    """What a request is about, with the one scope put in that it may name by type and id.

    `names` are those of the two fields.
    """
    require_sound(request)
    project_id, user_id, feature_id = request.project_id, request.user_id, request.feature_id
    if scope_type is not None or scope_id is not None:
        if scope_type is None or scope_id is None:
            missing = names[0] if scope_type is None else names[1]
            raise ValidationError(
                f"{names[0]} and {names[1]} go together",
                field=missing,
                suggested_action=f"Send {missing} too.",
            )
        given = {
            ScopeType.TENANT: tenant_id,
            ScopeType.PROJECT: project_id,
            ScopeType.USER: user_id,
            ScopeType.FEATURE: feature_id,
        }[scope_type]
        if given is not None and given != scope_id:
            raise ValidationError(
                f"{names[1]} differs from {scope_type}_id",
                field=names[1],
                suggested_action="Send the id once.",
            )
        match scope_type:
            case ScopeType.PROJECT:
                project_id = scope_id
            case ScopeType.USER:
                user_id = scope_id
            case ScopeType.FEATURE:
                feature_id = scope_id
            case ScopeType.TENANT:
                pass
    return Operation(
        tenant_id,
        request.resource_type,
        project_id,
        user_id,
        feature_id,
        request.service_name,
        request.tags,
    )


def require_sound(request: CheckRequest | RecordRequest | QuotaCheckRequest) -> None:
    """What reading a request left unchecked."""
    if not is_label(request.resource_type):
        raise not_a_label("resource_type")
    if not is_id(request.project_id):
        raise not_an_id("project_id")
    if not is_id(request.user_id):
        raise not_an_id("user_id")
    if not is_id(request.feature_id):
        raise not_an_id("feature_id")


def not_negative(amount: Decimal, field: str) -> Decimal:
    """As `parse_not_negative`, of what the decoder has parsed: to parse it again would take half as
    long as all the rest of a check's command."""
    if amount < ZERO:
        raise negative(field)
    return Decimal(amount)


def usage_quantity(given: Decimal | None) -> Decimal | None:
    """As `not_negative`, of a quantity that may be left out."""
    return None if given is None else not_negative(given, "usage_quantity")


def checks_of_batch(
    make: Callable[[_Checked, str, datetime], _Made],
    requests: Sequence[_Checked],
    tenant_id: str,
    now: datetime,
    key: str | None,
) -> list[_Made]:
    """The commands of a batch's checks, whose `key` none of them may have.

    Raises `PayloadTooLarge` for more than 500, and for an invalid one an error that names its
    place.
    """
    if len(requests) > MAX_CHECKS:
        raise too_many("checks", len(requests), MAX_CHECKS)
    checks = [_item(make, index, item, tenant_id, now) for index, item in enumerate(requests)]
    _require_other_keys(key, checks)
    return checks


def one_key(header: str | None, item: str | None) -> str | None:
    """The idempotency key, which may be given in the header, in the body or in both."""
    if header is not None and item is not None and header != item:
        raise ValidationError(
            "idempotency_key differs from the header",
            field="idempotency_key",
            suggested_action="Send the key once.",
        )
    return header if header is not None else item


def has_key(item: Check | Consume | Record, key: str | None) -> bool:
    return item.idempotency is not None and item.idempotency.at.key == key


def key_of_batch(key: str | None, field: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"{field} is the idempotency key of its batch, which asks for something else",
        details={"field": field, "idempotency_key": key},
        suggested_action="Give the batch and each item a key of its own.",
    )


def _item(
    make: Callable[[_Checked, str, datetime], _Made],
    index: int,
    item: _Checked,
    tenant_id: str,
    now: datetime,
) -> _Made:
    """The command of one item of `checks`; errors name its place."""
    try:
        return make(item, tenant_id, now)
    except ValidationError as error:
        raise error.within(f"checks[{index}]") from None


def _require_other_keys(key: str | None, checks: Sequence[Check | Consume]) -> None:
    """Raises `IdempotencyConflict` for a check that has the key of its batch."""
    for index, check in enumerate(checks):
        if has_key(check, key):
            raise key_of_batch(key, f"checks[{index}].idempotency_key")

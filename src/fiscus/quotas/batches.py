"""A batch of allocations, item by item: a wrong one is an error in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fiscus.errors import FiscusError, Forbidden, too_many
from fiscus.quotas.calls import AllocateBatchAnswer, AllocateBatchRequest, AllocateItem
from fiscus.quotas.model import Quota, QuotaSpec
from fiscus.wire.decoding import decode
from fiscus.wire.items import item_error

MAX_ALLOCATIONS: Final = 100


def allocate_each(
    request: AllocateBatchRequest,
    tenant_id: str,
    allocate: Callable[[Sequence[QuotaSpec]], list[Quota | FiscusError]],
) -> AllocateBatchAnswer:
    """The answer to a batch for `tenant_id`; `allocate` is asked for the items that can be read.

    Raises `PayloadTooLarge` for more than 100 items.
    """
    items = request.allocations
    if len(items) > MAX_ALLOCATIONS:
        raise too_many("allocations", len(items), MAX_ALLOCATIONS)
    read = [_read(bytes(item), tenant_id) for item in items]
    specs = [one for one in read if isinstance(one, QuotaSpec)]
    made = iter(allocate(specs) if specs else ())
    results = [_result(next(made) if isinstance(one, QuotaSpec) else one) for one in read]
    failed = sum(one.error is not None for one in results)
    return AllocateBatchAnswer(
        allocated=len(results) - failed,
        failed=failed,
        results=results,
    )


def _read(item: bytes, tenant_id: str) -> QuotaSpec | FiscusError:
    try:
        spec = decode(item, QuotaSpec)
    except FiscusError as error:
        return error
    if spec.tenant_id is not None and spec.tenant_id != tenant_id:
        return Forbidden(
            "This allocation names another tenant than the rest of its batch",
            details={"field": "tenant_id"},
            suggested_action="Send one batch per tenant, with a credential of that tenant.",
        )
    return spec


def _result(outcome: Quota | FiscusError) -> AllocateItem:
    if isinstance(outcome, FiscusError):
        return AllocateItem(quota=None, error=item_error(outcome))
    return AllocateItem(quota=outcome, error=None)

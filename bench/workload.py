"""The named workload: 1 000 tenants, two matching budgets per check, tenants Zipf-distributed.

Everything is drawn from one seed, so that two runs send the same requests in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import accumulate, count
from random import Random
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

NAME: Final = "zipf-1000"
SEED: Final = 20_240_611
TENANTS: Final = 1_000
USERS: Final = 50
"""Users of one tenant."""
RESOURCE_TYPES: Final = ("llm", "embedding", "search", "storage")
HOLD_SECONDS: Final = 3_600
"""Long enough that nothing expires while a benchmark runs."""
BATCH: Final = 100
CURRENCY: Final = "USD"
PLENTY: Final = 1_000_000_000
"""The amount of every budget and quota: none is ever used up."""
QUOTA_RESOURCE: Final = "gpu_hours"
"""What all quotas are of, and all their checks: a quota has one resource type."""


class Place(NamedTuple):
    """A tenant, one of its projects, and the two budgets or quotas that an operation there matches:
    their ids."""

    tenant_id: str
    project_id: str
    of_tenant: str
    of_project: str


class Item(NamedTuple):
    """One operation; `amount` is what it may cost, or did cost."""

    place: Place
    user_id: str
    resource_type: str
    amount: Decimal
    quantity: int


def items(places: Sequence[Place], count: int, *, seed: int = SEED) -> list[Item]:
    """`count` operations, their places Zipf-distributed (s = 1) in the order of `places`."""
    random = Random(seed)
    chosen = random.choices(places, cum_weights=_zipf(len(places)), k=count)
    return [_item(random, place) for place in chosen]


def batches(places: Sequence[Place], count: int, *, seed: int = SEED) -> list[list[Item]]:
    """`count` batches of `BATCH` operations; a batch is of one tenant, as the API has it."""
    random = Random(seed)
    chosen = random.choices(places, cum_weights=_zipf(len(places)), k=count)
    return [[_item(random, place) for _ in range(BATCH)] for place in chosen]


def keys(count: int, *, seed: int = SEED) -> list[str]:
    """`count` keys of `TENANTS` clients, drawn as tenants are."""
    names = [f"client-{number:05d}" for number in range(TENANTS)]
    return Random(seed).choices(names, cum_weights=_zipf(TENANTS), k=count)


def limit_checks(
    callers: Sequence[T], count: int | None, *, seed: int = SEED
) -> Iterator[tuple[bytes, T]]:
    """Bodies of `count` checks of rate limits, and whose each is; None: one of each caller."""
    random = Random(seed)
    chosen = (
        callers
        if count is None
        else random.choices(callers, cum_weights=_zipf(len(callers)), k=count)
    )
    for caller in chosen:
        yield _encode(_limit_check(random)), caller


def limited_users(
    tenant_ids: Sequence[str], count: int, *, seed: int = SEED
) -> Iterator[tuple[str, str]]:
    """Users and their tenants, of `count` checks."""
    random = Random(seed)
    chosen = random.choices(tenant_ids, cum_weights=_zipf(len(tenant_ids)), k=count)
    for tenant_id in chosen:
        yield _user(random), tenant_id


def limit_batches(
    callers: Sequence[T], count: int, *, seed: int = SEED
) -> Iterator[tuple[bytes, T]]:
    """Bodies of `count` batches of `BATCH` checks of rate limits, and whose each is."""
    random = Random(seed)
    for caller in random.choices(callers, cum_weights=_zipf(len(callers)), k=count):
        yield _encode({"checks": [_limit_check(random) for _ in range(BATCH)]}), caller


def allocations(tenant_ids: Sequence[str], *, seed: int = SEED) -> Iterator[bytes]:
    """Bodies of batches of `BATCH` allocations, without end, for projects that never come again."""
    random = Random(seed)
    weights = _zipf(len(tenant_ids))
    for number in count():
        (tenant_id,) = random.choices(tenant_ids, cum_weights=weights)
        names = (f"new-{number:06d}-{index:02d}" for index in range(BATCH))
        yield _encode({"tenant_id": tenant_id, "allocations": [_allocation(n) for n in names]})


def groups(found: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Whole groups of `size` consecutive operations."""
    return [found[start : start + size] for start in range(0, len(found) - size + 1, size)]


def check_body(item: Item) -> bytes:
    return _encode(_check(item))


def check_batch_body(batch: Sequence[Item]) -> bytes:
    return _encode({"checks": [_check(item) for item in batch]})


def record_body(item: Item) -> bytes:
    return _encode(_record(item))


def record_batch_body(batch: Sequence[Item]) -> bytes:
    return _encode({"records": [_record(item) for item in batch]})


def quota_body(item: Item) -> bytes:
    return _encode(_quota_check(item))


def quota_batch_body(batch: Sequence[Item]) -> bytes:
    return _encode({"checks": [_quota_check(item) for item in batch]})


def _check(item: Item) -> dict[str, Any]:
    return {
        "tenant_id": item.place.tenant_id,
        "resource_type": item.resource_type,
        "estimated_cost": item.amount,
        "project_id": item.place.project_id,
        "user_id": item.user_id,
        "ttl_seconds": HOLD_SECONDS,
    }


def _record(item: Item) -> dict[str, Any]:
    return {
        "tenant_id": item.place.tenant_id,
        "resource_type": item.resource_type,
        "cost_amount": item.amount,
        "usage_quantity": item.quantity,
        "usage_unit": "tokens",
        "project_id": item.place.project_id,
        "user_id": item.user_id,
    }


def _quota_check(item: Item) -> dict[str, Any]:
    return {
        "tenant_id": item.place.tenant_id,
        "resource_type": QUOTA_RESOURCE,
        "required_amount": item.amount,
        "project_id": item.place.project_id,
        "user_id": item.user_id,
    }


def _allocation(project_id: str) -> dict[str, Any]:
    return {
        "scope_type": "project",
        "scope_id": project_id,
        "resource_type": QUOTA_RESOURCE,
        "allocated_amount": 1_000,
        "max_burst_amount": 100,
    }


def _limit_check(random: Random) -> dict[str, Any]:
    return {"resource_type": "api", "user_id": _user(random)}


def _item(random: Random, place: Place) -> Item:
    return Item(
        place,
        _user(random),
        random.choice(RESOURCE_TYPES),
        Decimal(random.randrange(1, 100_000)).scaleb(-6),
        random.randrange(1, 8_192),
    )


def _user(random: Random) -> str:
    return f"u-{random.randrange(USERS):03d}"


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / rank for rank in range(1, count + 1)))


_encode: Final = msgspec.json.Encoder(decimal_format="number").encode

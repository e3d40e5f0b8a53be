"""Quotas as they are answered: with what is used of them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import asdict, replace

from fiscus.money import ZERO
from fiscus.quotas.calls import QuotaView
from fiscus.quotas.definitions import remaining
from fiscus.quotas.model import Quota, QuotaBalance
from fiscus.quotas.port import QuotaStore
from fiscus.scopes import EVERY


def view(quota: Quota) -> QuotaView:
    """A quota without its use, as of a version of before."""
    return QuotaView(**asdict(quota), used_amount=None, burst_used=None, remaining_amount=None)


def views_with_use(store: QuotaStore, tenant_id: str, quotas: Sequence[Quota]) -> list[QuotaView]:
    """Quotas with their use as it stands; one query for all of them."""
    of_one_scope = [quota.quota_id for quota in quotas if quota.scope_id != EVERY]
    balances = store.balances(tenant_id, of_one_scope) if of_one_scope else {}
    return [
        # one for every id has as many balances as there are ids
        view(quota) if quota.scope_id == EVERY else _used(quota, balances.get(quota.quota_id))
        for quota in quotas
    ]


def _used(quota: Quota, balance: QuotaBalance | None) -> QuotaView:
    used, burst = (ZERO, ZERO) if balance is None else (balance.used, balance.burst_used)
    return replace(
        view(quota),
        used_amount=used,
        burst_used=burst,
        remaining_amount=remaining(quota, used, burst),
    )

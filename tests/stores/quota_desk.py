"""Short forms of what the tests of quotas do with the store."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fiscus.idempotency import Idempotency, idempotency
from fiscus.ids import uuid7
from fiscus.quotas.calls import DistributeAnswer, DistributeRequest, QuotaRequestSpec
from fiscus.quotas.model import Quota, QuotaRequest, QuotaSpec, UsageKind
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.quotas.store import SqlQuotas
from fiscus.stores.sql.quotas.tables import quota_balances, quota_usage, quotas
from fiscus.stores.sql.tenants import definitions_versions
from fiscus.wire.converting import convert

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
KEPT_UNTIL = datetime(2026, 3, 17, 12, tzinfo=UTC)
_numbers = count(1)


def at(text: str) -> datetime:
    """`"2026-03-10"` or `"2026-03-10T12:30"`, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def quota_spec(**fields: Any) -> QuotaSpec:
    defaults = {
        "scope_type": "project",
        "scope_id": "apollo",
        "resource_type": "gpu_hours",
        "allocated_amount": "100",
    }
    return convert(defaults | fields, QuotaSpec)


class QuotaDesk:
    """One tenant's quotas, and what the ledger would write of them."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self.database = database
        self.tenant_id = tenant_id
        self.quotas = SqlQuotas(database)

    def allocate(self, *, now: datetime = NOW, key: str | None = None, **fields: Any) -> Quota:
        spec = quota_spec(**fields)
        return self.quotas.allocate(
            self.tenant_id, spec, by="ann", now=now, idempotency=self.once(key, spec)
        )

    def replace(self, quota: Quota, *, now: datetime = NOW, **fields: Any) -> Quota:
        force, version = fields.pop("force", False), fields.pop("expected_version", None)
        return self.quotas.replace(
            self.tenant_id,
            quota.quota_id,
            quota_spec(**fields),
            expected_version=version,
            force=force,
            by="bob",
            now=now,
        )

    def distribute(self, *, key: str | None = None, **fields: Any) -> DistributeAnswer:
        defaults = {"resource_type": "gpu_hours", "total_amount": "100", "strategy": "fair_share"}
        request = convert(defaults | fields, DistributeRequest)
        return self.quotas.distribute(
            self.tenant_id, request, by="ann", now=NOW, idempotency=self.once(key, request)
        )

    def ask(self, quota: Quota, amount: str = "10", *, key: str | None = None) -> QuotaRequest:
        fields = {"quota_id": quota.quota_id, "additional_amount": amount, "reason": "a deadline"}
        spec = convert(fields, QuotaRequestSpec)
        return self.quotas.ask(
            self.tenant_id, spec, by="una", now=NOW, idempotency=self.once(key, spec)
        )

    def once(self, key: str | None, body: Any) -> Idempotency | None:
        return None if key is None else idempotency(self.tenant_id, "test", key, body, KEPT_UNTIL)

    def get(self, quota: Quota | str, version: int | None = None) -> Quota:
        quota_id = quota if isinstance(quota, str) else quota.quota_id
        return self.quotas.get(self.tenant_id, quota_id, version)

    def use(
        self, quota: Quota, amount: str, *, scope_id: str | None = None, burst: str = "0"
    ) -> None:
        """A balance; `burst` is the part of `amount` from the burst."""
        values = {
            "quota_id": quota.quota_id,
            "scope_id": quota.scope_id if scope_id is None else scope_id,
            "tenant_id": self.tenant_id,
            "used": Decimal(amount) - Decimal(burst),
            "burst_used": Decimal(burst),
        }
        self.write(lambda connection: connection.execute(sa.insert(quota_balances).values(values)))

    def usage(
        self,
        quota: Quota,
        amount: str,
        moment: str,
        *,
        kind: UsageKind = UsageKind.CONSUME,
        scope_id: str | None = None,
        burst: str = "0",
        consumption_id: str | None = None,
    ) -> str:
        """A row of history; the id of its consumption."""
        consumption_id = consumption_id or uuid7()
        values = {
            "usage_id": next(_numbers),
            "at": at(moment),
            "tenant_id": self.tenant_id,
            "quota_id": quota.quota_id,
            "scope_id": quota.scope_id if scope_id is None else scope_id,
            "kind": kind.value,
            "amount": Decimal(amount),
            "burst": Decimal(burst),
            "used_after": Decimal(amount),
            "consumption_id": consumption_id,
        }
        self.write(lambda connection: connection.execute(sa.insert(quota_usage).values(values)))
        return consumption_id

    def write(self, change: Any) -> None:
        def run(connection: Connection) -> None:
            change(connection)

        self.database.write(self.tenant_id, run)

    def row(self, quota: Quota) -> Any:
        """The quota's row, with the columns that no answer shows."""
        with self.database.read(self.tenant_id) as connection:
            return connection.execute(
                sa.select(quotas).where(quotas.c.quota_id == quota.quota_id)
            ).one()

    def definitions_version(self) -> int:
        with self.database.read(self.tenant_id) as connection:
            return definitions_versions(connection, [self.tenant_id]).get(self.tenant_id, 0)

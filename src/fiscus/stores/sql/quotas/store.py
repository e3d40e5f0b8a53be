"""Quotas: their definitions with all their versions, requests for more, renewal and history.

Every change is one transaction in the tenant's turn. What is consumed is the ledger's to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection, Row

from fiscus.errors import Conflict, FiscusError
from fiscus.idempotency import Idempotency
from fiscus.paging import Page, PageRequest
from fiscus.quotas.calls import (
    DistributeAnswer,
    DistributeRequest,
    QuotaHistory,
    QuotaRequestSpec,
)
from fiscus.quotas.definitions import define, unlike_period
from fiscus.quotas.model import (
    Quota,
    QuotaBalance,
    QuotaPeriod,
    QuotaRequest,
    QuotaSpec,
    RenewalStatus,
)
from fiscus.quotas.port import DueRenewal, QuotaFilter, QuotaRequestFilter, QuotaUse
from fiscus.runtime.portions import ShouldContinue, to_the_end
from fiscus.stores.sql.database import ALL_TENANTS, Database
from fiscus.stores.sql.idempotency import keep_answer, once, stored_answer
from fiscus.stores.sql.most_used import LOOK_SECONDS, quotas_used_most
from fiscus.stores.sql.paging import SortKey, parse_uuid, read_page
from fiscus.stores.sql.quotas import balances, renewals, requests, rows
from fiscus.stores.sql.quotas.allocations import (
    Distribution,
    allocate_each,
    kept_outcomes,
    outcomes_to_keep,
)
from fiscus.stores.sql.quotas.history import drop_before, read_history
from fiscus.stores.sql.quotas.tables import quotas as t
from fiscus.stores.sql.tenants import settings_of, stale_version
from fiscus.wire.decoding import decode

# ix_quotas_newest
_ORDER: Final = (SortKey(t.c.quota_id, parse_uuid),)


class SqlQuotas:
    """`quotas.port.QuotaStore` on SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- allocating

    def allocate(
        self,
        tenant_id: str,
        spec: QuotaSpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> Quota:
        def change(connection: Connection) -> Quota:
            (outcome,) = allocate_each(connection, tenant_id, [spec], by=by, now=now)
            if isinstance(outcome, FiscusError):
                raise outcome
            return outcome

        return self._database.write(tenant_id, once(change, Quota, idempotency, now))

    def allocate_batch(
        self,
        tenant_id: str,
        specs: Sequence[QuotaSpec],
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> list[Quota | FiscusError]:
        def change(connection: Connection) -> list[Quota | FiscusError]:
            if idempotency is not None:
                answer = stored_answer(connection, idempotency, now)
                if answer is not None:
                    return kept_outcomes(answer)
            outcomes = allocate_each(connection, tenant_id, specs, by=by, now=now)
            # a batch without effect is not remembered: sent again, it may have one
            if idempotency is not None and any(isinstance(one, Quota) for one in outcomes):
                keep_answer(connection, idempotency, outcomes_to_keep(outcomes))
            return outcomes

        return self._database.write(tenant_id, change)

    def distribute(
        self,
        tenant_id: str,
        request: DistributeRequest,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> DistributeAnswer:
        distribution = Distribution(self._database, tenant_id, request, now)
        if request.dry_run:
            with self._database.read(tenant_id) as connection:
                return distribution.preview(settings_of(connection, tenant_id))

        def change(connection: Connection) -> DistributeAnswer:
            return distribution.make(connection, by)

        return self._database.write(tenant_id, once(change, DistributeAnswer, idempotency, now))

    # -- reading

    def get(self, tenant_id: str, quota_id: str, version: int | None = None) -> Quota:
        with self._database.read(tenant_id) as connection:
            if version is None:
                return rows.find(connection, tenant_id, quota_id)
            return rows.versions.find(connection, tenant_id, quota_id, version)

    def balances(self, tenant_id: str, quota_ids: Sequence[str]) -> dict[str, QuotaBalance]:
        with self._database.read(tenant_id) as connection:
            return balances.balances_of(connection, tenant_id, quota_ids)

    def list(self, tenant_id: str, wanted: QuotaFilter, page: PageRequest) -> Page[Quota]:
        query = sa.select(t.c.definition).where(
            t.c.tenant_id == tenant_id, t.c.deleted_at.is_(None), *_conditions(wanted)
        )
        with self._database.read(tenant_id) as connection:
            return read_page(
                connection,
                query,
                _ORDER,
                page,
                read=_quotas,
                position=lambda quota: [quota.quota_id],
            )

    def history(
        self,
        tenant_id: str,
        quota_id: str,
        page: PageRequest,
        *,
        scope_id: str | None,
        since: datetime | None,
        until: datetime | None,
    ) -> QuotaHistory:
        with self._database.read(tenant_id) as connection:
            quota = rows.find(connection, tenant_id, quota_id, deleted_too=True)
            return read_history(
                connection, quota, page, scope_id=scope_id, since=since, until=until
            )

    # -- changing

    def replace(
        self,
        tenant_id: str,
        quota_id: str,
        spec: QuotaSpec,
        *,
        expected_version: int | None,
        force: bool,
        by: str,
        now: datetime,
    ) -> Quota:
        expected = spec.version if expected_version is None else expected_version

        def change(connection: Connection) -> Quota:
            old = rows.find(connection, tenant_id, quota_id)
            if expected is not None and expected != old.version:
                raise stale_version("quota", quota_id, old.version)
            _require_same_period_type(old, spec, now)
            new = define(
                _completed(spec, old),
                settings_of(connection, tenant_id),
                quota_id=quota_id,
                tenant_id=tenant_id,
                version=old.version + 1,
                created_at=old.created_at,
                now=now,
            )
            fields = unlike_period(old, new)
            if fields:
                raise _fixed(quota_id, fields)
            if not force and _is_smaller(old, new):
                self._database.without_groups(connection, tenant_id)
                _require_room(connection, new)
            new = replace(new, renewed_from=old.renewed_from)
            if old.renewal_status is RenewalStatus.RENEWED:
                new = replace(new, renewal_status=RenewalStatus.RENEWED)
            rows.put(connection, new, by, now)
            return new

        return self._database.write(tenant_id, change)

    def delete(self, tenant_id: str, quota_id: str, *, force: bool, by: str, now: datetime) -> None:
        def change(connection: Connection) -> None:
            old = rows.find(connection, tenant_id, quota_id)
            if old.period_start <= now < old.period_end and not force:
                self._database.without_groups(connection, tenant_id)
                _require_unused(connection, old)
            last = replace(old, version=old.version + 1, updated_at=now)
            rows.put(connection, last, by, now, deleted=True)

        self._database.write(tenant_id, change)

    def most_used(self, now: datetime, most: int) -> list[QuotaUse]:
        with self._database.read_in_time(LOOK_SECONDS, ALL_TENANTS) as connection:
            return quotas_used_most(connection, now, most, is_sqlite=self._database.is_sqlite)

    # -- requests for more

    def ask(
        self,
        tenant_id: str,
        spec: QuotaRequestSpec,
        *,
        by: str,
        now: datetime,
        idempotency: Idempotency | None = None,
    ) -> QuotaRequest:
        def change(connection: Connection) -> QuotaRequest:
            return requests.ask(connection, tenant_id, spec, by=by, now=now)

        return self._database.write(tenant_id, once(change, QuotaRequest, idempotency, now))

    def requests(
        self, tenant_id: str, wanted: QuotaRequestFilter, page: PageRequest
    ) -> Page[QuotaRequest]:
        with self._database.read(tenant_id) as connection:
            return requests.read_requests(connection, tenant_id, wanted, page)

    def decide_request(
        self,
        tenant_id: str,
        request_id: str,
        *,
        approve: bool,
        comment: str | None,
        by: str,
        now: datetime,
    ) -> QuotaRequest:
        return self._database.write(
            tenant_id,
            lambda connection: requests.decide(
                connection,
                tenant_id,
                request_id,
                approve=approve,
                comment=comment,
                by=by,
                now=now,
            ),
        )

    # -- for the worker

    def due_renewals(self, now: datetime, most: int) -> list[DueRenewal]:
        with self._database.read(ALL_TENANTS) as connection:
            return renewals.due_renewals(connection, now, most)

    def renew(self, tenant_id: str, quota_id: str, now: datetime) -> Quota | None:
        return self._database.write(
            tenant_id,
            lambda connection: renewals.renew(connection, tenant_id, quota_id, now),
        )

    def renewal_failed(self, due: DueRenewal, reason: str, now: datetime) -> bool:
        return self._database.write(
            due.tenant_id,
            lambda connection: renewals.failed(connection, due, reason, now),
        )

    def drop_history_before(self, moment: datetime, goes_on: ShouldContinue = to_the_end) -> int:
        return drop_before(self._database, moment, goes_on)


def _conditions(wanted: QuotaFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = [
        column == value
        for column, value in (
            (t.c.scope_type, wanted.scope_type),
            (t.c.scope_id, wanted.scope_id),
            (t.c.resource_type, wanted.resource_type),
        )
        if value is not None
    ]
    if wanted.active_at is not None:
        found += [t.c.period_start <= wanted.active_at, t.c.period_end > wanted.active_at]
    return found


def _quotas(found: Sequence[Row[Any]]) -> list[Quota]:
    return [decode(row.definition, Quota) for row in found]


def _completed(spec: QuotaSpec, old: Quota) -> QuotaSpec:
    """A replacement with the quota's own period, zone and currency where it names none."""
    end = spec.period_end
    if end is None and spec.period_type is QuotaPeriod.CUSTOM:
        end = old.period_end
    return replace(
        spec,
        period_start=old.period_start if spec.period_start is None else spec.period_start,
        period_end=end,
        timezone=old.timezone if spec.timezone is None else spec.timezone,
        currency=old.currency if spec.currency is None else spec.currency,
    )


def _require_same_period_type(old: Quota, spec: QuotaSpec, now: datetime) -> None:
    """Before the new period is worked out: what is wrong with that would say less."""
    if spec.period_type is not old.period_type:
        raise _fixed(old.quota_id, ["period_type"])
    if old.period_end <= now:
        raise Conflict(
            "The quota's period is over",
            details={"quota_id": old.quota_id, "period_end": old.period_end.isoformat()},
            suggested_action="Change the quota that holds now, or allocate a new one.",
        )


def _is_smaller(old: Quota, new: Quota) -> bool:
    return (
        new.allocated_amount < old.allocated_amount or new.max_burst_amount < old.max_burst_amount
    )


def _require_unused(connection: Connection, quota: Quota) -> None:
    """Raises `Conflict` when something of a quota is used whose period runs."""
    if balances.is_used(connection, quota):
        raise Conflict(
            "The quota's period runs, and something of it is used",
            details={"quota_id": quota.quota_id, "period_end": quota.period_end.isoformat()},
            suggested_action="Wait until the period is over, or delete with force=true.",
        )


def _require_room(connection: Connection, new: Quota) -> None:
    """Raises `Conflict` when a quota would be below what is used of it already."""
    scope_id = balances.passes(connection, new)
    if scope_id is not None:
        raise Conflict(
            "More than that is used of the quota already",
            details={"quota_id": new.quota_id, "scope_id": scope_id},
            suggested_action="Send a larger amount, or replace with force=true.",
        )


def _fixed(quota_id: str, fields: list[str]) -> Conflict:
    return Conflict(
        f"A quota keeps its {', '.join(fields)}",
        details={"quota_id": quota_id, "fields": fields},
        suggested_action="Allocate a new quota, and delete this one if it is not wanted.",
    )

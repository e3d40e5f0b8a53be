"""Allocating quotas: one, several of which each stands alone, or a total shared out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy.engine import Connection

from fiscus.errors import Conflict, FiscusError, ValidationError
from fiscus.ids import uuid7
from fiscus.money import Amount, multiply, parse_not_negative
from fiscus.quotas.calls import AllocateItem, DistributeAnswer, DistributeRequest, Entity, Part
from fiscus.quotas.definitions import define
from fiscus.quotas.model import Quota, QuotaSpec, Strategy, Terms
from fiscus.quotas.strategies import USAGE_DAYS, share_out
from fiscus.scopes import ScopeType
from fiscus.stores.sql.database import Database
from fiscus.stores.sql.quotas import rows
from fiscus.stores.sql.quotas.history import used_since
from fiscus.stores.sql.tenants import settings_of
from fiscus.stores.sql.versions import replaces_none
from fiscus.tenants import TenantSettings
from fiscus.wire.decoding import decode
from fiscus.wire.encoding import encode
from fiscus.wire.items import item_error

_TERMS: Final = Terms.__struct_fields__


# ---------------------------------------------------------------- each for itself


def allocate_each(
    connection: Connection, tenant_id: str, specs: Sequence[QuotaSpec], *, by: str, now: datetime
) -> list[Quota | FiscusError]:
    """A quota for each spec, or what is wrong with it; the earlier of two that overlap is made."""
    settings = settings_of(connection, tenant_id)
    outcomes = [_defined(spec, settings, tenant_id, now) for spec in specs]
    wanted = [one for one in outcomes if isinstance(one, Quota)]
    taken = rows.TakenPeriods(connection, tenant_id, wanted)
    outcomes = [_taking(one, taken) for one in outcomes]
    made = [one for one in outcomes if isinstance(one, Quota)]
    if made:
        rows.insert(connection, tenant_id, made, by, now)
    return outcomes


def outcomes_to_keep(outcomes: Sequence[Quota | FiscusError]) -> bytes:
    """What a batch answers, to be kept under its idempotency key."""
    return encode(
        [
            AllocateItem(quota=None, error=item_error(one))
            if isinstance(one, FiscusError)
            else AllocateItem(quota=one, error=None)
            for one in outcomes
        ]
    )


def kept_outcomes(answer: bytes) -> list[Quota | FiscusError]:
    """The reverse of `outcomes_to_keep`."""
    return [_outcome(item) for item in decode(answer, list[AllocateItem])]


def _defined(
    spec: QuotaSpec, settings: TenantSettings, tenant_id: str, now: datetime
) -> Quota | FiscusError:
    if spec.version is not None:
        return replaces_none("quota")
    try:
        return _define(spec, settings, tenant_id, now)
    except ValidationError as error:
        return error


def _define(spec: QuotaSpec, settings: TenantSettings, tenant_id: str, now: datetime) -> Quota:
    return define(
        spec,
        settings,
        quota_id=uuid7(),
        tenant_id=tenant_id,
        version=1,
        created_at=now,
        now=now,
    )


def _taking(outcome: Quota | FiscusError, taken: rows.TakenPeriods) -> Quota | FiscusError:
    if isinstance(outcome, Quota):
        try:
            taken.take(outcome)
        except Conflict as error:
            return error
    return outcome


def _outcome(item: AllocateItem) -> Quota | FiscusError:
    if item.quota is not None:
        return item.quota
    error = item.error
    assert error is not None
    if error.error_code == ValidationError.code:
        return ValidationError(
            error.message,
            field=str(error.details["field"]),
            suggested_action=error.suggested_action,
        )
    return Conflict(error.message, details=error.details, suggested_action=error.suggested_action)


# ---------------------------------------------------------------- a total shared out


class Distribution:
    """Who gets what of a total: worked out before the turn that makes the quotas."""

    def __init__(
        self, database: Database, tenant_id: str, request: DistributeRequest, now: datetime
    ) -> None:
        """Raises `ValidationError` naming the field."""
        self._request = request
        self._tenant_id = tenant_id
        self._now = now
        self._usage = _usage(database, tenant_id, request, now)
        self._shares = share_out(request, self._usage or {})

    def preview(self, settings: TenantSettings) -> DistributeAnswer:
        """The parts, as quotas that could be allocated, but nothing of it made."""
        return self._answer(self._defined(settings), made=False)

    def make(self, connection: Connection, by: str) -> DistributeAnswer:
        """A quota for every part above 0, all or none. Raises `Conflict` for one that overlaps."""
        quotas = self._defined(settings_of(connection, self._tenant_id))
        wanted = [quota for quota in quotas if quota is not None]
        taken = rows.TakenPeriods(connection, self._tenant_id, wanted)
        for quota in wanted:
            taken.take(quota)
        rows.insert(connection, self._tenant_id, wanted, by, self._now)
        return self._answer(quotas, made=True)

    def _defined(self, settings: TenantSettings) -> list[Quota | None]:
        """The quotas in order of entities, None for a part of 0."""
        request = self._request
        terms: dict[str, Any] = {name: getattr(request, name) for name in _TERMS}
        found: list[Quota | None] = []
        for index, (entity, share) in enumerate(zip(request.entities, self._shares, strict=True)):
            if not share:
                found.append(None)
                continue
            spec = QuotaSpec(
                scope_type=entity.scope_type,
                scope_id=entity.scope_id,
                allocated_amount=Amount(share),
                max_burst_amount=_burst(request, share),
                strategy=request.strategy,
                **terms,
            )
            try:
                found.append(_define(spec, settings, self._tenant_id, self._now))
            except ValidationError as error:
                raise _of_entity(error, index) from None
        return found

    def _answer(self, quotas: Sequence[Quota | None], *, made: bool) -> DistributeAnswer:
        request = self._request
        parts = zip(request.entities, self._shares, quotas, strict=True)
        return DistributeAnswer(
            total_amount=Decimal(request.total_amount),
            strategy=request.strategy,
            dry_run=not made,
            parts=[
                Part(
                    scope_type=entity.scope_type,
                    scope_id=entity.scope_id,
                    allocated_amount=share,
                    usage=self._used(entity),
                    quota_id=quota.quota_id if made and quota is not None else None,
                )
                for entity, share, quota in parts
            ],
        )

    def _used(self, entity: Entity) -> Decimal | None:
        if self._usage is None:
            return None
        return self._usage[entity.scope_type, entity.scope_id]


def _usage(
    database: Database, tenant_id: str, request: DistributeRequest, now: datetime
) -> dict[tuple[ScopeType, str], Decimal] | None:
    """What the entities used of late, for a strategy that asks for it."""
    if Strategy.DYNAMIC not in {request.strategy, request.then}:
        return None
    wanted = [(entity.scope_type, entity.scope_id) for entity in request.entities]
    since = now - timedelta(days=USAGE_DAYS)
    with database.read(tenant_id) as connection:
        return used_since(connection, tenant_id, request.resource_type, wanted, since)


def _burst(request: DistributeRequest, share: Decimal) -> Amount | None:
    if request.max_burst_ratio is None:
        return None
    ratio = parse_not_negative(request.max_burst_ratio, "max_burst_ratio")
    return Amount(parse_not_negative(multiply(share, ratio), "max_burst_ratio"))


def _of_entity(error: ValidationError, index: int) -> ValidationError:
    """What is wrong with one entity's scope, said of the entity; the terms are everybody's."""
    if error.field != "scope_id":
        return error
    return ValidationError(
        error.message,
        field=f"entities[{index}].scope_id",
        suggested_action=error.suggested_action,
    )

"""The statements of quotas in a ledger's transaction, and how their rows are read and made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from fiscus.ledger.port import Changes
from fiscus.money import add
from fiscus.operations import Operation
from fiscus.quotas.model import (
    Consumption,
    ConsumptionLine,
    Quota,
    QuotaBalance,
    QuotaKey,
    QuotaUsage,
)
from fiscus.runtime.repeated import repeated
from fiscus.stores.sql.bulk import Columns, Row, Statement, insert
from fiscus.stores.sql.ledger.driver import Values
from fiscus.stores.sql.ledger.read import TENANT_AFTER
from fiscus.wire.decoding import decode

_Lines: Final = tuple[ConsumptionLine, ...]
_encode_lines: Final = msgspec.json.Encoder().encode
"""Amounts as strings: SQLite's own functions for JSON would read numbers as floats."""

# ---------------------------------------------------------------- reading

CONSUMPTION_ID = Columns(consumption_id="uuid")
CONSUMPTIONS = """
    SELECT CAST(c.consumption_id AS TEXT), c.tenant_id, c.resource_type, c.amount, c.released,
           c.project_id, c.user_id, c.feature_id, c.operation_id, c.created_at, c.lines
    FROM {rows} JOIN quota_consumptions c ON c.consumption_id = r.consumption_id
    {lock_c}
"""

QUOTA_KEY = Columns(quota_id="uuid", scope_id="text")
QUOTA_BALANCES = """
    SELECT CAST(q.quota_id AS TEXT), q.scope_id, q.tenant_id, q.used, q.burst_used
    FROM {rows} JOIN quota_balances q ON q.quota_id = r.quota_id AND q.scope_id = r.scope_id
    {lock_q}
"""

# These take one row, which LIMIT tells PostgreSQL. Who knows nothing yet needs what still holds,
# not the years of quotas that are over; what changed since a version is little.
_TENANT_ENDING_AFTER = Columns(tenant_id="text", moment="timestamptz")
_RUNNING_QUOTAS = """
    SELECT CAST(q.quota_id AS TEXT), q.definition, q.deleted_at
    FROM (SELECT * FROM {rows} LIMIT 1) AS r JOIN quotas q
      ON q.tenant_id = r.tenant_id AND q.period_end > r.moment
    WHERE q.deleted_at IS NULL
"""
_CHANGED_QUOTAS = """
    SELECT CAST(q.quota_id AS TEXT), q.definition, q.deleted_at
    FROM (SELECT * FROM {rows} LIMIT 1) AS r JOIN quotas q
      ON q.tenant_id = r.tenant_id AND q.definitions_version > r.after_version
"""

# ---------------------------------------------------------------- writing

QUOTA_BALANCE = Columns(
    quota_id="uuid", scope_id="text", tenant_id="text", used="numeric", burst_used="numeric"
)
ADD_QUOTA_BALANCES = f"""
    INSERT INTO quota_balances ({QUOTA_BALANCE.list})
    SELECT {QUOTA_BALANCE.list} FROM {{rows}} WHERE true ORDER BY quota_id, scope_id
    ON CONFLICT (quota_id, scope_id) DO NOTHING
"""
_PUT_BALANCES = f"""
    INSERT INTO quota_balances ({QUOTA_BALANCE.list})
    SELECT {QUOTA_BALANCE.list} FROM {{rows}} WHERE true
    ON CONFLICT (quota_id, scope_id) DO UPDATE SET
        used = excluded.used, burst_used = excluded.burst_used
"""

_CONSUMPTION = Columns(
    alike=("released",),
    consumption_id="uuid",
    tenant_id="text",
    resource_type="text",
    amount="numeric",
    released="numeric",
    project_id="text",
    user_id="text",
    feature_id="text",
    operation_id="text",
    created_at="timestamptz",
    lines="text",
)
_ADD_CONSUMPTIONS = insert("quota_consumptions")
_RELEASED = Columns(consumption_id="uuid", released="numeric", lines="text")
_CHANGE_CONSUMPTIONS = """
    UPDATE quota_consumptions SET released = r.released, lines = r.lines
    FROM {rows} WHERE quota_consumptions.consumption_id = r.consumption_id
"""

_USAGE = Columns(
    alike=("kind", "burst"),
    usage_id="bigint",
    at="timestamptz",
    tenant_id="text",
    quota_id="uuid",
    scope_id="text",
    kind="text",
    amount="numeric",
    burst="numeric",
    used_after="numeric",
    consumption_id="uuid",
)
_ADD_USAGE = insert("quota_usage")


def quotas_after(tenant_id: str, after_version: int, ending_after: object) -> Statement:
    """What `read_quotas` reads; `ending_after` is a time as the database takes it."""
    if after_version:
        return Statement(_CHANGED_QUOTAS, TENANT_AFTER, [(tenant_id, after_version)])
    return Statement(_RUNNING_QUOTAS, _TENANT_ENDING_AFTER, [(tenant_id, ending_after)])


def read_quotas(rows: list[Row]) -> tuple[list[Quota], list[str]]:
    """Live quotas, and the ids of deleted ones."""
    return (
        [decode(definition, Quota) for _, definition, gone in rows if gone is None],
        [quota_id for quota_id, _, gone in rows if gone is not None],
    )


class QuotaRows:
    """Rows to values of quotas and back, by the database's way of taking and giving them."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._time = repeated(values.time)
        self._amount = repeated(values.amount)
        self._rest = repeated(values.amount)

    def balances(self, rows: list[Row]) -> dict[QuotaKey, QuotaBalance]:
        read_amount = self._values.read_amount
        found: dict[QuotaKey, QuotaBalance] = {}
        for quota_id, scope_id, tenant_id, used, burst_used in rows:
            key = QuotaKey(quota_id, scope_id)
            found[key] = QuotaBalance(key, tenant_id, read_amount(used), read_amount(burst_used))
        return found

    def consumptions(self, rows: list[Row]) -> dict[str, Consumption]:
        return {row[0]: self._consumption(row) for row in rows}

    def _consumption(self, row: Row) -> Consumption:
        consumption_id, tenant_id, resource_type, amount, released, *ids, named, at, lines = row
        values = self._values
        return Consumption(
            consumption_id=consumption_id,
            tenant_id=tenant_id,
            operation=Operation(tenant_id, resource_type, *ids),
            operation_id=named,
            amount=values.read_amount(amount),
            released=values.read_amount(released),
            created_at=values.read_time(at),
            lines=tuple(sorted(decode(lines, _Lines), key=_key_of)),
        )

    # -- to rows

    def balance_row(self, balance: QuotaBalance) -> Row:
        amount = self._values.amount
        return (*balance.key, balance.tenant_id, amount(balance.used), amount(balance.burst_used))

    def statements(self, changes: Changes) -> list[Statement]:
        """Everything of quotas that a group writes."""
        if not changes.quota_balances and not changes.new_consumptions:
            return []
        new, changed = changes.new_consumptions.values(), changes.changed_consumptions.values()
        gathered = (
            (_PUT_BALANCES, QUOTA_BALANCE, map(self.balance_row, changes.quota_balances.values())),
            (_ADD_CONSUMPTIONS, _CONSUMPTION, map(self._consumption_row, new)),
            (_CHANGE_CONSUMPTIONS, _RELEASED, map(self._released_row, changed)),
            (_ADD_USAGE, _USAGE, self._usage_rows(changes.quota_usage)),
        )
        made = [Statement(sql, columns, list(rows)) for sql, columns, rows in gathered]
        return [statement for statement in made if statement.rows]

    def _consumption_row(self, one: Consumption) -> Row:
        operation = one.operation
        return (
            one.consumption_id,
            one.tenant_id,
            operation.resource_type,
            self._amount(one.amount),
            self._rest(one.released),
            operation.project_id,
            operation.user_id,
            operation.feature_id,
            one.operation_id,
            self._time(one.created_at),
            _encode_lines(one.lines).decode(),
        )

    def _released_row(self, one: Consumption) -> Row:
        lines = _encode_lines(one.lines).decode()
        return one.consumption_id, self._values.amount(one.released), lines

    def _usage_rows(self, usages: Sequence[QuotaUsage]) -> Iterator[Row]:
        """Rows of history, of which most take what their consumption does, and no burst."""
        give, time = self._values.amount, self._time
        amount = amount_given = burst = burst_given = None
        for one in usages:
            consumption, balance = one.consumption, one.balance
            if one.amount is not amount:
                amount, amount_given = one.amount, give(one.amount)
            if one.burst is not burst:
                burst, burst_given = one.burst, give(one.burst)
            yield (
                one.usage_id,
                time(one.at),
                consumption.tenant_id,
                *balance.key,
                one.kind,
                amount_given,
                burst_given,
                give(add(balance.used, balance.burst_used)),
                consumption.consumption_id,
            )


def _key_of(line: ConsumptionLine) -> QuotaKey:
    return line.key

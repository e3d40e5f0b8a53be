"""Quotas by SPEC section 5, told again in fractions and lists: what the ledger must do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

SPECIFIC = {"tenant": 0, "project": 1, "user": 2, "feature": 3}
KEY_WINDOW = timedelta(hours=24)
NOTHING = (Fraction(0), Fraction(0))


@dataclass
class RefQuota:
    quota_id: str
    scope_type: str
    scope_id: str
    resource_type: str
    amount: Fraction
    burst: Fraction
    start: datetime
    end: datetime
    used: dict[str, tuple[Fraction, Fraction]] = field(default_factory=dict)
    """Of the allocation and of the burst, per scope id; kept when the quota is deleted."""

    def room(self, scope_id: str) -> Fraction:
        return self.amount + self.burst - sum(self.used.get(scope_id, NOTHING))


@dataclass
class RefConsumption:
    left: Fraction
    lines: list[list[object]]
    """Quota, scope id and what is still out of its burst."""
    real_id: str | None = None


@dataclass
class Expected:
    """What an answer must say."""

    error: str | None = None
    allowed: bool = True
    rooms: dict[str, Fraction] = field(default_factory=dict)
    """After the decision, by quota."""
    deciding: str | None = None
    from_burst: dict[str, Fraction] = field(default_factory=dict)
    consumption: RefConsumption | None = None
    left: Fraction = Fraction(0)
    repeats: Expected | None = None


@dataclass
class QuotaReference:
    """One tenant's quotas."""

    quotas: dict[str, RefQuota] = field(default_factory=dict)
    deleted: list[RefQuota] = field(default_factory=list)
    consumptions: list[RefConsumption] = field(default_factory=list)
    answers: dict[tuple[str, str], tuple[object, datetime, Expected]] = field(default_factory=dict)

    def once(
        self,
        kind: str,
        key: str | None,
        body: object,
        now: datetime,
        act: Callable[[], Expected],
    ) -> Expected:
        """The answer kept under `key`, or that of `act`; errors are not kept."""
        if key is None:
            return act()
        kept = self.answers.get((kind, key))
        if kept is not None and kept[1] > now:
            if kept[0] != body:
                return Expected(error="IDEMPOTENCY_CONFLICT")
            return Expected(repeats=kept[2])
        expected = act()
        if expected.error is None:
            self.answers[kind, key] = (body, now + KEY_WINDOW, expected)
        return expected

    def consume(
        self, given: dict[str, str], resource: str, amount: Fraction, *, take: bool, now: datetime
    ) -> Expected:
        matches = [
            (quota, given[quota.scope_type])
            for quota in self.quotas.values()
            if quota.resource_type == resource
            and given.get(quota.scope_type)
            and quota.scope_id in {"*", given[quota.scope_type]}
            and quota.start <= now < quota.end
        ]
        denies = [amount > max(quota.room(scope), 0) for quota, scope in matches]
        expected = Expected(allowed=not any(denies))
        if matches:
            expected.deciding = min(
                (not denied, -SPECIFIC[quota.scope_type], quota.room(scope), quota.quota_id)
                for (quota, scope), denied in zip(matches, denies, strict=True)
            )[3]
        if matches and take and expected.allowed:
            expected.consumption = RefConsumption(amount, [])
            self.consumptions.append(expected.consumption)
            for quota, scope in matches:
                used, bursts = quota.used.get(scope, NOTHING)
                of_burst = amount - min(amount, max(quota.amount - used, Fraction(0)))
                quota.used[scope] = (used + amount - of_burst, bursts + of_burst)
                expected.from_burst[quota.quota_id] = of_burst
                expected.consumption.lines.append([quota, scope, of_burst])
        expected.rooms = {quota.quota_id: quota.room(scope) for quota, scope in matches}
        return expected

    def give_back(self, consumption: RefConsumption, amount: Fraction | None) -> Expected:
        wanted = consumption.left if amount is None else amount
        if wanted > consumption.left:
            return Expected(error="CONFLICT")
        consumption.left -= wanted
        for line in consumption.lines:
            quota, scope, out = line
            assert isinstance(quota, RefQuota)
            assert isinstance(scope, str)
            assert isinstance(out, Fraction)
            of_burst = min(wanted, out)
            used, bursts = quota.used[scope]
            quota.used[scope] = (used - wanted + of_burst, bursts - of_burst)
            line[2] = out - of_burst
        return Expected(left=consumption.left)

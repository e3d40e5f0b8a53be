"""A second, small implementation of the ledger's rules, to hold the real one to.

Everything is in memory, one command after the other, amounts as `Fraction` rounded only where the
contract says so. It knows periods in UTC only and takes exchange rates as given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

SPECIFICITY = {"tenant": 0, "project": 1, "user": 2, "feature": 3}
CONFLICT, NOT_FOUND, REUSED = "CONFLICT", "NOT_FOUND", "IDEMPOTENCY_CONFLICT"


def rounded(number: Fraction) -> Fraction:
    """To 12 places, half even."""
    scaled = number * 10**12
    return Fraction(round(scaled), 10**12)  # Python rounds a Fraction half to even


@dataclass
class RefBudget:
    budget_id: str
    amount: Fraction
    action: str
    scope_type: str
    scope_id: str
    period: str
    currency: str
    resource_type: str | None
    shadow: bool
    frozen: bool
    start_ratio: Fraction = Fraction(1, 2)
    floor: Fraction = Fraction(1, 5)
    anchors: dict[str, datetime] = field(default_factory=dict)


@dataclass
class Use:
    spent: Fraction = Fraction(0)
    reserved: Fraction = Fraction(0)
    credit: Fraction = Fraction(0)


UseKey = tuple[str, str, datetime]


@dataclass
class Operation:
    ids: dict[str, str | None]
    resource_type: str


@dataclass
class RefReservation:
    operation: Operation
    operation_id: str | None
    estimate: Fraction
    currency: str
    expires_at: datetime
    lines: list[tuple[UseKey, Fraction]]
    status: str = "pending"
    settled: tuple[Fraction, str] | None = None
    answer: Expected | None = None
    real_id: str | None = None


@dataclass
class Expected:
    """What the ledger must answer: an error code, or these."""

    error: str | None = None
    allowed: bool | None = None
    decisions: dict[str, str] = field(default_factory=dict)
    deciding: str | None = None
    flags: list[str] = field(default_factory=list)
    status: str | None = None
    reservation: RefReservation | None = None
    charged: dict[str, Fraction] = field(default_factory=dict)
    repeats: Expected | None = None
    real_id: str | None = None
    """Of the record, once the real answer is known; a repetition must name the same."""


RateOf = Callable[[str, str, datetime], Fraction]


class Reference:
    """One tenant's budgets, reservations and records."""

    def __init__(self, tenant_id: str, rate_of: RateOf) -> None:
        self.tenant_id = tenant_id
        self.budgets: dict[str, RefBudget] = {}
        self.uses: dict[UseKey, Use] = {}
        self.reservations: list[RefReservation] = []
        self.record_count = 0
        self._rate_of = rate_of
        self._operations: dict[str, tuple[Fraction, str, Expected]] = {}
        self._answers: dict[tuple[str, str], tuple[object, Expected, datetime]] = {}

    # -- idempotency

    def once(
        self,
        operation: str,
        key: str | None,
        body: object,
        now: datetime,
        keep: timedelta,
        act: Callable[[], Expected],
    ) -> Expected:
        if key is None:
            return act()
        stored = self._answers.get((operation, key))
        if stored is not None and stored[2] > now:
            if stored[0] != body:
                return Expected(error=REUSED)
            return Expected(repeats=stored[1], reservation=stored[1].reservation)
        answer = act()
        if answer.error is None:
            self._answers[operation, key] = (body, answer, now + keep)
        return answer

    # -- checks

    def check(
        self,
        operation: Operation,
        operation_id: str | None,
        estimate: Fraction,
        currency: str,
        *,
        reserve: bool,
        ttl: int,
        now: datetime,
    ) -> Expected:
        matched = self._matching(operation, now)
        expected, after = self._decide(matched, estimate, currency, now)
        held = any(self._use(key).reserved for _, key in matched)
        clear = set(expected.decisions.values()) <= {"allow"} and all(
            self._share(budget, self._use(key)) == 1
            for budget, key in matched
            if budget.action == "throttle" and not budget.frozen
        )
        if not clear and held and self.free_due(now):
            expected, after = self._decide(matched, estimate, currency, now)
        if not reserve:
            return expected
        for (_, key), credit in zip(matched, after, strict=True):
            if credit is not None:
                self._use(key).credit = credit
        if expected.allowed:
            lines: list[tuple[UseKey, Fraction]] = []
            for budget, key in matched:
                amount = self._converted(estimate, currency, budget.currency, now)
                self._use(key).reserved += amount
                lines.append((key, amount))
                self._anchor(budget, key[1], now)
            expected.reservation = RefReservation(
                operation, operation_id, estimate, currency, now + timedelta(seconds=ttl), lines
            )
            self.reservations.append(expected.reservation)
        return expected

    def _decide(
        self,
        matched: list[tuple[RefBudget, UseKey]],
        estimate: Fraction,
        currency: str,
        now: datetime,
    ) -> tuple[Expected, list[Fraction | None]]:
        """The outcome, and each matching budget's throttle credit where it changes."""
        words: dict[str, str] = {}
        deny: set[str] = set()
        rooms: dict[str, Fraction] = {}
        for budget, key in matched:
            use = self._use(key)
            room = budget.amount - use.spent - use.reserved
            needed = self._converted(estimate, currency, budget.currency, now)
            rooms[budget.budget_id] = room / self._rate(currency, budget.currency, now)
            word = "allow"
            if budget.frozen:
                word = "frozen"
            elif room < needed:
                word = {"hard_stop": "deny", "escalate": "escalate", "soft_limit": "warn"}.get(
                    budget.action, "allow"
                )
            if word in {"frozen", "deny", "escalate"}:
                if budget.shadow:
                    word = f"shadow_{word}"
                else:
                    deny.add(budget.budget_id)
            words[budget.budget_id] = word

        def order(one: RefBudget) -> tuple[object, ...]:
            return (
                one.budget_id not in deny,
                -SPECIFICITY[one.scope_type],
                rooms[one.budget_id],
                one.budget_id,
            )

        uses = {budget.budget_id: self._use(key) for budget, key in matched}
        next_credits: dict[str, Fraction] = {}
        if not deny:
            for budget in sorted((one for one, _ in matched), key=order):
                if budget.action != "throttle" or budget.frozen:
                    continue
                use = uses[budget.budget_id]
                share = self._share(budget, use)
                credit = use.credit + share
                if credit >= 1:
                    next_credits[budget.budget_id] = credit - 1
                elif budget.shadow:
                    next_credits[budget.budget_id] = credit
                    words[budget.budget_id] = "shadow_throttle"
                else:
                    words[budget.budget_id] = "throttle"
                    deny.add(budget.budget_id)
                    next_credits = {budget.budget_id: credit}
                    break
        deciding = min((one for one, _ in matched), key=order).budget_id if matched else None
        return (
            Expected(allowed=not deny, decisions=words, deciding=deciding),
            [next_credits.get(budget.budget_id) for budget, _ in matched],
        )

    def _share(self, budget: RefBudget, use: Use) -> Fraction:
        ratio = rounded((use.spent + use.reserved) / budget.amount)
        if ratio <= budget.start_ratio:
            return Fraction(1)
        if ratio >= 1:
            return budget.floor
        fallen = (ratio - budget.start_ratio) / (1 - budget.start_ratio)
        return rounded(1 - fallen * (1 - budget.floor))

    def all_or_nothing(
        self, decide: Callable[[], list[Expected]], look: Callable[[int], Expected]
    ) -> list[Expected]:
        """Run checks; unless every one is allowed, put holds back and only look."""
        before_uses = {key: Use(**vars(use)) for key, use in self.uses.items()}
        before = list(self.reservations)
        statuses = [(one, one.status) for one in before]
        anchors = {one.budget_id: dict(one.anchors) for one in self.budgets.values()}
        results = decide()
        if all(one.allowed for one in results):
            return results
        # a throttle's accumulator stands, or the same batch would be refused for ever
        throttled = {
            budget_id
            for one in results
            if not one.allowed
            for budget_id, word in one.decisions.items()
            if word == "throttle"
        }
        for key, use in self.uses.items():
            if key[0] in throttled and key in before_uses:
                before_uses[key].credit = use.credit
            elif key[0] in throttled:
                before_uses[key] = Use(credit=use.credit)
        self.uses = before_uses
        self.reservations = before
        for one, status in statuses:
            one.status = status
        for budget_id, kept in anchors.items():
            self.budgets[budget_id].anchors = kept
        return [look(index) if one.allowed else one for index, one in enumerate(results)]

    # -- reservations

    def free_due(self, now: datetime) -> int:
        due = [one for one in self.reservations if self._is_due(one, now)]
        for one in due:
            self._close(one, "expired")
        return len(due)

    def release(self, one: RefReservation, now: datetime) -> Expected:
        if self._is_due(one, now):
            self._close(one, "expired")
        if one.status == "settled":
            return Expected(error=CONFLICT)
        if one.status == "pending":
            self._close(one, "released")
        return Expected(status=one.status)

    def extend(self, one: RefReservation, ttl: int, now: datetime) -> Expected:
        if one.status != "pending" or self._is_due(one, now):
            return Expected(error=CONFLICT)
        one.expires_at = now + timedelta(seconds=ttl)
        return Expected(status="pending")

    def settle(
        self,
        one: RefReservation,
        actual: Fraction,
        currency: str | None,
        at: datetime,
        now: datetime,
    ) -> Expected:
        currency = currency or one.currency
        if one.settled is not None:
            if one.settled == (actual, currency):
                return Expected(repeats=one.answer)
            return Expected(error=CONFLICT)
        earlier = self._operations.get(one.operation_id or "")
        if earlier is not None and earlier[:2] != (actual, currency):
            return Expected(error=CONFLICT)
        if self._is_due(one, now):
            self._close(one, "expired")
        flags: list[str] = []
        if one.status == "pending":
            self._close(one, "settled")
        else:
            flags.append("late")
        if self._converted(actual, currency, one.currency, at) > one.estimate:
            flags.append("excess")
        one.settled = (actual, currency)
        answer = self._record(one.operation, one.operation_id, actual, currency, at, flags, one)
        answer.status = one.status
        one.answer = answer
        return answer

    def record(
        self,
        operation: Operation,
        operation_id: str | None,
        actual: Fraction,
        currency: str,
        at: datetime,
    ) -> Expected:
        return self._record(operation, operation_id, actual, currency, at, [], None)

    def _record(
        self,
        operation: Operation,
        operation_id: str | None,
        actual: Fraction,
        currency: str,
        at: datetime,
        flags: list[str],
        settled: RefReservation | None,
    ) -> Expected:
        if operation_id is not None and operation_id in self._operations:
            amount, of, first = self._operations[operation_id]
            if (amount, of) != (actual, currency):
                return Expected(error=CONFLICT)
            return Expected(flags=first.flags, repeats=first)
        charged: dict[str, Fraction] = {}
        held = {} if settled is None else dict(settled.lines)
        for budget, key in self._matching(operation, at):
            amount = self._converted(actual, currency, budget.currency, at)
            self._use(key).spent += amount
            charged[budget.budget_id] = amount
            self._anchor(budget, key[1], at)
            if "late" in flags:
                continue
            if key not in held:
                flags = [*flags, "unreserved"]
            elif amount > held[key]:
                flags = [*flags, "excess"]
        flags = list(dict.fromkeys(flags))
        self.record_count += 1
        answer = Expected(flags=flags, charged=charged)
        if operation_id is not None:
            self._operations[operation_id] = (actual, currency, answer)
        return answer

    def _is_due(self, one: RefReservation, now: datetime) -> bool:
        return one.status == "pending" and one.expires_at <= now

    def _close(self, one: RefReservation, status: str) -> None:
        for key, amount in one.lines:
            self._use(key).reserved -= amount
        one.status = status

    # -- budgets and periods

    def _matching(self, operation: Operation, at: datetime) -> list[tuple[RefBudget, UseKey]]:
        found: list[tuple[RefBudget, UseKey]] = []
        for budget in self.budgets.values():
            given = operation.ids[budget.scope_type]
            if given is None or budget.scope_id not in {given, "*"}:
                continue
            if budget.resource_type not in {None, operation.resource_type}:
                continue
            start = self._period_start(budget, given, at)
            found.append((budget, (budget.budget_id, given, start)))
        return found

    def _period_start(self, budget: RefBudget, scope_id: str, at: datetime) -> datetime:
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        if budget.period == "daily":
            return midnight
        if budget.period == "monthly":
            return midnight.replace(day=1)
        anchor = budget.anchors.get(scope_id, midnight)
        days = (midnight - anchor).days
        return anchor + timedelta(days=days // 3 * 3)

    def _anchor(self, budget: RefBudget, scope_id: str, at: datetime) -> None:
        if budget.period == "rolling":
            midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
            budget.anchors.setdefault(scope_id, midnight)

    def _use(self, key: UseKey) -> Use:
        return self.uses.setdefault(key, Use())

    def _rate(self, source: str, target: str, at: datetime) -> Fraction:
        return Fraction(1) if source == target else self._rate_of(source, target, at)

    def _converted(self, amount: Fraction, source: str, target: str, at: datetime) -> Fraction:
        return rounded(amount * self._rate(source, target, at))

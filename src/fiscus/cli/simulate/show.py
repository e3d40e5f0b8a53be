"""What a simulation says: a decision per line for scripts, figures and a chart for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Raw, Struct
from rich.text import Text

from fiscus.cli.marks import ASCII, BLOCKS
from fiscus.cli.simulate.chart import Timeline, chart, seconds_text
from fiscus.cli.simulate.run import Decided
from fiscus.cli.terminal import facts, new_table, out, show_table
from fiscus.clock import from_us, to_us
from fiscus.ratelimits.calls import PolicyLine
from fiscus.ratelimits.model import Policy, PolicyScope
from fiscus.wire.encoding import encode

TOP_KEYS: Final = 5

_TELLING_US: Final = 1_000_000_000_000_000
"""Seconds from the year 2001 on are taken to be since 1970."""

_WIDE: Final = 105
"""Columns of a terminal from which a policy's limit stands beside its name."""

Key = tuple[str, str | None, str | None]
"""A counter of a policy: tenant, id of a scope below the tenant, resource key."""

# ---------------------------------------------------------------- for scripts


class PolicyDecision(Struct, frozen=True):
    """One policy that applied."""

    policy_id: str
    decision: str
    remaining_requests: int
    retry_after: int | None


class DecisionLine(Struct, frozen=True, kw_only=True):
    """A line of `--json`. Times are in the notation of the trace."""

    time: Raw
    tenant_id: str
    resource_type: str
    resource_key: str | None
    request_count: int
    allowed: bool
    remaining_requests: int | None
    retry_after: int | None
    retry_after_ms: int | None
    reset_time: Raw | datetime | None
    policy_id: str | None
    limit_value: int | None
    delay_ms: int
    policies: list[PolicyDecision]


def decision_line(decided: Decided) -> str:
    """A decision as one line of JSON, with its end."""
    request, tenant_id, answer = decided
    line = request.line
    reset_time: Raw | datetime | None = answer.reset_time
    if request.in_seconds and answer.reset_time is not None:
        reset_time = Raw(seconds_text(to_us(answer.reset_time)))
    decision = DecisionLine(
        time=line.time,
        tenant_id=tenant_id,
        resource_type=line.resource_type,
        resource_key=line.resource_key,
        request_count=line.request_count,
        allowed=answer.allowed,
        remaining_requests=answer.remaining_requests,
        retry_after=answer.retry_after,
        retry_after_ms=answer.retry_after_ms,
        reset_time=reset_time,
        policy_id=answer.policy_id,
        limit_value=answer.limit_value,
        delay_ms=answer.delay_ms,
        policies=[
            PolicyDecision(one.policy_id, one.decision, one.remaining_requests, one.retry_after)
            for one in answer.policies
        ],
    )
    return encode(decision).decode() + "\n"


# ---------------------------------------------------------------- for people


@dataclass(slots=True)
class PolicyTally:
    """What one policy did. Checks are lines of the trace, requests their `request_count`s."""

    checks: int = 0
    admitted: int = 0
    denied: int = 0
    shadow_denied: int = 0
    requests_admitted: int = 0
    longest_wait_seconds: int = 0
    never: int = 0
    """Checks that asked for more than can ever be had."""
    keys: Counter[Key] = field(default_factory=Counter[Key])
    """Checks denied, or that would have been, by counter."""

    def add(self, decided: Decided, line: PolicyLine, policy: Policy) -> None:
        self.checks += 1
        if decided.answer.allowed:
            self.admitted += 1
            self.requests_admitted += decided.request.line.request_count
        if line.decision == "allow":
            return
        if line.decision == "deny":
            self.denied += 1
        else:
            self.shadow_denied += 1
        self.keys[_key(decided, policy)] += 1
        if line.retry_after is None:
            self.never += 1
        else:
            self.longest_wait_seconds = max(self.longest_wait_seconds, line.retry_after)


class Tally:
    """What a whole simulation came to."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.definitions: Final = {one.policy_id: one for one in policies}
        self.policies: Final = {one.policy_id: PolicyTally() for one in policies}
        self.timeline: Final = Timeline()
        self.tenants: Final = set[str]()
        self.checks = 0
        self.denied = 0
        self.requests = 0
        self.requests_denied = 0
        self.first_us = self.last_us = 0
        self.unlimited = 0
        """Checks that no policy applied to."""
        self.is_relative = False
        """Times are seconds since a moment that only the trace knows."""

    def add(self, decided: Decided) -> None:
        request, tenant_id, answer = decided
        count = request.line.request_count
        if not self.checks:
            self.first_us = self.last_us = request.at_us
            self.is_relative = request.in_seconds and request.at_us < _TELLING_US
        self.checks += 1
        self.first_us = min(self.first_us, request.at_us)
        self.last_us = max(self.last_us, request.at_us)
        self.requests += count
        self.tenants.add(tenant_id)
        if answer.allowed:
            self.timeline.add(request.at_us, count, 0)
        else:
            self.denied += 1
            self.requests_denied += count
            self.timeline.add(request.at_us, 0, count)
        if not answer.policies:
            self.unlimited += 1
        for line in answer.policies:
            policy_id = line.policy_id
            self.policies[policy_id].add(decided, line, self.definitions[policy_id])


def show(tally: Tally, name: str, zone: ZoneInfo) -> None:
    """The figures, the policies, who was denied most, and the chart."""
    out.print()
    out.print(Text(f"Simulation of {name}", "bold"), soft_wrap=True)
    show_table(facts(_totals(tally, zone)))
    _show_policies(tally)
    _show_keys(tally)
    if tally.requests:
        marks = ASCII if out.options.ascii_only else BLOCKS
        axis = None if tally.is_relative else zone
        for line in chart(tally.timeline, out.width, zone=axis, marks=marks):
            out.print(line, no_wrap=True, crop=True)


def _totals(tally: Tally, zone: ZoneInfo) -> list[tuple[str, str]]:
    admitted = tally.checks - tally.denied
    first, last = (_moment(us, tally, zone) for us in (tally.first_us, tally.last_us))
    rows = [
        ("time", f"{first} to {last}"),
        ("checks", f"{tally.checks:,}"),
        ("admitted", f"[green]{admitted:,}[/]{_share(admitted, tally.checks)}"),
        ("denied", f"[red]{tally.denied:,}[/]{_share(tally.denied, tally.checks)}"),
    ]
    if tally.requests != tally.checks:
        passed = tally.requests - tally.requests_denied
        rows.append(("requests", f"{tally.requests:,}, {passed:,} of them admitted"))
    if tally.unlimited:
        rows.append(("unlimited", f"{tally.unlimited:,} checks to which no policy applies"))
    if len(tally.tenants) > 1:
        rows.append(("tenants", f"{len(tally.tenants):,}"))
    return rows


def _moment(us: int, tally: Tally, zone: ZoneInfo) -> str:
    if tally.is_relative:
        return f"{seconds_text(us)} s"
    return from_us(us).astimezone(zone).replace(microsecond=0).isoformat(" ")


def _show_policies(tally: Tally) -> None:
    columns: dict[str, Callable[[PolicyTally], str]] = {
        "checks": lambda one: f"{one.checks:,}",
        "admitted": lambda one: f"[green]{one.admitted:,}[/]",
        "denied": lambda one: f"[red]{one.denied:,}[/]" if one.denied else "0",
        "shadow\ndenied": lambda one: f"[yellow]{one.shadow_denied:,}[/]",
        "requests\nadmitted": lambda one: f"{one.requests_admitted:,}",
        "longest\nwait": _wait,
    }
    if not any(one.shadow for one in tally.definitions.values()):
        del columns["shadow\ndenied"]
    if tally.requests == tally.checks:
        del columns["requests\nadmitted"]
    if out.width < _WIDE:
        table = new_table("policy", *columns, right=tuple(columns))
        table.padding, table.pad_edge = 0, False  # so that headings are whole in 80 columns
        for column in table.columns[1:]:
            column.no_wrap, column.overflow = False, "fold"  # figures are never cut
    else:
        table = new_table("policy", "limit", *columns, right=tuple(columns))
    table.columns[0].no_wrap = True
    for policy_id, one in tally.policies.items():
        limit = _limit(tally.definitions[policy_id])
        if out.width < _WIDE:
            names = [Text("\n".join((policy_id, *limit)))]
        else:
            names = [Text(policy_id), Text(", ".join(limit))]
        table.add_row(*names, *(cell(one) for cell in columns.values()))
    show_table(table)


def _show_keys(tally: Tally) -> None:
    table = new_table("policy", "denied most", "checks denied", right=("checks denied",))
    for policy_id, one in tally.policies.items():
        label = policy_id
        for key, count in one.keys.most_common(TOP_KEYS):
            table.add_row(label, Text(_key_text(key, tally.tenants)), f"{count:,}")
            label = ""
        others = len(one.keys) - TOP_KEYS
        if others > 0:
            table.add_row("", Text(f"and {others:,} more", "dim"), "")
    if table.row_count:
        show_table(table)


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if whole else ""


def _wait(tally: PolicyTally) -> str:
    longest = f"{tally.longest_wait_seconds:,} s" if tally.longest_wait_seconds else ""
    never = f"{tally.never:,} never" if tally.never else ""
    return "\n".join(part for part in (longest, never) if part) or "-"


def _limit(policy: Policy) -> list[str]:
    """A policy's limit in a few words, and what it is held by."""
    every = f"{policy.time_window_seconds} s" if policy.calendar is None else policy.calendar.value
    burst = f" + {policy.burst_capacity:,}" if policy.burst_capacity else ""
    words = [f"{policy.limit_value:,} per {every}{burst}", policy.algorithm.value]
    return [*words, "shadow"] if policy.shadow else words


def _key(decided: Decided, policy: Policy) -> Key:
    line = decided.request.line
    scope_id = {
        PolicyScope.TENANT: None,
        PolicyScope.PROJECT: line.project_id,
        PolicyScope.USER: line.user_id,
        PolicyScope.FEATURE: line.feature_id,
        PolicyScope.API_KEY: line.api_key_id,
    }[policy.scope_type]
    return decided.tenant_id, scope_id, line.resource_key


def _key_text(key: Key, tenants: Collection[str]) -> str:
    """A key in a few words; what a terminal could take for a command is made visible."""
    tenant_id, *others = key
    parts = [part for part in others if part is not None]
    if len(tenants) > 1 or not parts:
        parts.insert(0, tenant_id)
    return "".join(
        one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in " ".join(parts)
    )

"""What was seen of each policy, counted in memory; `usage_writer` writes it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from fiscus.clock import from_us
from fiscus.ratelimits.calls import UsageWindow
from fiscus.ratelimits.matching import MatchedPolicy
from fiscus.ratelimits.policy_port import UsageRow
from fiscus.ratelimits.rules import Rule, Verdict

_SHORTEST_US: Final = 60_000_000
_LONGEST_US: Final = 3_600_000_000


class _Tally:
    """One policy for one scope in one window."""

    __slots__ = (
        "admitted",
        "checks",
        "denied",
        "policy_id",
        "scope_id",
        "shadow_denied",
        "tenant_id",
    )

    def __init__(self, matched: MatchedPolicy) -> None:
        definition = matched.policy.state.policy
        self.tenant_id = definition.tenant_id
        self.policy_id = definition.policy_id
        self.scope_id = matched.scope_id
        self.checks = self.admitted = self.denied = self.shadow_denied = 0


_Key = tuple[str, int, int]
"""`MatchedPolicy.counters`, and the window's start and length in microseconds."""


class UsageTally:
    """Counts of this process since the last `take`. Safe in any thread.

    A window is the policy's own, but at least a minute and at most an hour long, so that the hours
    of a week can be told apart.
    """

    def __init__(self) -> None:
        self._tallies: dict[_Key, _Tally] = {}
        self._lock = threading.Lock()

    def count(
        self,
        policies: Sequence[MatchedPolicy],
        rules: Sequence[Rule],
        verdicts: Sequence[Verdict],
        count: int,
        admitted: bool,
        now_us: int,
    ) -> None:
        with self._lock:
            for matched, rule, verdict in zip(policies, rules, verdicts, strict=True):
                length_us = rule.window_us
                if not _SHORTEST_US <= length_us <= _LONGEST_US:
                    length_us = _SHORTEST_US if length_us < _SHORTEST_US else _LONGEST_US
                key = (matched.counters, now_us - now_us % length_us, length_us)
                tally = self._tallies.get(key)
                if tally is None:
                    tally = self._tallies[key] = _Tally(matched)
                tally.checks += 1
                # what can never pass is no load, which limits that follow the load learn from
                if not verdict.allowed and verdict.wait_us is not None:
                    if rule.shadow:
                        tally.shadow_denied += count
                    else:
                        tally.denied += count
                if admitted:
                    tally.admitted += count

    def take(self, policy_id: str | None = None) -> list[UsageRow]:
        """Everything counted so far, or of one policy; it begins again at nothing."""
        with self._lock:
            tallies = self._tallies
            if policy_id is None:
                self._tallies = {}
            else:
                wanted = [key for key, one in tallies.items() if one.policy_id == policy_id]
                tallies = {key: tallies.pop(key) for key in wanted}
        return [
            UsageRow(
                tally.tenant_id,
                tally.policy_id,
                UsageWindow(
                    scope_id=tally.scope_id,
                    window_start=from_us(start_us),
                    window_end=from_us(start_us + length_us),
                    checks=tally.checks,
                    admitted=tally.admitted,
                    denied=tally.denied,
                    shadow_denied=tally.shadow_denied,
                ),
            )
            for (_, start_us, length_us), tally in tallies.items()
        ]

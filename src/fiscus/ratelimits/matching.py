"""Which policies apply to an operation, without looking at the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from fiscus.clock import from_us
from fiscus.errors import ValidationError
from fiscus.ratelimits.definitions import uncountable
from fiscus.ratelimits.limits import ceilings_ahead, greatest_ceilings, hours_of_change, rule_at
from fiscus.ratelimits.model import PolicyScope, PolicyState
from fiscus.ratelimits.rules import Ceilings, Rule
from fiscus.scopes import EVERY


class Caller(NamedTuple):
    """The ids that policies are matched by; None where the caller gave none."""

    tenant_id: str
    resource_type: str
    project_id: str | None = None
    user_id: str | None = None
    feature_id: str | None = None
    api_key_id: str | None = None


_SCOPES: Final = (
    (PolicyScope.TENANT, 0),
    (PolicyScope.PROJECT, 2),
    (PolicyScope.USER, 3),
    (PolicyScope.FEATURE, 4),
    (PolicyScope.API_KEY, 5),
)
"""Each scope type with its place in a `Caller`."""


_HOUR_US: Final = 3_600_000_000


class LivePolicy:
    """A policy with the rule that it was when it was last asked."""

    __slots__ = ("_ahead", "_from_us", "_rule", "_until_us", "state")
    _rule: Rule

    def __init__(self, state: PolicyState) -> None:
        self.state: Final = state
        self._from_us = self._until_us = 0  # no rule is known yet
        self._ahead: tuple[tuple[int, Ceilings], ...] = ()

    def rule_now(self, now_us: int) -> Rule:
        """The rule at a moment.

        Raises `Conflict` for a policy that can be none then, as only its own checks may fail of it.
        """
        if not self._from_us <= now_us < self._until_us:
            try:
                self._rule, self._from_us, self._until_us = rule_at(self.state, from_us(now_us))
            except ValidationError as error:
                raise uncountable(self.state.policy.policy_id, error) from error
        return self._rule

    def larger_from_us(self, count: int, priority: int, now_us: int) -> int | None:
        """When a limit that changes by itself is large enough for so many requests; None: never."""
        state = self.state
        # each hour of many policies takes long: most requests that never pass are told by these
        if not hours_of_change(state) or count > greatest_ceilings(state)[priority]:
            return None
        if not self._ahead or not now_us < self._ahead[0][0] <= now_us + _HOUR_US:
            self._ahead = ceilings_ahead(state, from_us(now_us))
        for begins_us, ceilings in self._ahead:
            if count <= ceilings[priority]:
                return begins_us
        return None


class MatchedPolicy(NamedTuple):
    """A policy that applies to an operation, for one of the operation's ids."""

    policy: LivePolicy
    scope_id: str
    counters: str
    """What the keys of its counters for this id begin with."""

    def key(self, resource_key: str | None) -> str:
        """The counter of a resource key. None is a key of its own."""
        return self.counters if resource_key is None else f"{self.counters}:{resource_key}"


def matched_policy(policy: LivePolicy, scope_id: str) -> MatchedPolicy:
    """A policy for one id. Another algorithm, type of scope, or generation has other counters."""
    state = policy.state
    definition = state.policy
    kind = f"{definition.algorithm}.{definition.scope_type}"
    counters = f"{definition.policy_id}.{state.generation}.{kind}"
    # ids may contain colons and points; the length before one tells where a resource key begins
    return MatchedPolicy(policy, scope_id, f"{counters}:{len(scope_id)}:{scope_id}")


class _ByResource:
    """The policies of one scope, by resource type."""

    __slots__ = ("exact", "prefixes")

    def __init__(self) -> None:
        self.exact: dict[str, list[LivePolicy]] = {}
        self.prefixes: dict[int, dict[str, list[LivePolicy]]] = {}
        """By the length of the prefix, so that many prefixes cost no more than their lengths."""

    def add(self, policy: LivePolicy) -> None:
        pattern = policy.state.policy.resource_type
        if pattern.endswith("*"):
            prefix = pattern[:-1]
            same_length = self.prefixes.setdefault(len(prefix), {})
            same_length.setdefault(prefix, []).append(policy)
        else:
            self.exact.setdefault(pattern, []).append(policy)

    def matching(self, resource_type: str) -> Iterator[LivePolicy]:
        yield from self.exact.get(resource_type, ())
        for length, prefixes in self.prefixes.items():
            if length <= len(resource_type):
                yield from prefixes.get(resource_type[:length], ())


class PolicyIndex:
    """The live policies of a tenant."""

    def __init__(self, states: Iterable[PolicyState]) -> None:
        self._scopes: dict[tuple[PolicyScope, str], _ByResource] = {}
        for state in states:
            key = (state.policy.scope_type, state.policy.scope_id)
            by_resource = self._scopes.get(key)
            if by_resource is None:
                by_resource = self._scopes[key] = _ByResource()
            by_resource.add(LivePolicy(state))

    def matching(self, caller: Caller) -> tuple[MatchedPolicy, ...]:
        """Every policy that applies, in the order of their ids."""
        if not self._scopes:
            return ()
        found: list[MatchedPolicy] = []
        for scope_type, place in _SCOPES:
            scope_id = caller[place]
            if scope_id is None:
                continue
            for wanted in (scope_id, EVERY):
                by_resource = self._scopes.get((scope_type, wanted))
                if by_resource is not None:
                    found += [
                        matched_policy(policy, scope_id)
                        for policy in by_resource.matching(caller.resource_type)
                    ]
        found.sort(key=lambda one: one.policy.state.policy.policy_id)
        return tuple(found)

"""Policies as they are answered: with what holds at a moment."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import asdict

from fiscus.ratelimits.calls import PolicyView
from fiscus.ratelimits.limits import effective_limit, still_hold
from fiscus.ratelimits.model import PolicyState


def policy_view(state: PolicyState, now: datetime) -> PolicyView:
    """A policy with its effective limit and the emergency capacity that holds or will."""
    return PolicyView(
        **asdict(state.policy),
        effective_limit=effective_limit(state, now),
        emergencies=list(still_hold(state.emergencies, now)),
    )


__all__ = ["policy_view"]

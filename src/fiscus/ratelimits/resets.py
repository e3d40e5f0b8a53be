"""Making counters of a policy unused: one of them, or all."""

from __future__ import annotations

from datetime import datetime

from fiscus.errors import ValidationError
from fiscus.ratelimits.calls import ResetRequest
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.model import Policy
from fiscus.ratelimits.policy_port import PolicyStore
from fiscus.scopes import EVERY


def reset(
    policies: PolicyStore,
    limiter: Limiter,
    tenant_id: str,
    policy_id: str,
    wanted: ResetRequest,
    *,
    by: str,
    now: datetime,
) -> None:
    """Reset the counter that is named by `scope_id` or `resource_key`, or else all of them.

    Raises `NotFound`, and `ValidationError` when it does not say which one.
    """
    if wanted.scope_id is None and wanted.resource_key is None:
        policies.forget_counters(tenant_id, policy_id, by=by, now=now)
        limiter.changed(tenant_id)
        return
    state = policies.get(tenant_id, policy_id)
    scope_id = counter_scope(state.policy, wanted.scope_id)
    if scope_id is None:
        raise ValidationError(
            "The policy has a counter for every id of its scope",
            field="scope_id",
            suggested_action="Send the scope_id of the counter, or leave resource_key out to "
            "reset all of them.",
        )
    limiter.forget(state, scope_id, wanted.resource_key)


def counter_scope(policy: Policy, wanted: str | None) -> str | None:
    """The scope whose counter is meant; None when a policy for every id is asked without one.

    Raises `ValidationError` when the policy is for another scope.
    """
    if policy.scope_id == EVERY:
        return wanted
    if wanted not in (None, policy.scope_id):
        raise ValidationError(
            f"The policy is not for {policy.scope_type} {wanted}",
            field="scope_id",
            suggested_action=f"Send {policy.scope_id}, or leave scope_id out.",
        )
    return policy.scope_id

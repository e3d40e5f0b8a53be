"""Rate limits: the calls that block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from fiscus.client.arguments import given_patience, request, tenant_named
from fiscus.client.backend import run_blocking
from fiscus.client.calls import Calls
from fiscus.client.fields import (
    AdjustFields,
    PolicyChanges,
    PolicyFields,
    PolicyFilterFields,
    RateLimitFields,
)
from fiscus.client.requests import change_rate_limit, rate_limit_batch
from fiscus.paging import Page
from fiscus.ratelimits.calls import (
    AdjustRequest,
    PolicyView,
    RateLimitBatchAnswer,
    RateLimitCheckAnswer,
    RateLimitCheckRequest,
    ResetRequest,
)
from fiscus.ratelimits.model import PolicySpec
from fiscus.ratelimits.queries import PolicyListQuery


class RateLimitCalls(Calls):
    """Checking rate limits, and the limits themselves."""

    def check_rate_limit(
        self, *, patience_seconds: float | None = None, **operation: Unpack[RateLimitFields]
    ) -> RateLimitCheckAnswer:
        """May so many requests be made now? Taken from every policy that applies, or from none.

        A denial is an answer (`allowed` is false), not an error. `patience_seconds` bounds a call
        of a server, its retries included; an answer that was lost is not asked for again.

        >>> answer = client.check_rate_limit(resource_type="api", resource_key="203.0.113.7")
        >>> if not answer.allowed:
        ...     print(answer.message, answer.retry_after)
        """
        body = request(RateLimitCheckRequest, operation, self._tenant)
        patience = given_patience(patience_seconds)
        return run_blocking(self._backend.check_rate_limit(body, patience_seconds=patience))

    def check_rate_limits(self, checks: Sequence[RateLimitFields]) -> RateLimitBatchAnswer:
        """Up to 500 checks, decided in order, each for itself.

        >>> client.check_rate_limits([{"resource_type": "api"}, {"resource_type": "export"}])
        """
        return run_blocking(self._backend.check_rate_limits(rate_limit_batch(checks, self._tenant)))

    def adjust_rate_limit(self, **correction: Unpack[AdjustFields]) -> RateLimitCheckAnswer:
        """Correct a charge after the fact; never below zero use. What is left afterwards.

        A `ServiceUnavailable` that is not `retriable` may have been corrected all the same.

        >>> client.adjust_rate_limit(resource_type="tokens", request_count=actual - estimated)
        """
        body = request(AdjustRequest, correction, self._tenant)
        return run_blocking(self._backend.adjust_rate_limit(body))

    # -- definitions

    def create_rate_limit(
        self, *, idempotency_key: str | None = None, **policy: Unpack[PolicyFields]
    ) -> PolicyView:
        """A new rate limit.

        >>> client.create_rate_limit(
        ...     scope_type="user",
        ...     scope_id="*",
        ...     resource_type="api",
        ...     limit_value=100,
        ...     time_window_seconds=60,
        ... )
        """
        body = request(PolicySpec, policy, self._tenant)
        return run_blocking(self._backend.create_rate_limit(body, key=idempotency_key))

    def get_rate_limit(self, policy_id: str, *, tenant: str | None = None) -> PolicyView:
        """A rate limit as it stands; raises `NotFound`.

        >>> client.get_rate_limit(policy.policy_id).effective_limit
        """
        return run_blocking(
            self._backend.get_rate_limit(tenant_named(tenant, self._tenant), policy_id)
        )

    def rate_limits(self, **wanted: Unpack[PolicyFilterFields]) -> Page[PolicyView]:
        """A page of rate limits, newest first.

        >>> client.rate_limits(resource_type="api").items
        """
        return run_blocking(
            self._backend.rate_limits(request(PolicyListQuery, wanted, self._tenant))
        )

    def update_rate_limit(
        self,
        policy_id: str,
        *,
        version: int | None = None,
        tenant: str | None = None,
        **changes: Unpack[PolicyChanges],
    ) -> PolicyView:
        """Change some fields of a rate limit.

        What was used of it stays used, unless its algorithm or the type of its scope changes.
        Raises `Conflict` when somebody else changed it meanwhile, or since `version`.

        >>> client.update_rate_limit(policy.policy_id, limit_value=200)
        """
        return run_blocking(
            change_rate_limit(
                self._backend,
                policy_id,
                changes,
                version=version,
                tenant=tenant_named(tenant, self._tenant),
            )
        )

    def reset_rate_limit(
        self,
        policy_id: str,
        *,
        scope_id: str | None = None,
        resource_key: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """Make one counter of a rate limit unused, or all of them when none is named.

        One of a rate limit for `*` is named by its `scope_id`.

        >>> client.reset_rate_limit(policy.policy_id, scope_id="u-17")
        """
        given = {"scope_id": scope_id, "resource_key": resource_key}
        body = request(ResetRequest, given, tenant_named(tenant, self._tenant))
        run_blocking(self._backend.reset_rate_limit(policy_id, body))

    def delete_rate_limit(
        self, policy_id: str, *, force: bool = False, tenant: str | None = None
    ) -> None:
        """End a rate limit; its versions stay. One in use only with `force`, else `Conflict`.

        It is in use when it was checked in its last window, or in the last hour if that is longer.

        >>> client.delete_rate_limit(policy.policy_id, force=True)
        """
        run_blocking(
            self._backend.delete_rate_limit(
                tenant_named(tenant, self._tenant), policy_id, force=force
            )
        )

"""Query parameters of the calls about policies."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fiscus.ratelimits.calls import ResourceKey
from fiscus.ratelimits.model import PolicyScope
from fiscus.ratelimits.policy_port import PolicyFilter
from fiscus.ratelimits.rules import Algorithm
from fiscus.wire.queries import PageQuery, ScopeId, TenantQuery
from fiscus.wire.texts import Id, Label


class PolicyListQuery(PageQuery, frozen=True, kw_only=True):
    scope_type: Annotated[
        PolicyScope | None, Meta(description="Only policies for this type of scope.")
    ] = None
    scope_id: Annotated[
        ScopeId | None, Meta(description="Only policies for this scope; `*`: those for every id.")
    ] = None
    resource_type: Annotated[
        Label | None,
        Meta(description="Only policies with exactly this resource type, with its `*` if any."),
    ] = None
    algorithm: Annotated[Algorithm | None, Meta(description="Only policies of this algorithm.")] = (
        None
    )
    shadow: Annotated[
        bool | None, Meta(description="Only policies that shadow, or only those that do not.")
    ] = None

    def wanted(self) -> PolicyFilter:
        return PolicyFilter(
            scope_type=self.scope_type,
            scope_id=self.scope_id,
            resource_type=self.resource_type,
            algorithm=self.algorithm,
            shadow=self.shadow,
        )


class DeletePolicyQuery(TenantQuery, frozen=True, kw_only=True):
    force: Annotated[bool, Meta(description="Also while the policy is in use.")] = False


class PolicyUsageQuery(PageQuery, frozen=True, kw_only=True):
    scope_id: Annotated[
        Id | None,
        Meta(description="Only the use of this scope; of a `*` policy, the counter to look at."),
    ] = None
    resource_key: Annotated[
        ResourceKey | None,
        Meta(description="Key of the counter to look at; default the one without a key."),
    ] = None

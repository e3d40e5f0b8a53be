"""Time per check with many policies beside few: in process, by the limiter alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import cycle
from time import perf_counter, process_time
from typing import Final

from bench import workload
from bench.plan import Plan, Result
from bench.samples import Measure, Sample, Target, compare, interleaved, known, middle
from bench.seed import SETTINGS
from bench.seed_policies import RESOURCE, policy_spec
from bench.servers import Databases
from fiscus.clock import SystemClock
from fiscus.ids import uuid7
from fiscus.ratelimits.calls import RateLimitCheckRequest
from fiscus.ratelimits.definitions import define
from fiscus.ratelimits.limiter import Limiter
from fiscus.ratelimits.model import PolicyState
from fiscus.ratelimits.policy_port import TenantPolicies
from fiscus.wiring.counters import open_counters

FEW: Final = 10
MANY: Final = 50_000
CHECKS: Final = 20_000
_AT_ONCE: Final = 500
_TARGET: Final = Target(ratio=1.5, rule="at most")

Check = tuple[RateLimitCheckRequest, str]
"""What is asked, and the tenant that asks."""


class _Policies:
    """A `ratelimits.policies.PolicySource` in memory."""

    def __init__(self, states: Iterator[PolicyState]) -> None:
        self.of_tenants: dict[str, list[PolicyState]] = {}
        for state in states:
            self.of_tenants.setdefault(state.policy.tenant_id, []).append(state)

    def live(self, tenant_id: str, now: datetime) -> TenantPolicies:
        return TenantPolicies(1, self.of_tenants[tenant_id])

    def versions(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(tenant_ids, 1)


def policies(name: str, databases: Databases, plan: Plan) -> Result:
    """The same checks with 10 policies, with 50 000 of one tenant, and with 50 of each of 1 000.

    Every check matches two, its tenant's own and its user's; the others are for other users, by
    turns for the same resource type, another one, and one beginning of it.
    """
    each = MANY // workload.TENANTS
    contestants = {
        "10 policies": _measure(_states(1, FEW), 1),
        "50 000 of 1 000 tenants": _measure(_states(workload.TENANTS, each), workload.TENANTS),
        "fiscus": _measure(_states(1, MANY), 1),
    }
    samples = interleaved(contestants, rounds=plan.rounds, seconds=plan.seconds / 12)
    few = _us(samples["10 policies"])
    return Result(
        name=name,
        store=databases.kind,
        what=f"check by the limiter in process, {MANY} policies",
        fiscus=middle(samples["fiscus"]),
        comparisons=[
            compare(
                "one tenant, with 10 of them",
                "cpu microseconds per check",
                _us(samples["fiscus"]),
                few,
                _TARGET,
            ),
            compare(
                "1 000 tenants, one with 10",
                "cpu microseconds per check",
                _us(samples["50 000 of 1 000 tenants"]),
                few,
                _TARGET,
            ),
        ],
        peak_memory_bytes=None,
        answer_bytes=None,
        samples=samples,
    )


def _states(tenants: int, each: int) -> Iterator[PolicyState]:
    now = datetime.now(UTC)
    for tenant in range(tenants):
        tenant_id = f"tenant-{tenant:05d}"
        for number in range(each):
            # the first two match, and so does nothing else
            scope_type, scope_id, resource = "user", f"other-{number}", RESOURCE
            if number == 0:
                scope_type, scope_id = "tenant", tenant_id
            elif number == 1:
                scope_id = "*"
            elif number % 3 == 1:
                resource = f"resource-{number}"
            elif number % 3 == 2:
                resource = f"{RESOURCE}-{number}*"
            spec = policy_spec(scope_type, scope_id, resource)
            policy = define(
                spec,
                SETTINGS,
                policy_id=uuid7(),
                tenant_id=tenant_id,
                version=1,
                created_at=now,
                now=now,
            )
            yield PolicyState(policy=policy, generation=1)


def _measure(states: Iterator[PolicyState], tenants: int) -> Measure:
    clock = SystemClock()
    limiter = Limiter(_Policies(states), open_counters(None), clock)
    names = [f"tenant-{tenant:05d}" for tenant in range(tenants)]
    checks: list[Check] = [
        (RateLimitCheckRequest(resource_type=RESOURCE, user_id=user_id), tenant_id)
        for user_id, tenant_id in workload.limited_users(names, CHECKS)
    ]
    parts = cycle([checks[start : start + _AT_ONCE] for start in range(0, CHECKS, _AT_ONCE)])
    for check, tenant_id in checks:  # policies are read and matched before anything is measured
        limiter.check(check, tenant_id, clock.now())

    def run(seconds: float) -> Sample:
        done = 0
        cpu_began, began = process_time(), perf_counter()
        while (elapsed := perf_counter() - began) < seconds:
            part = next(parts)
            for check, tenant_id in part:
                limiter.check(check, tenant_id, clock.now())
            done += len(part)
        cpu_us = (process_time() - cpu_began) / done * 1e6
        rate = done / elapsed
        return Sample(
            operations=done, operations_per_second=rate, requests_per_second=rate, cpu_us=cpu_us
        )

    return run


def _us(samples: Sequence[Sample]) -> list[float]:
    return [known(sample.cpu_us) for sample in samples]

"""Envoy's rate limit service over a real engine on SQLite, asked by a real gRPC client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceStub
from msgspec import convert

from fiscus.access.model import ApiKey, Role, hash_key, hint_of, new_key
from fiscus.envoy.authentication import ApiKeyAuthenticator
from fiscus.envoy.mapping import DescriptorMapping, MappingSpec
from fiscus.envoy.server import EnvoyServer
from fiscus.http.monitoring.metrics import Metrics
from fiscus.ids import uuid7
from fiscus.priorities import Priority
from fiscus.ratelimits.model import PolicySpec
from fiscus.settings import Settings
from fiscus.wiring.engine import open_engine
from tests.envoy.descriptors import asking

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

    from fiscus.clock import ManualClock
    from fiscus.engine import Engine

TENANT = "acme"
MAPPING: dict[str, Any] = {
    "rules": [
        {
            "domain": "edge",
            "match": {"tenant": "*", "path": "*"},
            "tenant": "{tenant}",
            "resource_type": "path",
            "resource_key": "{path}",
        },
        {
            "domain": "edge",
            "match": {"user": "*", "urgency": "*"},
            "resource_type": "api",
            "user_id": "{user}",
            "priority": "{urgency}",
        },
        {"domain": "edge", "match": {"user": "*"}, "resource_type": "api", "user_id": "{user}"},
        {
            "domain": "edge",
            "match": {"path": "*"},
            "resource_type": "path",
            "resource_key": "{path}",
        },
    ]
}


@dataclass
class Envoy:
    """What an Envoy asks, and what its operator sets up."""

    engine: Engine
    clock: ManualClock
    server: EnvoyServer
    metrics: Metrics
    channel: grpc.Channel
    key: str

    def policy(self, *, tenant_id: str = TENANT, **fields: Any) -> str:
        """Make a policy: 5 per minute in fixed windows, if not said otherwise; its id."""
        body = {
            "scope_type": "tenant",
            "scope_id": tenant_id,
            "resource_type": "path",
            "limit_value": 5,
            "time_window_seconds": 60,
            "algorithm": "fixed_window",
            **fields,
        }
        state = self.engine.policies.create(
            tenant_id, convert(body, PolicySpec), by="test", now=self.clock.now()
        )
        self.engine.limiter.changed(tenant_id)
        return state.policy.policy_id

    def make_key(
        self, *roles: Role, tenant_id: str = TENANT, highest: Priority = Priority.NORMAL
    ) -> str:
        return keep_key(self.engine, *roles, tenant_id=tenant_id, highest=highest)

    def ask(
        self,
        *descriptors: Mapping[str, str],
        domain: str = "edge",
        hits: int = 0,
        own_hits: int | None = None,
        key: str | None = "",
    ) -> RateLimitResponse:
        """Ask; `key` is another API key, or None for none at all."""
        metadata = () if key is None else (("x-api-key", key or self.key),)
        return RateLimitServiceStub(self.channel).ShouldRateLimit(
            asking(*descriptors, domain=domain, hits=hits, own_hits=own_hits),
            metadata=metadata,
            timeout=30,
        )

    def refused(self, *descriptors: Mapping[str, str], **more: Any) -> grpc.RpcError:
        """Ask what is answered with an error."""
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(*descriptors, **more)
        return caught.value


def keep_key(
    engine: Engine, *roles: Role, tenant_id: str, highest: Priority = Priority.NORMAL
) -> str:
    """A new API key, straight into the store."""
    secret = new_key()
    key = ApiKey(
        key_id=uuid7(),
        tenant_id=tenant_id,
        name="for a test",
        hint=hint_of(secret),
        roles=list(roles),
        created_by="test",
        created_at=engine.clock.now(),
        expires_at=None,
        revoked_at=None,
        highest_priority=highest,
    )
    engine.api_keys.create(key, hash_key(secret))
    return secret


@pytest.fixture
def mapping() -> dict[str, Any]:
    return MAPPING


@pytest.fixture
def host() -> str:
    return "127.0.0.1"


@pytest.fixture
def redis_url() -> str | None:
    """Where the counters are; None: in this process."""
    return None


@pytest.fixture
def envoy(
    tmp_path: Path, clock: ManualClock, mapping: dict[str, Any], host: str, redis_url: str | None
) -> Iterator[Envoy]:
    settings = Settings(data_dir=tmp_path, redis_url=redis_url, counters_timeout_seconds=5)
    engine = open_engine(settings, clock=clock)
    metrics = Metrics()
    server = EnvoyServer(
        engine.limiter,
        ApiKeyAuthenticator(engine.api_keys, engine.credential_cache),
        clock,
        DescriptorMapping(convert(mapping, MappingSpec)),
        metrics,
        host=host,
        port=0,
    )
    server.start()
    try:
        where = f"[{host}]" if ":" in host else host
        with grpc.insecure_channel(f"{where}:{server.port}") as channel:
            key = keep_key(engine, Role.SERVICE, tenant_id=TENANT)
            yield Envoy(engine, clock, server, metrics, channel, key)
    finally:
        server.stop(5)
        engine.close()

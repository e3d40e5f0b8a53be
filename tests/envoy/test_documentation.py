"""What the how-to shows is read by Envoy's own definitions and by Fiscus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from envoy.config.bootstrap.v3 import bootstrap_pb2

# known to the reader of `typed_config` by being imported
from envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.json_format import ParseDict

from fiscus.envoy.mapping import read_mapping

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "envoy"
TYPES = (
    rate_limit_pb2.RateLimit,
    rate_limit_pb2.RateLimitPerRoute,
    router_pb2.Router,
    http_connection_manager_pb2.HttpConnectionManager,
    http_protocol_options_pb2.HttpProtocolOptions,
)


def test_configuration_of_envoy_is_one() -> None:
    text = (EXAMPLES / "envoy.yaml").read_text()
    assert all(f"type.googleapis.com/{kind.DESCRIPTOR.full_name}" in text for kind in TYPES)
    bootstrap = ParseDict(yaml.safe_load(text), bootstrap_pb2.Bootstrap())
    assert [one.name for one in bootstrap.static_resources.clusters] == ["fiscus", "api"]


@pytest.mark.parametrize(
    ("entries", "resource_type", "priority"),
    [
        ((("remote_address", "10.0.0.1"),), "edge.requests", None),
        ((("area", "search"), ("user", "ann")), "edge.search", None),
        ((("area", "search"), ("user", "ann"), ("class", "batch")), "edge.search", "low"),
        ((("area", "api"), ("user", "ann")), "edge.api", None),
    ],
)
def test_example_of_a_mapping_file_is_one(
    entries: tuple[tuple[str, str], ...], resource_type: str, priority: str | None
) -> None:
    found = read_mapping(EXAMPLES / "fiscus-envoy.yaml").find("edge", entries, 1)
    assert found is not None
    assert found.request.resource_type == resource_type
    assert found.request.priority == priority


def test_rules_in_the_how_to_are_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "use-with-envoy.md").read_text()
    (rules,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "mapping.yaml"
    file.write_text(rules)
    entries = (("org", "acme"), ("user", "ann"), ("area", "search"))
    found = read_mapping(file).find("edge", entries, 1)
    assert found is not None
    assert (found.tenant_id, found.request.user_id) == ("acme", "ann")

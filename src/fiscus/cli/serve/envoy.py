"""Envoy's rate limit service, served beside HTTP. The packages behind it are an extra."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from fiscus.cli.terminal import CommandError
from fiscus.engine import Engine
from fiscus.settings import Settings

if TYPE_CHECKING:
    from fiscus.envoy.mapping import DescriptorMapping
    from fiscus.envoy.server import EnvoyServer
    from fiscus.envoy.service import Observer


def check_envoy(settings: Settings) -> None:
    """Find out before anything starts whether Envoy's rate limit service can be served.

    Raises `CommandError` for a missing package or mapping file, and `ValidationError` for what is
    wrong in that file. Whether the port is free, `check_free` says.
    """
    if settings.grpc_port is None:
        return
    if any(find_spec(name) is None for name in ("grpc", "envoy")):
        raise CommandError(
            "--grpc-port needs the packages grpcio and xds-protos",
            suggested_action="pip install '.[envoy]' in the folder of Fiscus's source, or leave "
            "--grpc-port out.",
        )
    mapping_of(settings)


def open_envoy(engine: Engine, port: int, observer: Observer) -> EnvoyServer:
    """Envoy's rate limit service over an engine, not started yet. Raises as `check_envoy` does."""
    from fiscus.envoy.authentication import ApiKeyAuthenticator
    from fiscus.envoy.server import EnvoyServer

    mapping = mapping_of(engine.settings)
    try:
        return EnvoyServer(
            engine.limiter,
            ApiKeyAuthenticator(engine.api_keys, engine.credential_cache),
            engine.clock,
            mapping,
            observer,
            host=engine.settings.host,
            port=port,
        )
    except OSError as error:
        raise CommandError(str(error), suggested_action="take another --grpc-port.") from None


def mapping_of(settings: Settings) -> DescriptorMapping:
    """What Envoy's descriptors stand for. Raises as `check_envoy` does."""
    from fiscus.envoy.mapping import EXAMPLE, read_mapping

    if settings.envoy_mapping_file is None:
        raise CommandError(
            "--grpc-port needs a file that says what Envoy's descriptors stand for",
            suggested_action=f"set FISCUS_ENVOY_MAPPING_FILE to a YAML file such as {EXAMPLE}",
        )
    return read_mapping(settings.envoy_mapping_file)

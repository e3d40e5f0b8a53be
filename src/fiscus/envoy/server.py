"""The gRPC server: `envoy.service.ratelimit.v3.RateLimitService` and the standard health check.

Plain gRPC, for loopback or a mesh that encrypts. Calls run on a few threads: a decision with
counters in this process takes microseconds, and more threads only wait for each other; with
counters in Redis they wait for it, together.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Final

import grpc
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from google.protobuf.message import DecodeError

from fiscus.access.model import Principal
from fiscus.access.refusals import log_refusal
from fiscus.clock import Clock
from fiscus.envoy.authentication import ApiKeyAuthenticator
from fiscus.envoy.mapping import DescriptorMapping
from fiscus.envoy.reading import read_request
from fiscus.envoy.service import Observer, RateLimitService
from fiscus.errors import (
    FiscusError,
    Forbidden,
    PayloadTooLarge,
    ServiceUnavailable,
    Unauthorized,
    ValidationError,
)
from fiscus.ratelimits.limiter import Limiter
from fiscus.runtime.logs import get_logger

log = get_logger(__name__)

OPERATION: Final = "envoy_check"
"""What metrics call a call."""
THREADS: Final = 4
THREADS_THAT_WAIT: Final = 16
MAX_CALLS: Final = 1000
"""Calls in hand at once; more are answered RESOURCE_EXHAUSTED. Envoy waits 20 ms by default."""

_SERVICE: Final = "envoy.service.ratelimit.v3.RateLimitService"
_HEALTH: Final = "grpc.health.v1.Health"
_SERVING: Final = b"\x08\x01"
"""A HealthCheckResponse: its field `status` is SERVING."""

_STATUSES: Final[dict[str, grpc.StatusCode]] = {
    Forbidden.code: grpc.StatusCode.PERMISSION_DENIED,
    PayloadTooLarge.code: grpc.StatusCode.INVALID_ARGUMENT,
    ServiceUnavailable.code: grpc.StatusCode.UNAVAILABLE,
    Unauthorized.code: grpc.StatusCode.UNAUTHENTICATED,
    ValidationError.code: grpc.StatusCode.INVALID_ARGUMENT,
}


class EnvoyServer:
    """Serves from `start` to `stop`."""

    def __init__(
        self,
        limiter: Limiter,
        authenticator: ApiKeyAuthenticator,
        clock: Clock,
        mapping: DescriptorMapping,
        observer: Observer,
        *,
        host: str,
        port: int,
    ) -> None:
        """Listen on `host` and `port`, 0 for any that is free; several processes may share one.

        Raises `OSError` when the address cannot be had.
        """
        self._service = RateLimitService(limiter, mapping, observer)
        self._observer = observer
        self._authenticator = authenticator
        self._clock = clock
        self._threads = ThreadPoolExecutor(
            THREADS if limiter.immediate else THREADS_THAT_WAIT, thread_name_prefix="fiscus-grpc"
        )
        self._server = grpc.server(self._threads, maximum_concurrent_rpcs=MAX_CALLS)
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    _SERVICE,
                    {
                        "ShouldRateLimit": grpc.unary_unary_rpc_method_handler(
                            self._should_rate_limit,
                            response_serializer=RateLimitResponse.SerializeToString,
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    _HEALTH, {"Check": grpc.unary_unary_rpc_method_handler(_check_health)}
                ),
            )
        )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port: Final = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error

    def start(self) -> None:
        self._server.start()

    def stop(self, grace_seconds: float) -> None:
        """Take no more calls and wait for those in hand, which are cut off after a while."""
        self._server.stop(grace_seconds).wait()
        self._threads.shutdown()

    def _should_rate_limit(self, body: bytes, context: grpc.ServicerContext) -> RateLimitResponse:
        began = perf_counter()
        outcome = "error"
        try:
            response = self._decide(body, context.invocation_metadata())
            allowed = response.overall_code == RateLimitResponse.OK
            outcome = "allowed" if allowed else "denied"
            return response
        except FiscusError as error:
            status = _STATUSES.get(error.code, grpc.StatusCode.INTERNAL)
            if status is grpc.StatusCode.UNAVAILABLE and not error.retriable:
                status = grpc.StatusCode.DEADLINE_EXCEEDED  # which nobody repeats by itself
            action = f". {error.suggested_action}" if error.suggested_action else ""
            context.abort(status, error.message + action)
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The body is not a RateLimitRequest")
        except Exception:
            log.exception("envoy_call_failed")
            context.abort(grpc.StatusCode.INTERNAL, "The check failed; see the server's log")
        finally:
            self._observer.decided(OPERATION, outcome, perf_counter() - began)

    def _decide(
        self, body: bytes, metadata: Iterable[tuple[str, str | bytes]]
    ) -> RateLimitResponse:
        now = self._clock.now()
        caller: Principal | None = None
        try:
            caller = self._authenticator.authenticate(metadata, now)
            return self._service.decide(read_request(body), caller, now)
        except FiscusError as error:
            reason = log_refusal(error, caller, _SERVICE)
            if reason is not None:
                self._observer.access_denied(reason)
            raise


def _check_health(body: bytes, context: grpc.ServicerContext) -> bytes:
    """`grpc.health.v1.Health/Check`, of the whole server or of the service by its name."""
    named = b"\x0a" + bytes([len(_SERVICE)]) + _SERVICE.encode()
    if body not in {b"", named}:
        context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service")
    return _SERVING


__all__ = ["EnvoyServer"]

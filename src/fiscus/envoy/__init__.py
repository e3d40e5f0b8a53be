"""Envoy's rate limit service: what an Envoy proxy asks over gRPC, decided by the limiter.

Only `fiscus.envoy.mapping` can be imported without the extra `envoy` (grpcio, xds-protos).
"""

"""The Python API: what `Fiscus`, `Client` and `AsyncClient` have in common, and the two clients."""

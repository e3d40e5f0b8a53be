"""What every group of calls of the Python API has."""

from __future__ import annotations

from fiscus.client.backend import Backend


class Calls:
    """Calls over one backend; `tenant` stands in where a call names none."""

    def __init__(self, backend: Backend, tenant: str | None) -> None:
        self._backend = backend
        self._tenant = tenant

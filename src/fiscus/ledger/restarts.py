"""Why a group starts again: what its commands turned out to need."""

from __future__ import annotations

from datetime import datetime


class MoreNeeded(Exception):
    """The group must start again with more loaded; its needs have been added already."""


class MoreDue(MoreNeeded):
    """More of a tenant's reservations are due than one group frees; some are to be freed first."""

    def __init__(self, tenant_id: str, now: datetime) -> None:
        super().__init__(tenant_id, now)
        self.tenant_id = tenant_id
        self.now = now

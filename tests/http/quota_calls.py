"""What tests of quotas over HTTP call again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

NOBODY = "019cd7d8-7c00-7a11-8f00-0123456789ab"
USE = {"resource_type": "gpu_hours", "required_amount": 1, "project_id": "vision"}


async def use(client: AppClient, amount: Any = 1, **fields: Any) -> dict[str, Any]:
    """The answer to a check of project vision's."""
    reply = await client.post("/quotas/check", {**USE, "required_amount": amount, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def path_of(quota: dict[str, Any], rest: str = "") -> str:
    return f"/quotas/{quota['quota_id']}{rest}"

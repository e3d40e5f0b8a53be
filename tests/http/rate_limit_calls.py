"""What tests of rate limits over HTTP call again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.http.app_client import AppClient

NOBODY = "019cd7d8-7c00-7a11-8f00-0123456789ab"
EMERGENCY = {"additional_capacity": 5, "duration_minutes": 600, "reason": "Launch day"}


async def take(client: AppClient, count: int = 1, **fields: Any) -> dict[str, Any]:
    """The answer to a check of user ada's."""
    body = {"resource_type": "llm", "user_id": "ada", "request_count": count, **fields}
    reply = await client.post("/rate-limits/check", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def remaining(client: AppClient, **fields: Any) -> int:
    return (await take(client, 0, **fields))["remaining_requests"]


def path_of(policy: dict[str, Any], rest: str = "") -> str:
    return f"/rate-limits/{policy['policy_id']}{rest}"

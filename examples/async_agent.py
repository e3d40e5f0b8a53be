"""An agent whose steps draw from the one reservation of its run, at the same time.

FISCUS_URL is the address of a running server, FISCUS_KEY an API key it knows.
"""

from __future__ import annotations

import asyncio
import os

from fiscus import AsyncClient


async def search_the_web(client: AsyncClient, words: str) -> None:
    """A step of its own: it need not know that it runs inside an agent."""
    async with client.reserve(project="agents", resource_type="llm", estimate="0.10") as r:
        await r.settle("0.04", usage={"tokens": 40 * len(words)})


async def main() -> None:
    url, key = os.environ["FISCUS_URL"], os.environ["FISCUS_KEY"]
    async with AsyncClient(url, key, tenant="example") as client:
        async with client.reserve(project="agents", resource_type="llm", estimate="0.50") as run:
            await asyncio.gather(*(search_the_web(client, one) for one in ("cats", "dogs")))
            settled = await run.settle("0.02", usage={"tokens": 25})
        print(f"one record over {settled.charged} {settled.currency}")


if __name__ == "__main__":
    asyncio.run(main())

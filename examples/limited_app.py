"""A FastAPI application that limits its clients, with no server beside it."""

from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI

from fiscus.limits import RateLimitMiddleware, limit

app = FastAPI()
app.add_middleware(
    RateLimitMiddleware,
    limit="5/minute",
    paths={"/login": "2 per 10 minutes"},
    exempt=["/healthz"],
)


@limit("3/day", key=lambda user: user)
def send_report(user: str) -> str:
    """Stands for something that costs."""
    return f"sent to {user}"


@app.get("/login")
async def login() -> dict[str, str]:
    return {"said": "hello"}


@app.post("/reports/{user}")
def report(user: str) -> dict[str, str]:
    """Beyond its limit the middleware answers for it, too."""
    return {"report": send_report(user)}


async def main() -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        for _ in range(3):
            answer = await client.get("/login")
            print(answer.status_code, answer.headers["RateLimit"])
        print(f"come back in {answer.headers['Retry-After']} s")
        for _ in range(4):
            answer = await client.post("/reports/ada")
            print(answer.status_code, answer.json().get("detail", "done"))


if __name__ == "__main__":
    asyncio.run(main())

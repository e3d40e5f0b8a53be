"""The documentation pages: local files only, inside a strict policy."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from fiscus.access.model import Role
from fiscus.ids import is_uuid
from tests.http.app_client import API

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio


async def test_the_page_loads_local_files_only(client: AppClient) -> None:
    page = await client.send("GET", "/docs", key=None)
    assert page.status_code == 200
    assert "://" not in page.text
    assert not re.search(r"<script>|\son\w+=|style=", page.text)
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(found) == 4
    for name in found:
        reply = await client.send("GET", f"/{name}", key=None)
        assert reply.status_code == 200, name
        assert len(reply.content) > 100
        assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_only_the_files_of_the_page_may_be_kept_by_caches(client: AppClient) -> None:
    for path in ("/docs", f"{API}/api-keys", f"{API}/budgets/none", "/health", "/none"):
        reply = await client.send("GET", path)
        assert reply.headers.get_list("Cache-Control") == ["no-store"], path
    icon = await client.send("GET", "/docs/favicon.png")
    assert icon.headers.get_list("Cache-Control") == ["public, max-age=86400"]


async def test_the_policy_lets_no_other_host_in(client: AppClient) -> None:
    page = await client.send("GET", "/docs", key=None)
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "http" not in policy
    assert "unsafe-eval" not in policy


async def test_the_page_reads_the_served_document(client: AppClient) -> None:
    start = await client.send("GET", "/docs/start.js", key=None)
    assert 'url: "openapi.json"' in start.text
    assert start.headers["Content-Type"].startswith("text/javascript")


async def test_down_the_page_every_example_works(client: AppClient) -> None:
    document = (await client.send("GET", "/openapi.json", key=None)).json()
    start = (await client.send("GET", "/docs/start.js", key=None)).text
    page = Page(client, decided_in(start))
    for method, path, operation in down_the_page(document):
        if operation["operationId"] == "reject_quota_request":  # the one that there was is approved
            ask = document["paths"][f"{API}/quotas/requests"]["post"]
            await page.run("post", f"{API}/quotas/requests", ask)
        reply = await page.run(method, path, operation)
        documented = next(iter(operation["responses"]))
        assert str(reply.status_code) == documented, (method, path, reply.text)


async def test_for_every_id_in_an_example_the_page_knows_who_makes_it(client: AppClient) -> None:
    known = decided_in((await client.send("GET", "/docs/start.js", key=None)).text)
    wanted: set[str] = set()
    document = (await client.send("GET", "/openapi.json", key=None)).json()
    for _, _, operation in down_the_page(document):
        wanted |= {one["name"] for one in operation["parameters"] if is_id(one.get("example"))}
        body = body_of(operation)
        if isinstance(body, dict):
            wanted |= {name for name, value in body.items() if is_id(value)}
        if "201" in operation["responses"]:  # what was created begins with its id
            example = operation["responses"]["201"]["content"]["application/json"]["example"]
            known.add(next(iter(example)))
    assert len(wanted) > 5
    assert wanted <= known


async def test_the_root_leads_to_the_docs(client: AppClient) -> None:
    reply = await client.send("GET", "/", key=None)
    assert (reply.status_code, reply.headers["Location"]) == (307, "docs")


async def test_other_files_are_not_served(client: AppClient) -> None:
    for name in ("redoc.standalone.js", "..%2f__init__.py", "__init__.py", "%2e%2e/app.py"):
        assert (await client.send("GET", f"/docs/{name}", key=None)).status_code == 404


class Page:
    """Sends the examples as the page does, with the ids of what it made in their places."""

    def __init__(self, client: AppClient, decided: set[str]) -> None:
        self._client = client
        self._decided = decided
        self._made: dict[str, str] = {}

    async def run(self, method: str, path: str, operation: dict[str, Any]) -> httpx.Response:
        given = {
            place: {
                one["name"]: one["example"]
                for one in operation["parameters"]
                if one["in"] == place and "example" in one
            }
            for place in ("path", "query")
        }
        body = body_of(operation)
        if isinstance(body, dict):
            body = json.dumps({**body, **{k: v for k, v in self._made.items() if k in body}})
        # not by the one who asked for it
        is_anothers = "By another person" in operation["description"]
        other = self._client.make_key(Role.PLATFORM_ADMIN) if is_anothers else ""
        reply = await self._client.send(
            method.upper(),
            path.format(**(given["path"] | self._made)),
            key=other,
            params=given["query"],
            content=body,
        )
        if reply.is_success and reply.headers.get("Content-Type") == "application/json":
            self._put_in(reply.json(), created=reply.status_code == 201)
        return reply

    def _put_in(self, answer: dict[str, Any], *, created: bool) -> None:
        if created:
            self._made |= dict(list(answer.items())[:1])
            return
        for one in (answer, *answer.get("results", ())):
            self._made |= {name: one[name] for name in self._decided if one.get(name)}


def decided_in(start: str) -> set[str]:
    """The ids that the page's script takes from decisions."""
    found = re.search(r"DECIDED = (\[.*\]);", start)
    assert found is not None
    return set(json.loads(found[1]))


def down_the_page(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation, in the order of the page: by tag, then as in the document."""
    for tag in document["tags"]:
        for path, place in document["paths"].items():
            for method, operation in place.items():
                if tag["name"] in operation["tags"]:
                    yield method, path, operation


def body_of(operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    return next(iter(content.values()))["example"] if content else None


def is_id(value: object) -> bool:
    return isinstance(value, str) and is_uuid(value)

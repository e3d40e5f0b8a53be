"""The documentation pages: local files only, inside a strict policy."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from fiscus.ids import is_uuid
from tests.http.app_client import API

if TYPE_CHECKING:
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


async def test_for_every_id_in_a_path_the_page_knows_who_makes_it(client: AppClient) -> None:
    start = (await client.send("GET", "/docs/start.js", key=None)).text
    decided = re.search(r"DECIDED = (\[.*\]);", start)
    assert decided is not None
    known = set(json.loads(decided[1]))
    wanted: set[str] = set()
    document = (await client.send("GET", "/openapi.json", key=None)).json()
    for operations in document["paths"].values():
        for operation in operations.values():
            places = [one for one in operation["parameters"] if one["in"] == "path"]
            wanted |= {one["name"] for one in places if is_uuid(one["example"])}
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

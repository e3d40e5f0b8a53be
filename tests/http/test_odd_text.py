"""Text that no database keeps, in any parameter and any path: the caller's error, never ours."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import fields

from fiscus.http.app import ENDPOINTS
from fiscus.http.management.queries import Shape, shapes_of
from fiscus.http.openapi.examples import PATH_IDS
from tests.http.app_client import open_app

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from tests.http.app_client import AppClient

pytestmark = pytest.mark.anyio

NUL = ("%00", "a%00b")
SURROGATE = "%ED%A0%80"
NOT_UTF8 = ("%FF", "%C0%80", "%F4%90%80%80", SURROGATE)
IN_PAIRS = ("a:%00", "a%00b:c", "%7B%22a%22:%22%5Cu0000%22%7D", "%7B%22%5Cu0000%22:%22a%22%7D")
SURROGATE_IN_JSON = "%7B%22a%22:%22%5Cud800%22%7D"


def token(*values: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([values, False]).encode()).decode().rstrip("=")


TOKENS = [
    token(*values)
    for text in ("\0", "a\0", "\ud800")
    for values in ([text], [text, text], [1, text], [text, 1])
]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def either(
    request: pytest.FixtureRequest, tmp_path: Path, data_dir: Path
) -> AsyncGenerator[AppClient]:
    """The application over each database."""
    if request.param == "sqlite":
        settings: dict[str, Any] = {"data_dir": data_dir}
    else:
        url = request.getfixturevalue("postgres_url")
        settings = {"data_dir": tmp_path, "database_url": url}
    async with open_app(settings.pop("data_dir"), api_limit_reports=0, **settings) as client:
        yield client


def queries(ids: dict[str, str]) -> Iterator[tuple[str, str, str, list[str]]]:
    """Method, path and name of every parameter, and what to send in it."""
    for endpoint in ENDPOINTS:
        if endpoint.method not in {"GET", "DELETE"}:
            continue
        path = endpoint.path.format_map(ids)
        shapes = shapes_of(endpoint.query)
        for field in fields(endpoint.query):
            sent = [*NUL, *NOT_UTF8]
            if shapes[field.name] is Shape.PAIRS:
                sent = [*IN_PAIRS, *NOT_UTF8, SURROGATE_IN_JSON]
            if field.name == "page_token":
                sent += TOKENS
            yield endpoint.method, path, field.name, sent


async def test_every_parameter_with_text_that_cannot_be_stored_is_refused_by_name(
    either: AppClient,
) -> None:
    budget, policy = await either.make_budget(), await either.make_policy()
    quota = await either.make_quota()
    ids = {
        **PATH_IDS,
        "tenant_id": "acme",
        "version": "1",
        "budget_id": budget["budget_id"],
        "policy_id": policy["policy_id"],
        "quota_id": quota["quota_id"],
    }
    for method, path, name, sent in queries(ids):
        for text in sent:
            reply = await either.send(method, f"/budget/v1{path}?{name}={text}")
            assert reply.status_code == 400, (path, name, text, reply.text)
            field = reply.json()["details"]["field"]
            at = re.split(r"[.\[]", field)[0]  # a key or an item of it
            assert at == ("query" if text in NOT_UTF8 else name), (path, text)


async def test_an_id_in_a_path_with_text_that_cannot_be_stored_is_not_found(
    either: AppClient,
) -> None:
    for endpoint in ENDPOINTS:
        names = [name for name in PATH_IDS if f"{{{name}}}" in endpoint.path]
        for name in names:
            for text in (*NUL, *NOT_UTF8):
                path = endpoint.path.format_map({**PATH_IDS, "version": "1", name: text})
                reply = await either.send(
                    endpoint.method, f"/budget/v1{path}", content=b"{}" if names else None
                )
                assert reply.status_code in {400, 404}, (endpoint.operation, text, reply.text)

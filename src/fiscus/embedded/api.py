"""`Fiscus`, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pydantic

from fiscus.client.arguments import given_text
from fiscus.client.blocking.api import BlockingApi
from fiscus.clock import Clock
from fiscus.embedded.backend import EngineBackend
from fiscus.errors import ValidationError
from fiscus.scopes import parse_id
from fiscus.settings import Settings, wrong_setting
from fiscus.wiring.engine import open_engine


class Fiscus(BlockingApi):
    """Fiscus inside this process: the same calls as `Client`, straight to the engine.

    The program is trusted with every tenant. Safe to share among threads; calls block, so in an
    event loop run them by `asyncio.to_thread`. Close it when done, or use it in a `with`; a call on
    a closed one raises `ServiceUnavailable`, one in a forked process `Conflict`.

    >>> with Fiscus.open(data_dir="fiscus-data", tenant="acme") as fiscus:
    ...     with fiscus.reserve(project="search", resource_type="llm", estimate="0.02") as r:
    ...         r.settle("0.0187")
    """

    if not TYPE_CHECKING:  # type checkers tell of what is missing themselves

        def __init__(self, *opened: object, **named: object) -> None:
            match opened:
                case (EngineBackend() as backend, tenant) if not named:
                    super().__init__(backend, tenant)
                case _:
                    raise TypeError("use Fiscus.open(data_dir=…): it opens the stores first")

    @classmethod
    def open(
        cls,
        *,
        data_dir: str | Path | None = None,
        database_url: str | None = None,
        clock: Clock | None = None,
        tenant: str | None = None,
        **settings: Any,
    ) -> Self:
        """Open the stores, making or updating their tables.

        Without `database_url` that is SQLite in `data_dir`. Any other setting can be given by its
        name (see `fiscus.settings.Settings`); what is not given comes from the environment.
        `tenant` stands in where a call names none; it is the setting `default_tenant` by default.
        Raises `ValidationError` for a wrong setting, `ServiceUnavailable` when the database cannot
        be reached, and `Conflict` when its SQLite file was open here before a fork.
        """
        given = {"data_dir": data_dir, "database_url": database_url, **settings}
        checked = _settings(given)
        tenant = checked.default_tenant if tenant is None else given_text(tenant, "tenant")
        tenant = parse_id(tenant, "tenant")
        return cls(EngineBackend(open_engine(checked, clock=clock), tenant), tenant)


def _settings(given: Mapping[str, Any]) -> Settings:
    named = {name: one for name, one in given.items() if one is not None}
    for name in named:
        if name not in Settings.model_fields:
            raise ValidationError(
                f"{name} is not a setting",
                field=name,
                suggested_action="Known: " + ", ".join(sorted(Settings.model_fields)) + ".",
            )
    try:
        return Settings(**named)
    except pydantic.ValidationError as error:
        name, what = wrong_setting(error)
        raise ValidationError(
            f"{name} {what}", field=name, suggested_action=f"Correct {name}."
        ) from None

"""Settings of a command: the environment's, with what the command line says on top."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from fiscus.cli.terminal import CommandError, UsageError
from fiscus.settings import Settings, wrong_setting


def _folder(text: str) -> Path:
    """`Path("")` is the working folder, which nobody means who gives an empty name."""
    if not text:
        raise UsageError(
            "--data-dir is empty",
            suggested_action="name a folder (. is the working folder), or leave it out for its "
            "default.",
        )
    return Path(text)


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        parser=_folder,
        metavar="PATH",
        help="Folder of the SQLite file and keys; default FISCUS_DATA_DIR, or fiscus-data.",
    ),
]

PREFIX: Final = "FISCUS_"


def read_settings(**given: Any) -> Settings:
    """The settings; what is given and not None wins. Raises `CommandError` naming the wrong one."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        wrong, what = wrong_setting(error)
        name = PREFIX + wrong.upper()
        raise CommandError(
            f"the setting {name} is wrong: it {what}",
            suggested_action=f"correct {name}, or leave it out for its default.",
        ) from None

"""Traces of LLM services in the format of the Azure public dataset."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from fiscus.cli.terminal import CommandError

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceRequest(NamedTuple):
    """One request to a model: seconds since the first one, tokens in, tokens out."""

    offset_seconds: float
    input_tokens: int
    output_tokens: int


def read_azure_llm(path: Path, limit: int | None = None) -> list[TraceRequest]:
    """The first `limit` requests of a `.csv` or `.csv.gz`, in the order of the file.

    Raises `CommandError` that names the line which cannot be read.
    """
    try:
        with _open(path) as file:
            requests = list(islice(_rows(file, path), limit))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from None
    if not requests:
        raise CommandError(f"{path} holds no requests")
    return requests


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _rows(file: TextIO, path: Path) -> Iterator[TraceRequest]:
    reader = csv.DictReader(file)
    if reader.fieldnames is None or any(name not in reader.fieldnames for name in COLUMNS):
        raise CommandError(
            f"{path} is not an Azure LLM trace: its columns are not {', '.join(COLUMNS)}",
            suggested_action="Take AzureLLMInferenceTrace_conv.csv of Azure/AzurePublicDataset.",
        )
    start: datetime | None = None
    for row in reader:
        try:
            # Python reads at most 6 of the 7 fractional digits
            moment = datetime.fromisoformat(row[COLUMNS[0]][:26])
            tokens = int(row[COLUMNS[1]]), int(row[COLUMNS[2]])
            if min(tokens) < 0:
                raise ValueError
        except (ValueError, TypeError):
            raise CommandError(f"{path}, line {reader.line_num}: not a request: {row}") from None
        start = start or moment
        yield TraceRequest((moment - start).total_seconds(), *tokens)

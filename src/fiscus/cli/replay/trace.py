"""Traces of LLM services in the format of the Azure public dataset."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

from fiscus.cli.terminal import CommandError, cannot_be_read

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BEYOND: Final = "beyond the last column"
_WHICH_TRACE: Final = "take AzureLLMInferenceTrace_conv.csv of Azure/AzurePublicDataset."


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
            requests = list(islice(_requests(file, path), limit))
    except OSError as error:
        raise cannot_be_read(path, error) from None
    if not requests:
        raise CommandError(f"{path} holds no requests", suggested_action=_WHICH_TRACE)
    return requests


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _requests(file: BinaryIO, path: Path) -> Iterator[TraceRequest]:
    start: datetime | None = None
    for number, row in _rows(file, path):
        try:
            moment = datetime.fromisoformat(row[COLUMNS[0]])
            tokens = int(row[COLUMNS[1]]), int(row[COLUMNS[2]])
            if min(tokens) < 0 or _BEYOND in row:
                raise ValueError
        except (ValueError, TypeError):
            raise CommandError(
                f"{path}, line {number}: not a request: {row}", suggested_action=_WHICH_TRACE
            ) from None
        start = start or moment
        if (moment.tzinfo is None) != (start.tzinfo is None):
            raise CommandError(
                f"{path}, line {number}: of {moment} and the first TIMESTAMP, {start}, "
                "only one says its offset from UTC"
            )
        yield TraceRequest((moment - start).total_seconds(), *tokens)


def _rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by their columns' names, each with the number of its line."""
    # decoded line by line, so that what is no UTF-8 has a number; a BOM may begin the first
    reader = csv.DictReader((line.decode("utf-8-sig") for line in file), restkey=_BEYOND)
    try:
        if reader.fieldnames is None or any(name not in reader.fieldnames for name in COLUMNS):
            raise CommandError(
                f"{path} is not an Azure LLM trace: its columns are not {', '.join(COLUMNS)}",
                suggested_action=_WHICH_TRACE,
            )
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        number = reader.reader.line_num
        raise CommandError(f"{path}, line {number}: not a row of CSV: {error}") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise CommandError(
            f"{path} cannot be read after line {reader.line_num}: {error}",
            suggested_action="see whether it is complete, and in UTF-8.",
        ) from None

"""Traces of requests for `fiscus simulate`: NDJSON, CSV and access logs, a request per line."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw
from rich.text import Text

from fiscus.cli.simulate.input import Input, Line
from fiscus.cli.terminal import CommandError, notes
from fiscus.clock import from_us, to_us
from fiscus.errors import ValidationError
from fiscus.money import EXACT
from fiscus.ratelimits.calls import RateLimitCheckRequest
from fiscus.wire.converting import convert
from fiscus.wire.decoding import decode
from fiscus.wire.texts import Label

LOG_RESOURCE_TYPE: Final = "http"

_LATEST_US: Final = to_us(datetime(2200, 1, 1, tzinfo=UTC))
_SECONDS: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?\Z")
_LOG_LINE: Final = re.compile(
    # client, identity, user (with blanks in it at worst), [day/month/year:time zone], request
    r"(?P<client>\S{1,1024}) \S+ (?!- [^\[]).+? "
    r"\[(?P<day>\d\d)/(?P<month>[A-Z][a-z][a-z])/(?P<year>\d{4}):(?P<time>\d\d:\d\d:\d\d) "
    r'(?P<hours>[+-]\d\d)(?P<minutes>\d\d)\] "'
)
_MONTHS: Final = {
    name: f"{number:02}"
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}


class TraceFormat(StrEnum):
    AUTO = "auto"
    NDJSON = "ndjson"
    CSV = "csv"
    ACCESS_LOG = "access-log"


class TraceLine(RateLimitCheckRequest, frozen=True, kw_only=True):
    """A request of a trace; `time` is JSON, as the trace writes it."""

    time: Raw
    resource_type: Label = "api"


class _LenientLine(TraceLine, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The same, fields of other names overlooked."""


class Request(NamedTuple):
    """A line of a trace and its moment. `in_seconds`: its time is a number, not RFC 3339."""

    line: TraceLine
    at: datetime
    at_us: int
    in_seconds: bool


Read = Callable[[bytes], Request]
"""Reads one line; raises `ValidationError` naming the field."""

_FIELDS: Final = frozenset(TraceLine.__struct_fields__)
_times: Final = msgspec.json.Decoder(datetime)


class Trace:
    """The requests of a trace, once through, in the order of the file.

    `skip_bad_lines`: lines that cannot be read are counted in `skipped` and left out.
    """

    def __init__(
        self, source: Input, form: TraceFormat = TraceFormat.AUTO, *, skip_bad_lines: bool = False
    ) -> None:
        self._source = source
        self._form = form
        self._skip_bad_lines = skip_bad_lines
        self.skipped = 0

    def __iter__(self) -> Iterator[Request]:
        """Raises `CommandError` naming file, line and field of what cannot be read."""
        lines = self._source.lines()
        first = next(lines, None)
        if first is None:
            return
        form = self._form_of(first) if self._form is TraceFormat.AUTO else self._form
        if form is TraceFormat.CSV:
            yield from self._read(lines, self._csv(first))
            return
        read = _JsonReader(self._source.name) if form is TraceFormat.NDJSON else read_log_line
        yield from self._read([first], read)
        yield from self._read(lines, read)

    def _read(self, lines: Iterator[Line] | list[Line], read: Read) -> Iterator[Request]:
        for number, content in lines:
            try:
                request = read(content)
            except ValidationError as error:
                if not self._skip_bad_lines:
                    raise self._bad(number, error) from None
                self.skipped += 1
            else:
                yield request

    def _form_of(self, first: Line) -> TraceFormat:
        content = first.content
        if content.startswith(b"{"):
            return TraceFormat.NDJSON
        if _LOG_LINE.match(_text(content)):
            return TraceFormat.ACCESS_LOG
        if b"time" in [name.strip(b' "') for name in content.split(b",")]:
            return TraceFormat.CSV
        what = "neither a JSON object, nor a line of an access log, nor a CSV header with `time`"
        todo = "give the format with --format if only this line is at fault."
        if content.startswith(b"["):
            what = "the beginning of a JSON array; one object a line is wanted"
            todo = "make lines of it: `jq -c '.[]'`."
        raise CommandError(f"{self._source.name}:{first.number}: {what}", suggested_action=todo)

    def _csv(self, header: Line) -> _CsvReader:
        try:
            return _CsvReader(header.content, self._source.name)
        except ValidationError as error:
            raise CommandError(
                f"{self._source.name}:{header.number}: {error.message}",
                suggested_action=error.suggested_action,
            ) from None

    def _bad(self, number: int, error: ValidationError) -> CommandError:
        todo = (error.suggested_action or f"Correct {error.field}.").removesuffix(".")
        todo = todo.replace(" and send it again", "")
        return CommandError(
            f"{self._source.name}:{number}: {error.message}",
            suggested_action=f"{todo[0].lower()}{todo[1:]}; or leave such lines out with "
            "--skip-bad-lines.",
        )


class _JsonReader:
    """A JSON object per line. The first one with fields of other names is told; all are read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_told = False

    def __call__(self, content: bytes) -> Request:
        if self._is_told:
            return _request(decode(content, _LenientLine))
        try:
            return _request(decode(content, TraceLine))
        except ValidationError:
            request = _request(decode(content, _LenientLine))
        others = sorted(decode(content, dict[str, Raw]).keys() - _FIELDS)
        _tell_overlooked(self._name, others)
        self._is_told = True
        return request


class _CsvReader:
    """Rows of CSV, one per line, by the names in its header. Empty cells are not given."""

    def __init__(self, header: bytes, name: str) -> None:
        self._columns = _row(header)
        self._wanted = [(at, one) for at, one in enumerate(self._columns) if one in _FIELDS]
        names = [one for _, one in self._wanted]
        if "time" not in names:
            raise _wrong("time", "the CSV header has no column `time`", "Name it.")
        if len(set(names)) < len(names):
            raise _wrong("header", "the CSV header names a column twice", "Rename one of them.")
        others = [one for one in self._columns if one not in _FIELDS]
        if others:
            _tell_overlooked(name, others)

    def __call__(self, content: bytes) -> Request:
        row = _row(content)
        if len(row) != len(self._columns):
            raise _wrong(
                "row",
                f"the row has {len(row)} cells, the header {len(self._columns)}",
                "Quote cells that hold commas.",
            )
        values: dict[str, Any] = {one: row[at] for at, one in self._wanted if row[at]}
        if "request_count" in values:
            values["request_count"] = _whole(values["request_count"])
        if "time" in values:
            time = values["time"]
            values["time"] = Raw(time if _SECONDS.match(time) else msgspec.json.encode(time))
        return _request(convert(values, TraceLine))


def read_log_line(content: bytes) -> Request:
    """A line of an access log in common or combined format.

    The client's address is the `resource_key`. What follows the beginning of the request is not
    looked at.
    """
    match = _LOG_LINE.match(_text(content))
    if match is None:
        raise _wrong(
            "line",
            "not a line of an access log in common or combined format",
            "Correct it: client - user [17/May/2015:10:05:03 +0000] and the request.",
        )
    client, day, month, year, time, hours, minutes = match.groups()
    text = f"{year}-{_MONTHS.get(month, month)}-{day}T{time}{hours}:{minutes}"
    line = TraceLine(time=Raw(f'"{text}"'), resource_type=LOG_RESOURCE_TYPE, resource_key=client)
    return _request(line)


# ---------------------------------------------------------------- moments


def _request(line: TraceLine) -> Request:
    written = bytes(line.time)
    text = _text(written if written[:1] != b'"' else written[1:-1])
    if _SECONDS.match(text):
        at_us = _microseconds(text)
        return Request(line, from_us(at_us), at_us, True)
    try:
        at = _times.decode(written)
    except msgspec.MsgspecError:
        raise _wrong(
            "time",
            f"time: {_text(written[:60])} is neither seconds nor RFC 3339",
            "Write seconds since 1970 such as 1767225600.25, or a time such as "
            "2026-01-31T09:00:00Z.",
        ) from None
    if at.tzinfo is None:
        raise _wrong(
            "time",
            f"time: {text} has no time zone",
            "Write its offset, such as 2026-01-31T09:00:00Z or 2026-01-31T09:00:00+01:00.",
        )
    at_us = to_us(at)
    if not 0 <= at_us <= _LATEST_US:
        raise _wrong("time", f"time: {text} is not from 1970 to 2199", "Correct it.")
    return Request(line, at.astimezone(UTC), at_us, False)


def _microseconds(text: str) -> int:
    """Seconds as text to the nearest microsecond."""
    whole, _, part = text.partition(".")
    if len(whole) < 12 and len(part) <= 6 and (part.isdigit() or not part) and whole.isdigit():
        at_us = int(whole) * 1_000_000 + int(f"{part:0<6}")
    else:
        at_us = int(EXACT.scaleb(Decimal(text), 6).to_integral_value())
    if at_us > _LATEST_US:
        raise _wrong(
            "time",
            f"time: {text} seconds is beyond the year 2199",
            "Divide milliseconds by 1000.",
        )
    return at_us


# ---------------------------------------------------------------- pieces


def _text(content: bytes) -> str:
    # logs hold what clients sent, in any encoding
    return content.decode(errors="backslashreplace")


def _row(content: bytes) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([content.decode()], strict=True))]
    except (csv.Error, UnicodeDecodeError) as error:
        raise _wrong(
            "row", f"not a row of CSV: {error}", "Write it in UTF-8, on one line."
        ) from None


def _whole(text: str) -> int:
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 18:
        raise _wrong(
            "request_count", f"request_count: {text[:60]!r} is no whole number", "Correct it."
        )
    return int(text)


def _wrong(field: str, message: str, todo: str) -> ValidationError:
    return ValidationError(message, field=field, suggested_action=todo)


def _tell_overlooked(name: str, others: list[str]) -> None:
    text = f"{name}: fields of other names are not looked at: {', '.join(others)}"
    notes.print(Text(text, "yellow"), soft_wrap=True)

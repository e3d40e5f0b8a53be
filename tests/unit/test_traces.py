"""Traces of requests: what a line says, and which line is told when it says nothing sound."""

from __future__ import annotations

import gzip
import io
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from fiscus.cli.simulate.input import Input
from fiscus.cli.simulate.traces import Request, Trace, TraceFormat
from fiscus.cli.terminal import CommandError

if TYPE_CHECKING:
    from pathlib import Path

CSV = TraceFormat.CSV
COMBINED = (
    '83.149.9.216 - - [17/May/2015:10:05:03 +0200] "GET /a HTTP/1.1" 200 203023 "-" "Mozilla/5.0"'
)


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str | bytes, form: TraceFormat = TraceFormat.AUTO) -> list[Request]:
        path = tmp_path / "trace"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        with closing(Input(str(path))) as source:
            return list(Trace(source, form))

    return read_text


def refusal(read, text: str | bytes, form: TraceFormat = TraceFormat.AUTO) -> str:
    with pytest.raises(CommandError) as caught:
        read(text, form)
    return caught.value.message.partition("trace")[2]


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("written", "at_us"),
    [
        ("0", 0),
        ("9.999", 9_999_000),
        ("158.5", 158_500_000),
        ("1700000000.123456", 1_700_000_000_123_456),
        ("0.0000004", 0),
        ("0.0000006", 1),
        ("1.5e3", 1_500_000_000),
        ('"158.5"', 158_500_000),
        ('"1970-01-01T00:00:09.999Z"', 9_999_000),
        ('"1970-01-01T01:00:00+01:00"', 0),
        ('"2026-01-31T09:00:00.123456789Z"', 1_769_850_000_123_457),
    ],
)
def test_time_is_exact_to_the_microsecond(read, written: str, at_us: int) -> None:
    (request,) = read(f'{{"time": {written}}}')
    assert request.at_us == at_us
    assert bytes(request.line.time).decode() == written
    assert request.at == datetime.fromtimestamp(at_us // 10**6, UTC).replace(
        microsecond=at_us % 10**6
    )


def test_number_is_told_from_a_time_of_day(read) -> None:
    seconds, moment = read('{"time":5}\n{"time":"1970-01-01T00:00:05Z"}')
    assert (seconds.at_us, seconds.in_seconds) == (5_000_000, True)
    assert (moment.at_us, moment.in_seconds) == (5_000_000, False)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"2026-01-31T09:00:00"', ":1: time: 2026-01-31T09:00:00 has no time zone"),
        ('"yesterday"', ':1: time: "yesterday" is neither seconds nor RFC 3339'),
        ("-1", ":1: time: -1 is neither seconds nor RFC 3339"),
        ("true", ":1: time: true is neither seconds nor RFC 3339"),
        ("null", ":1: time: null is neither seconds nor RFC 3339"),
        ("1700000000000", ":1: time: 1700000000000 seconds is beyond the year 2199"),
        ("1e99", ":1: time: 1e99 seconds is beyond the year 2199"),
        ('"1969-12-31T23:59:59Z"', ":1: time: 1969-12-31T23:59:59Z is not from 1970 to 2199"),
        ('"0001-01-01T00:00:00+05:00"', ":1: time: 0001-01-01T00:00:00+05:00 is not from 1970"),
    ],
)
def test_wrong_time_is_refused_by_file_line_and_field(read, written: str, said: str) -> None:
    assert refusal(read, f'{{"time": {written}}}').startswith(said)


def test_a_time_that_is_no_utf_8_is_refused_as_any_that_is_wrong(read) -> None:
    said = refusal(read, b'{"time": "\xff"}')
    assert said.startswith(r':1: time: "\xff" is neither seconds nor RFC 3339')


# ---------------------------------------------------------------- NDJSON


def test_json_line_carries_every_field(read) -> None:
    (request,) = read(
        '{"time":1,"tenant_id":"acme","resource_type":"llm","resource_key":"gpt","request_count":0,'
        '"priority":"high","project_id":"p","user_id":"u","feature_id":"f","api_key_id":"k"}'
    )
    line = request.line
    assert (line.tenant_id, line.resource_type, line.resource_key) == ("acme", "llm", "gpt")
    assert (line.request_count, line.priority, line.project_id) == (0, "high", "p")
    assert (line.user_id, line.feature_id, line.api_key_id) == ("u", "f", "k")


def test_json_line_needs_only_a_time(read) -> None:
    (request,) = read('{"time":1}')
    line = request.line
    assert (line.tenant_id, line.resource_type, line.resource_key) == (None, "api", None)
    assert (line.request_count, line.priority) == (1, None)


def test_blank_lines_and_a_byte_order_mark_are_passed_over(read) -> None:
    assert len(read(b'\xef\xbb\xbf\r\n{"time":1}\r\n\r\n{"time":2}\r\n')) == 2


def test_unknown_fields_are_told_once_and_overlooked(read, capsys) -> None:
    requests = read('{"time":1}\n{"time":2,"verb":"GET","ok":true}\n{"time":3,"verb":"PUT"}')
    assert [request.at_us for request in requests] == [1_000_000, 2_000_000, 3_000_000]
    assert capsys.readouterr().err.count("not looked at: ok, verb") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", ":2: The body is not valid JSON"),
        ('{"tenant_id":"a"}', ":2: time is missing"),
        ('{"time":1,"request_count":-1}', ":2: request_count: "),
        ('{"time":1,"request_count":1.5}', ":2: request_count: "),
        ('{"time":1,"priority":"urgent"}', ":2: priority: "),
        ('{"time":1,"user_id":"ada@example.com"}', ":2: user_id: must be 1 to 128 letters"),
        ('{"time":1,"resource_key":""}', ":2: resource_key: "),
        ("[1]", ":2: body: "),
    ],
)
def test_wrong_json_line_is_refused_by_file_line_and_field(read, line: str, said: str) -> None:
    assert refusal(read, f'{{"time":1}}\n{line}\n{{"time":2}}').startswith(said)


# ---------------------------------------------------------------- CSV


def test_csv_is_read_by_the_names_of_its_header(read, capsys) -> None:
    first, second = read(
        "status,time,tenant_id,resource_key,request_count,priority\n"
        '200,9.999,acme,"a, b",3,low\n'
        "429,2026-01-31T09:00:00Z,acme,,,\n"
    )
    assert (first.at_us, first.in_seconds) == (9_999_000, True)
    assert bytes(first.line.time) == b"9.999"
    assert (first.line.resource_key, first.line.request_count) == ("a, b", 3)
    assert first.line.priority == "low"
    assert bytes(second.line.time) == b'"2026-01-31T09:00:00Z"'
    assert (second.line.resource_key, second.line.request_count) == (None, 1)
    assert second.line.resource_type == "api"
    assert capsys.readouterr().err.count("not looked at: status") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenant_id\nacme", ":1: the CSV header has no column `time`"),
        ("time,time\n1,2", ":1: the CSV header names a column twice"),
        ("time,user_id\n1", ":2: the row has 1 cells, the header 2"),
        ("time,request_count\n1,2\n\n1,ten", ":4: request_count: 'ten' is no whole number"),
        ("time,request_count\n1,-1", ":2: request_count: "),
        ("time,user_id\n,ada", ":2: time is missing"),
        ("time,user_id\n2026-01-31T09:00:00,ada", ":2: time: 2026-01-31T09:00:00 has no time zone"),
        ('time,user_id\n1,"ada', ":2: not a row of CSV"),
        (b"time,resource_key\n1,\xff", ":2: not a row of CSV"),
    ],
)
def test_wrong_csv_is_refused_by_file_line_and_field(read, text: str | bytes, said: str) -> None:
    assert refusal(read, text, CSV).startswith(said)


# ---------------------------------------------------------------- access logs


@pytest.mark.parametrize(
    "line",
    [
        COMBINED,
        '83.149.9.216 - - [17/May/2015:10:05:03 +0200] "GET /a HTTP/1.1" 200 -',
        '83.149.9.216 - ada lovelace [17/May/2015:10:05:03 +0200] "-" 408 0',
        '83.149.9.216 - - [17/May/2015:10:05:03 +0200] "GET /cut off',
    ],
)
def test_access_log_line_is_a_request_of_the_client(read, line: str) -> None:
    (request,) = read(line)
    assert request.at == datetime(2015, 5, 17, 8, 5, 3, tzinfo=UTC)
    assert bytes(request.line.time) == b'"2015-05-17T10:05:03+02:00"'
    assert (request.line.resource_type, request.line.resource_key) == ("http", "83.149.9.216")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", ":2: not a line of an access log"),
        (COMBINED.replace("17/May", "31/Feb"), ":2: time: "),
        (COMBINED.replace("May", "Mai"), ":2: time: "),
        (f"example.com:80 {COMBINED}", ":2: not a line of an access log"),
    ],
)
def test_wrong_log_line_is_refused_by_file_and_line(read, line: str, said: str) -> None:
    assert refusal(read, f"{COMBINED}\n{line}").startswith(said)


def test_log_line_in_another_encoding_is_read(read) -> None:
    (request,) = read(COMBINED.replace("/a", "/ä").encode("latin-1"))
    assert request.line.resource_key == "83.149.9.216"


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time;user_id\n1;ada", ":1: neither a JSON object"),
        ('[{"time":1}]', ":1: the beginning of a JSON array"),
    ],
)
def test_unknown_format_is_told(read, text: str, said: str) -> None:
    assert refusal(read, text).startswith(said)


def test_bad_lines_are_counted_when_they_may_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text('{"time":1}\n{"time":\n{"time":"soon"}\n{"time":2}\n')
    with closing(Input(str(path))) as source:
        trace = Trace(source, skip_bad_lines=True)
        assert [request.at_us for request in trace] == [1_000_000, 2_000_000]
    assert trace.skipped == 2


def test_gzip_is_read_whatever_its_name(read) -> None:
    assert len(read(gzip.compress(b'{"time":1}\n{"time":2}\n'))) == 2


def test_gzip_cut_off_is_told(read) -> None:
    lines = b"".join(b'{"time":%d}\n' % second for second in range(10_000))
    assert "cannot be read after line" in refusal(read, gzip.compress(lines)[:-20])


def test_line_without_an_end_is_refused_without_reading_it_whole(read) -> None:
    assert refusal(read, b'{"time":1, "x": "' + b"x" * (2 << 20)).startswith(
        ":1: the line is longer than"
    )


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        Input(str(tmp_path / "missing"))


def test_lines_come_before_the_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            line = b'{"time":1}\n'
            buffer[: len(line)] = line
            return len(line)

    stdin = io.TextIOWrapper(io.BufferedReader(Endless()))
    monkeypatch.setattr("sys.stdin", stdin)
    requests = iter(Trace(Input("-")))
    assert [next(requests).at_us for _ in range(3)] == [1_000_000] * 3

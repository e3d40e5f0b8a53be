"""The decision records know of each other, and the index shows what they say."""

from __future__ import annotations

import re
from pathlib import Path

DECISION_ENDPOINTS = Path(__file__).parents[2] / "docs" / "decisions"
LINKS = r"(?:(?:, | and of | and )?\[\d{4}\]\(\S+?\.md\)(?: \([^)]+\))?)+"


def linked(after: str, status: str) -> list[str]:
    found = re.search(f"{after} ({LINKS})", status)
    return re.findall(r"\[(\d{4})\]", found[1]) if found else []


class Record:
    def __init__(self, path: Path) -> None:
        heading, status = path.read_text().split("\n\n")[:2]
        status = status.replace("\n", " ")
        self.file = path.name
        self.number, self.title = heading.removeprefix("# ").split(": ", 1)
        self.state = re.findall(r"^Status: (accepted|replaced)\b", status)
        self.changes = linked("Changes a part of", status)
        self.changed_by = linked("parts? changed by", status)


RECORDS = [Record(path) for path in sorted(DECISION_ENDPOINTS.glob("[0-9]*.md"))]


def test_a_record_names_those_that_changed_a_part_of_it() -> None:
    by = [(one.number, later) for one in RECORDS for later in one.changed_by]
    assert by == sorted((number, one.number) for one in RECORDS for number in one.changes)
    assert len(by) > 5


def test_the_index_shows_each_record_with_its_title_and_status() -> None:
    rows = re.findall(r"^\| \[.*", (DECISION_ENDPOINTS / "README.md").read_text(), re.MULTILINE)
    expected = []
    for one in RECORDS:
        (state,) = one.state
        status = ", changed by ".join(filter(None, [state, ", ".join(one.changed_by)]))
        expected.append(f"| [{one.number}]({one.file}) | {one.title} | {status} |")
    assert rows == expected

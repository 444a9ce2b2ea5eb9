"""Files that grow: a line that a kill cut off is as if it had not been written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specs_lightning.records.lines import append_lines, readable_lines


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (None, []),
        ("", []),
        ("[1]\n", [[1]]),
        ("[1]\n[2", [[1]]),
        ("[2", []),
        ("[1]\n[2]", [[1], [2]]),
        ('["a\u2028b"]\n', [["a\u2028b"]]),
    ],
)
def test_what_is_added_begins_a_line(tmp_path: Path, before: str | None, kept: list[list[object]]) -> None:
    file = tmp_path / "new" / "rows.jsonl"
    if before is not None:
        file.parent.mkdir()
        file.write_text(before, encoding="utf-8")
    append_lines(file, [[3], [4]])
    append_lines(file, [])
    lines = file.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [*kept, [3], [4]] and lines[-1] == ""


def test_lines_that_are_no_json_are_left_out_where_they_are_made_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'[1]\n[2\n\n\xff\n[3]\n"cut')
    assert [(line.number, line.content) for line in readable_lines(file)] == [(1, b"[1]"), (5, b"[3]")]
    assert list(readable_lines(tmp_path / "missing")) == []

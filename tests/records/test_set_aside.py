"""Rows that were set aside, as they stand in the file."""

from __future__ import annotations

from pathlib import Path

from specs_lightning.records.set_aside import SET_ASIDE, SetAsideRow


def test_lines_and_numbers_read_back_with_their_kind(tmp_path: Path) -> None:
    rows = [SetAsideRow("a.jsonl", 3, "missing image: c\u2028at.png"), SetAsideRow("b", "7", "missing question")]
    SET_ASIDE.write(tmp_path, rows)
    assert SET_ASIDE.read(tmp_path) == rows
    assert [row.kind for row in rows] == ["missing image", "missing question"]

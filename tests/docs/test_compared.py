"""docs/compared.md: every cell of ours names files that are there, or says that there is none."""

from __future__ import annotations

import re

import pytest
from helpers.command_line import ROOT

TEXT = (ROOT / "docs" / "compared.md").read_text()
COLUMNS = ["", "TRL", "EasyR1", "verl", "ms-swift", "LLaMA-Factory", "NeMo RL", "Ours"]
TABLES = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE)]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


ROWS = [cells(row) for table in TABLES for row in table[2:]]


def test_every_table_has_all_columns() -> None:
    assert len(TABLES) == 3 and all(cells(table[0]) == COLUMNS for table in TABLES)
    assert all(len(row) == len(COLUMNS) and all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_ours_names_files_that_are_there_or_says_that_it_has_none(row: list[str]) -> None:
    named = re.findall(r"`(specs_lightning/[\w/.]+)`", row[-1])
    assert named or "*not*" in row[-1]
    assert [file for file in named if not (ROOT / file).is_file()] == []

"""Cells that a spreadsheet would take for formulas are text there, and as they were when they are read again."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_lightning.records.csv_text import csv_rows, csv_text
from specs_lightning.records.metrics import FILE, MetricsTable, read_metrics
from specs_lightning.records.record import DamagedRecord

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("http://host.invalid")']


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_cell_like_a_formula_is_text_to_a_spreadsheet(cell: str) -> None:
    ((first, second),) = csv.reader(io.StringIO(csv_text([[cell, f"a{cell}"]]), newline=""))
    assert (first, second) == (f"'{cell}", f"a{cell}")


@pytest.mark.parametrize("number", [-1.5, "-1.5", "+2", "-1e-06", "-inf", 3])
def test_a_number_stays_a_number(number: object) -> None:
    assert csv_text([[number]]) == f"{number}\n"


def test_a_row_is_a_line() -> None:
    assert csv_text([["a\r\nb", "\r=1", "c"]]) == "a b, =1,c\n"


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), min_size=1)))
def test_what_is_read_again_is_what_was_given(rows: list[list[str]]) -> None:
    assert csv_rows(csv_text(rows)) == rows


def test_the_metrics_of_a_training_keep_their_names_when_columns_are_added(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / FILE)
    table.add({"step": 1, "=mine": -0.5})
    table.add({"step": 2, "=mine": -0.25, "@other": 1.0, "'=quoted": 2.0})
    again = MetricsTable(tmp_path / FILE)
    again.keep(2)
    again.add({"step": 3, "=mine": 0.0})
    assert (tmp_path / FILE).read_text().splitlines()[:2] == ["step,'=mine,'@other,''=quoted", "1,-0.5,,"]
    found = read_metrics(tmp_path)
    assert found["=mine"].values == (-0.5, -0.25, 0.0) and found["'=quoted"].steps == (2,)


def test_what_is_no_csv_is_refused(tmp_path: Path) -> None:
    limit = csv.field_size_limit(1000)
    try:
        (tmp_path / FILE).write_text("step,a\n1," + "9" * 2000 + "\n")  # a field beyond the reader's limit
        with pytest.raises(DamagedRecord, match="no CSV file"):
            read_metrics(tmp_path)
    finally:
        csv.field_size_limit(limit)

"""CSV that a spreadsheet opens without running anything of it.

A cell of text that begins like a formula gets an apostrophe in front, which tells a spreadsheet that it is text
(OWASP, "CSV Injection"); a reader takes it off again. Numbers stay as they are. A row is a line: line breaks within a
cell become spaces.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t]")
_BREAKS = re.compile(r"[\r\n]+")


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_as_text(cell) for cell in row] for row in rows)
    return text.getvalue()


def csv_rows(text: str) -> list[list[str]]:
    """The rows of what `csv_text` wrote; `csv.Error` for what is no CSV."""
    return [[_as_given(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]


def _as_text(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    line = _BREAKS.sub(" ", cell)
    return f"'{line}" if _FORMULA.match(line) and not _is_number(line) else line


def _as_given(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(cell: str) -> bool:
    with suppress(ValueError):
        float(cell)
        return True
    return False

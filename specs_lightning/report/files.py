"""Reads the files of a run folder, which may still be growing while they are read.

What is not there is empty, for a report is also wanted half-way. What is there and malformed raises: the one exception
is the last line of a file that a running stage is about to finish.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Series:
    """One logged metric: its values by step. A value that was logged and is not finite is NaN, never dropped."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def not_finite(self) -> int:
        return sum(math.isnan(value) for value in self.values)


def finite(value: Any) -> float | None:
    """A number as a float; None for what is absent, not a number, NaN or infinite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def as_text(value: Any) -> str:
    """A text as it is, None as nothing, and anything else (a list of messages) as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def read_lines(path: Path) -> list[str]:
    """The complete lines of a JSONL file, unparsed, so that a long file costs no more than what is shown of it."""
    if not path.exists():
        return []
    # Lines end at "\n" alone: `splitlines` would also cut at the line separators that JSON leaves unescaped.
    *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [line for line in [*lines, *([last] if _is_whole(last) else [])] if line.strip()]


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def spread(lines: list[str], limit: int) -> list[str]:
    """At most `limit` lines, evenly spaced, the first and the last among them."""
    if len(lines) <= limit:
        return lines
    return [lines[round(i * (len(lines) - 1) / (limit - 1))] for i in range(limit)]


def read_metrics(path: Path) -> dict[str, Series]:
    """The columns of Lightning's sparse `metrics.csv`. A step logged twice (a resumed run) keeps its last value."""
    if not path.exists():
        return {}
    columns: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = _parse(row.get("step"))
            if step is None or math.isnan(step):
                continue
            for name, cell in row.items():
                # DictReader puts the surplus cells of a malformed line under the key None.
                value = _parse(cell) if name not in (None, "step") else None
                if value is not None:
                    columns.setdefault(name, {})[int(step)] = value
    return {
        name: Series(tuple(sorted(values)), tuple(values[step] for step in sorted(values)))
        for name, values in columns.items()
    }


def _parse(cell: str | None) -> float | None:
    """None for a cell that is empty or no number; NaN for every value that is not finite."""
    try:
        value = float(cell) if cell else None
    except ValueError:
        return None
    return math.nan if value is not None and math.isinf(value) else value

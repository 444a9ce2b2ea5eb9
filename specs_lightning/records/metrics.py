"""`metrics.csv`: what a training logs, a row for each call, with columns that come as they are logged."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs_lightning.records.csv_text import csv_rows, csv_text
from specs_lightning.records.record import ONLY_SHOWN, DamagedRecord, read_bytes
from specs_lightning.system.files import keep_lines, naming_what_has_no_room, sync, write_atomically

FILE = "metrics.csv"
STEP = "step"
SPEED = "speed/"
"""How the names of figures begin that are others each time, though all else is the same."""


def is_timing(name: str) -> bool:
    """Whether a figure tells of time, and not of what was learned."""
    return name.startswith(SPEED) or name.endswith("_seconds")


RENAMED = {
    "train/reward_chosen": "train/rewards/chosen",
    "train/reward_rejected": "train/rewards/rejected",
    "train/reward_margin": "train/rewards/margins",
    "train/preference_accuracy": "train/rewards/accuracies",
    "train/clipped": "train/clip_ratio/region_mean",
    "train/reference_kl": "train/kl",
    "train/completion_tokens": "train/completions/mean_length",
    "train/truncated": "train/completions/clipped_ratio",
}
"""What figures of a training were called before they had the field's names, as each reward's mean was."""
_BEFORE = {new: old for old, new in RENAMED.items()}
_REWARD, _REWARD_BEFORE = re.compile("train/rewards/(.+)/mean"), re.compile("train/reward/(.+)")


def current_name(name: str) -> str:
    """The name of a figure today, whatever it was logged as."""
    of_reward = _REWARD_BEFORE.fullmatch(name)
    return f"train/rewards/{of_reward[1]}/mean" if of_reward else RENAMED.get(name, name)


def earlier_names(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that had another name, by it: for configurations that monitor them so."""
    before = {name: _BEFORE[name] for name in figures if name in _BEFORE}
    before |= {name: f"train/reward/{found[1]}" for name in figures if (found := _REWARD.fullmatch(name))}
    return {old: figures[name] for name, old in before.items()}


@dataclass(frozen=True)
class Series:
    """One logged metric: its values by step. A value that was logged and is not finite is NaN, never dropped."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def not_finite(self) -> int:
        return sum(math.isnan(value) for value in self.values)


def read_metrics(folder: Path) -> dict[str, Series]:
    """The columns by their names of today. A step logged twice (a resumed run) keeps its last value."""
    written, *rows = _read(folder / FILE) or [[]]
    names = [*map(current_name, written)]
    columns: dict[str, dict[int, float]] = {}
    for row in rows:
        values = list(zip(names, map(_parse, row), strict=False))  # the last row may be cut off
        step = dict(values).get(STEP)
        if step is not None and not math.isnan(step):
            for name, value in values:
                if value is not None and name != STEP:
                    columns.setdefault(name, {})[int(step)] = value
    return {name: series_of(values) for name, values in columns.items()}


def series_of(values: Mapping[int, float]) -> Series:
    """Values by step, in the order of steps."""
    steps = tuple(sorted(values))
    return Series(steps, tuple(values[step] for step in steps))


class MetricsTable:
    """The file, which the first row creates, while a training writes it. A row is in it when `add` returns."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.columns: list[str] = []
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; columns that it lacks stay empty in it, and those that are new are empty in the rows before."""
        if new := [name for name in row if name not in self.columns]:
            self._widen(new)
        with naming_what_has_no_room(self.file), self.file.open("ab") as out:
            out.write(csv_text([[row.get(name, "") for name in self.columns]]).encode())
        self.rows += 1

    def keep(self, rows: int) -> None:
        """Go on after this many rows of the file; those that follow belong to steps that will be done again."""
        if rows == 0:
            self.file.unlink(missing_ok=True)
        keep_lines(self.file, rows + 1)  # no value has a line break
        table = _read(self.file)
        self.columns, self.rows = (table[0], len(table) - 1) if table else ([], 0)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        if self.file.exists():
            sync(self.file)

    def _widen(self, new: list[str]) -> None:
        self.columns += new
        rows = _read(self.file)[1:]
        write_atomically(self.file, csv_text([self.columns, *(row + [""] * len(new) for row in rows)]))


def _read(file: Path) -> list[list[str]]:
    content = read_bytes(file, ONLY_SHOWN)
    try:
        return [] if content is None else csv_rows(content.decode())
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedRecord(file, f"it is no CSV file: {error}", ONLY_SHOWN) from error


def _parse(cell: str) -> float | None:
    """None for a cell that is empty or no number; NaN for every value that is not finite."""
    try:
        value = float(cell) if cell else None
    except ValueError:
        return None
    return math.nan if value is not None and math.isinf(value) else value

"""`metrics.csv`: what a training logs, each figure once, however often the training was killed and went on."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from specs_lightning.system.files import keep_lines, sync, write_whole


class MetricsFile(Logger):
    """A row for each call, with the columns that it has. A row is in the file when `log_metrics` returns.

    Args:
        file: created with the first row.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.columns: list[str] = []
        self.rows = 0

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def save_dir(self) -> str:
        return str(self.file.parent)

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The settings are in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        if new := [name for name in row if name not in self.columns]:
            self._widen(new)
        with self.file.open("ab") as out:
            out.write(_lines([[row.get(name, "") for name in self.columns]]))
        self.rows += 1

    def keep(self, rows: int) -> None:
        """Go on after this many rows of the file; those that follow belong to steps that will be done again."""
        if rows == 0:
            self.file.unlink(missing_ok=True)
        keep_lines(self.file, rows + 1)  # no value has a line break
        table = self._read()
        self.columns, self.rows = (table[0], len(table) - 1) if table else ([], 0)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        if self.file.exists():
            sync(self.file)

    def _widen(self, new: list[str]) -> None:
        self.columns += new
        rows = self._read()[1:]
        write_whole(self.file, _lines([self.columns, *(row + [""] * len(new) for row in rows)]).decode())

    def _read(self) -> list[list[str]]:
        if not self.file.exists():
            return []
        with self.file.open(newline="", encoding="utf-8") as opened:
            return list(csv.reader(opened))


def _lines(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


class ResumeMetrics(Callback):
    """Has the metrics' file go on from the row that the checkpoint was saved at; without one, from the start.

    Args:
        logger: the file's.
    """

    def __init__(self, logger: MetricsFile) -> None:
        self.logger = logger
        self._rows = 0

    def state_dict(self) -> dict[str, Any]:
        self.logger.sync()
        return {"rows": self.logger.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = state_dict["rows"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.logger.keep(self._rows)

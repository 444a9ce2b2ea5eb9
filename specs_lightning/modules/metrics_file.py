"""`metrics.csv`: what a training logs, each figure once, however often the training was killed and went on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from specs_lightning.records.metrics import MetricsTable


class MetricsFile(Logger):
    """A row for each call, with the columns that it has. A row is in the file when `log_metrics` returns."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.table = MetricsTable(file)

    @property
    def file(self) -> Path:
        return self.table.file

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
        self.table.add({"step": step, **{name: float(value) for name, value in metrics.items()}})


class ResumeMetrics(Callback):
    """Has the metrics' file go on from the row that the checkpoint was saved at; without one, from the start."""

    def __init__(self, logger: MetricsFile) -> None:
        self.table = logger.table
        self._rows = 0

    def state_dict(self) -> dict[str, Any]:
        self.table.sync()
        return {"rows": self.table.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = state_dict["rows"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.table.keep(self._rows)

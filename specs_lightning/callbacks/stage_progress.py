"""A training's or an evaluation's bar on the progress display, which is its run's where it is a stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from specs_lightning.modules import PolicyModule
from specs_lightning.records.metrics import SPEED
from specs_lightning.system.progress import progress_bar

RATE = f"{SPEED}tokens_per_second"


class StageProgress(ProgressBar):
    """Training steps, or prompts of an evaluation, in place of Lightning's own bar."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self._bar: AbstractContextManager[Any] | None = None

    def disable(self) -> None:
        """Nothing to switch off: the bar is only ever shown by the main process."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Of all epochs, and at most max_steps.
        self._begin(int(trainer.estimated_stepping_batches), done=trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *unused)
        shown = {name: trainer.callback_metrics.get(f"train/{name}") for name in ("loss", "reward")}
        told = [f"{name} {value:.3f}" for name, value in shown.items() if value is not None]
        self._advance(1, " ".join([*told, f"{trainer.callback_metrics[RATE]:.0f} tokens/s"]))

    def on_test_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        sets = pl_module.evaluation_sets
        self._begin(sum(len(sets.batches(name).mine) for name in sets.prompts))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Sequence[Any], *unused: Any
    ) -> None:
        self._advance(len(batch))

    on_validation_start = on_predict_start = on_test_start  # type: ignore[assignment]  # a PolicyModule alone, as above
    on_validation_batch_end = on_predict_batch_end = on_test_batch_end  # type: ignore[assignment]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._bar is not None:  # a training that was complete before has no start
            self._bar.__exit__(None, None, None)
            self._bar = None

    def _begin(self, total: int, done: int = 0) -> None:
        if total == 0:  # all was answered before
            return
        self._bar = progress_bar(self.title, total, done)
        self._tell = self._bar.__enter__()

    def _advance(self, units: int, note: str = "") -> None:
        if self._bar is not None:
            self._tell(units, note)

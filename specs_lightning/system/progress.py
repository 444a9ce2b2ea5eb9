"""One progress display for a whole run: whoever has long work adds a bar to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(width=None if sys.stdout.isatty() else 120)  # a log file has no width of its own
_open: list[Progress] = []


@contextmanager
def progress_display() -> Iterator[Progress]:
    """The open display, or a new one for as long as the block lasts."""
    if _open:
        yield _open[0]
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        _open.append(progress)
        try:
            yield progress
        finally:
            _open.pop()


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Any]:
    """A bar on the display; call what is yielded with the number of units done, and a note if there is one."""
    with progress_display() as progress:
        task = progress.add_task(title, total=total, note="")

        def advance(units: int, note: str = "") -> None:
            progress.update(task, advance=units, note=note)

        try:
            yield advance
        finally:
            progress.remove_task(task)


class StageProgress(ProgressBar):
    """Training steps on the run's display, in place of Lightning's own bar.

    Args:
        title: of the bar.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self._bar: AbstractContextManager[Any] | None = None

    def disable(self) -> None:
        """Nothing to switch off: the bar is only ever shown by the main process."""

    def enable(self) -> None:
        """As `disable`."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar = progress_bar(self.title, int(self.total_train_batches))
        self._advance = self._bar.__enter__()
        self._advance(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *unused)
        shown = {name: trainer.callback_metrics.get(f"train/{name}") for name in ("loss", "reward")}
        self._advance(1, " ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self._bar is not None:  # a training that was complete before has no start
            self._bar.__exit__(None, None, None)

"""Saves a training as it goes, and when it is stopped, so that it goes on exactly where it was."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from specs_lightning.errors import SpecsError
from specs_lightning.modules import PolicyModule
from specs_lightning.modules.checkpoint_files import (
    FOLDER,
    NAME,
    AtomicCheckpointIO,
    prune,
    remove_leftovers,
)
from specs_lightning.system.files import keep_beside
from specs_lightning.system.ranks import failing_together
from specs_lightning.system.signals import SIGNALS, leave_terminal
from specs_lightning.system.terminal import say

log = logging.getLogger(__name__)


class Checkpoints(Checkpoint):
    """Saves the whole state of a training every n steps, at its end, and when it is stopped or fails.

    Checkpoints are in `checkpoints/` of the trainer's `default_root_dir`. Each is written beside its place and takes it
    when it is whole and on the disk; older ones are deleted after that. A training of one process that fails, or gets
    SIGTERM or Ctrl-C, is saved as it was after its last complete step, its round of completions included. Several
    processes finish the step on SIGTERM, and are not saved when one of them fails. SIGUSR1 and SIGHUP (a closed
    terminal) are taken for SIGTERM. A model with NaN or infinite weights is never saved, and ends the training with an
    error: the last good checkpoint stays. Those of an earlier training, which the new one does not go on from, are kept
    beside as `checkpoints.1`.

    Args:
        every_n_steps: how often.
        keep: how many of the newest stay, by their steps. With two there is one to fall back on. Those of later steps
            than a training is at (it was begun anew, or from an earlier one) are set aside when it saves.
    """

    def __init__(self, every_n_steps: int = 50, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise ValueError(f"every_n_steps ({every_n_steps}) and keep ({keep}) must be positive")
        self.every_n_steps, self.keep = every_n_steps, keep
        self._stop = False
        self._earlier: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: PolicyModule, stage: str) -> None:  # type: ignore[override]
        if type(getattr(trainer.strategy, "checkpoint_io", None)) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit" and trainer.is_global_zero:
            remove_leftovers(self._path(trainer))

    def on_fit_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        """Before any callback measures the policy, which may have a `ModelCheckpoint` save it."""
        self._earlier = {file.name for file in self._path(trainer).glob("*")}
        if not trainer.strategy.restore_checkpoint_after_setup:  # else what is gone on from is not known yet
            self._keep_earlier(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if trainer.strategy.restore_checkpoint_after_setup:
            self._keep_earlier(trainer)

        # In place of Lightning's handler, which waits for the end of the step, and does not save. The trainer puts
        # back what was there before its own.
        def stop(number: int, *unused: Any) -> None:
            leave_terminal(number)
            first, self._stop = not self._stop, True
            if first and trainer.world_size == 1 and pl_module.phase != "updating":
                raise SIGTERMException

        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:  # at the second, Lightning would save in the middle of a step
                signal.signal(each, stop)

    def on_train_batch_end(self, trainer: Trainer, pl_module: PolicyModule, *unused: Any) -> None:  # type: ignore[override]
        stop = self._is_to_stop(trainer)
        if pl_module.at_last_step:  # what is done at the end is to be done again after a kill: saved by on_train_end
            return
        if stop or pl_module.steps % self.every_n_steps == 0:
            self._save(trainer, pl_module)
        if stop:
            raise SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        """Lightning calls checkpoint callbacks after all others."""
        self._save(trainer, pl_module)
        if self._is_to_stop(trainer):
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: PolicyModule, exception: BaseException) -> None:  # type: ignore[override]
        if pl_module.phase != "settled" or trainer.world_size > 1:
            return
        # A step that was begun is done again.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        for counts in (progress.total, progress.current):
            counts.ready = counts.started = counts.processed = counts.completed  # type: ignore[attr-defined]
        progress.is_last_batch = False
        try:
            self._save(trainer, pl_module)
            say(f"stopped after step {pl_module.steps}, which is saved in {self._path(trainer)}")
        except SpecsError as error:
            log.error("%s", error)

    def _save(self, trainer: Trainer, pl_module: PolicyModule) -> None:
        pl_module.policy.check_finite()
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        file = self._path(trainer) / NAME.format(pl_module.steps)
        with failing_together():  # trainer.save_checkpoint would have the others wait for one that failed
            trainer.strategy.save_checkpoint(state, file)
        if trainer.is_global_zero:
            prune(file, self.keep)

    def _keep_earlier(self, trainer: Trainer) -> None:
        """Keep those of an earlier training beside; what this one has saved by now stays."""
        if not trainer.is_global_zero or goes_on(trainer) or not self._earlier:
            return
        place = self._path(trainer)
        kept = keep_beside(place)
        for file in kept.iterdir() if kept is not None else ():
            if file.name not in self._earlier:
                place.mkdir(exist_ok=True)
                file.rename(place / file.name)

    def _is_to_stop(self, trainer: Trainer) -> bool:
        """Whether any process was told to."""
        return trainer.strategy.reduce_boolean_decision(self._stop, all=False)

    def _path(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / FOLDER


def goes_on(trainer: Trainer) -> bool:
    """Whether a training goes on from one of the checkpoints in its folder."""
    start = trainer.ckpt_path
    return start is not None and Path(start).resolve().parent == (Path(trainer.default_root_dir) / FOLDER).resolve()

"""Hands the trained policy over as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, Trainer

from specs_lightning.callbacks.checkpoints import goes_on
from specs_lightning.modules import PolicyModule
from specs_lightning.policy.model_files import adapter_beside
from specs_lightning.records.model_card import model_card
from specs_lightning.system.files import keep_beside, remove


class ExportHF(Callback):
    """Writes weights, processor, generation config and a model card at the end of training.

    Adapters are merged into these weights. Alone, as PEFT has them, they are in a folder beside it, `model-adapter`.

    `specs fit` adds one where none is given. A model that an earlier training has left there is kept beside, as
    `model.1`, when a training starts: it would not be that of the new metrics.

    Args:
        folder: where, relative to the trainer's `default_root_dir`.
    """

    def __init__(self, folder: str = "model") -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if trainer.is_global_zero and goes_on(trainer):  # the model of its earlier end, which a checkpoint has, too
            remove(self._path(trainer))
            remove(adapter_beside(self._path(trainer)))
        elif trainer.is_global_zero:
            keep_beside(self._path(trainer))
            keep_beside(adapter_beside(self._path(trainer)))

    def on_train_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        pl_module.policy.save(self._path(trainer), model_card(Path(trainer.default_root_dir), pl_module.settings))
        pl_module.policy.save_adapter(adapter_beside(self._path(trainer)))

    def _path(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / self.folder

"""Keeps sample completions beside their images, so that a run can be looked at and not only measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from specs_lightning.data import RolloutDataModule
from specs_lightning.errors import SettingsError
from specs_lightning.groups import Group
from specs_lightning.modules.trackers import send_samples
from specs_lightning.prompts.images import preview
from specs_lightning.records.samples import SAMPLES, Sample, SampledText
from specs_lightning.system.files import keep_lines


class SampleTable(Callback):
    """Writes groups of the current round to `samples.jsonl`, one row a prompt, and sends them to the trackers.

    `SettingsError` before a training on anything but a `RolloutDataModule`, which alone has rounds.

    Args:
        every_n_steps: how often.
        groups: how many prompts each time.
        completions: how many completions of each.
    """

    def __init__(self, every_n_steps: int = 50, groups: int = 4, completions: int = 3) -> None:
        if min(every_n_steps, groups, completions) < 1:
            raise ValueError("every_n_steps, groups and completions must be positive")
        self.every_n_steps, self.groups, self.completions = every_n_steps, groups, completions
        self._rows = 0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = state_dict["rows"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, RolloutDataModule):
            raise SettingsError(
                f"SampleTable shows a round's completions, and {type(data).__name__} has none: leave it out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:  # what follows belongs to steps that will be done again, or to another training
            keep_lines(Path(trainer.default_root_dir) / SAMPLES.name, self._rows)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % self.every_n_steps == 0 and trainer.is_global_zero:
            data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
            groups = data.groups[: self.groups]
            samples = [self._sample(group, trainer.global_step) for group in groups]
            SAMPLES.append(Path(trainer.default_root_dir), samples)
            send_samples(trainer.loggers, samples, trainer.global_step)
            self._rows += len(groups)

    def _sample(self, group: Group, step: int) -> Sample:
        rewards = group.rewards.tolist()
        by_name = {name: values.tolist() for name, values in group.rewards_by_name.items()}
        completions = [
            SampledText(
                text=completion.text,
                finished=completion.finished,
                tokens=len(completion.token_ids),
                logprob=math.fsum(completion.logprobs),
                reward=rewards[i],
                rewards={name: values[i] for name, values in by_name.items()},
            )
            for i, completion in enumerate(group.completions[: self.completions])
        ]
        question = group.prompt.question
        return Sample.of(question, [preview(image) for image in question.images], completions, step=step)

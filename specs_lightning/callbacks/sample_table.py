"""Keeps sample completions beside their images, so that a run can be looked at and not only measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from specs_lightning.data import RolloutDataModule
from specs_lightning.groups import Completion, Group, Prompt
from specs_lightning.prompts.images import preview
from specs_lightning.system.files import keep_lines


class SampleTable(Callback):
    """Writes groups of the current round to `samples.jsonl`, one row a prompt. For `RolloutDataModule`.

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:  # what follows belongs to steps that will be done again, or to another training
            keep_lines(self._file(trainer), self._rows)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % self.every_n_steps == 0 and trainer.is_global_zero:
            data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
            rows = [self._row(group, trainer.global_step) for group in data.groups[: self.groups]]
            with self._file(trainer).open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            self._rows += len(rows)

    def _file(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "samples.jsonl"

    def _row(self, group: Group, step: int) -> dict[str, Any]:
        rewards = group.rewards.tolist()
        by_name = {name: values.tolist() for name, values in group.rewards_by_name.items()}
        completions = [
            completion_row(completion, rewards[i], {name: values[i] for name, values in by_name.items()})
            for i, completion in enumerate(group.completions[: self.completions])
        ]
        return sample_row(group.prompt.question, step, completions)


def sample_row(prompt: Prompt, step: int, completions: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of `samples.jsonl`: a prompt, its images small, and judged completions."""
    return {
        "step": step,
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "images": [preview(image) for image in prompt.images],
        "answer": prompt.answer,
        "answer_format": prompt.answer_format,
        "completions": completions,
    }


def completion_row(completion: Completion, reward: float, rewards: Mapping[str, float]) -> dict[str, Any]:
    """A judged completion; `logprob` is the sum over its tokens, of the policy that sampled it, in nats."""
    return {
        "text": completion.text,
        "finished": completion.finished,
        "tokens": len(completion.token_ids),
        "logprob": _json_number(math.fsum(completion.logprobs)),
        "reward": _json_number(reward),
        "rewards": {name: _json_number(value) for name, value in rewards.items()},
    }


def _json_number(value: float) -> float | None:
    return None if value != value else value

"""Two judges of the same answers: how often they disagree, which way, and on what."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from helpers.small_runs import ScriptedEngine, small_trainer, write_pair_file, write_prompt_file
from torch import Tensor

from callbacks.judge_disagreement import JudgeDisagreement
from specs_lightning.data import PreferenceDataModule, PromptSource
from specs_lightning.groups import Completion, Prompt
from specs_lightning.modules import ColdStartModule
from specs_lightning.objectives import SFT
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.rewards import AccuracyReward, Reward
from specs_lightning.rollout import SamplingSettings


class Kind(Reward):
    """Takes every answer for right that is long, and knows nothing of the last prompt."""

    name = "kind"

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        scores = [
            math.nan if p.id == "p4" else float(len(c.text) > 12) for p, c in zip(prompts, completions, strict=True)
        ]
        return torch.tensor(scores)

    def close(self) -> None:
        self.closed = True


def test_they_are_counted_and_kept_to_be_read(tiny_model_path: Path, tmp_path: Path) -> None:
    said = {
        "p0": "Answer: 2",
        "p1": "The answer is 2",
        "p2": "Answer: 3, surely",
        "p3": "Answer: 3",
        "p4": "Answer: 2",
    }
    second = Kind()
    callback = JudgeDisagreement(
        {"id": PromptSource(str(write_prompt_file(tmp_path, 5)))},
        AccuracyReward(),
        second,
        sampling=SamplingSettings(1, 8),
        engine=ScriptedEngine(lambda prompt, seed: [said[prompt.id]]),
    )
    module = ColdStartModule(PolicySettings(str(tiny_model_path)), SFT())
    trainer = small_trainer(tmp_path, callback, max_steps=1)
    trainer.fit(module, datamodule=PreferenceDataModule(str(write_pair_file(tmp_path)), batch_size=4))
    found = {
        n.removeprefix("judges/id/"): float(v) for n, v in trainer.callback_metrics.items() if n.startswith("judges")
    }
    assert found["first"] == torch.tensor(3 / 5) and found["second"] == 0.5
    assert (found["agree"], found["first_only"], found["second_only"]) == (0.5, 0.25, 0.25)
    assert found["unjudged"] == torch.tensor(1 / 5)
    rows = [json.loads(line) for line in (tmp_path / "judge_disagreements.jsonl").read_text().splitlines()]
    assert [(row["step"], row["prompt_id"], row["verdict"], row["first"], row["second"]) for row in rows] == [
        (step, prompt, verdict, first, 1 - first)
        for step in (0, 1)
        for prompt, verdict, first in (("p0", "first_only", 1.0), ("p2", "second_only", 0.0))
    ]
    assert rows[0]["text"] == "Answer: 2" and rows[0]["answer"] == "2"
    assert second.closed

"""A short training in which a callback measures; importable, since each of several processes is spawned."""

from __future__ import annotations

from pathlib import Path

from helpers.small_runs import Letters, ScriptedEngine, adam, small_trainer

from specs_lightning.callbacks import GeneralizationFactorCallback
from specs_lightning.data import RolloutDataModule
from specs_lightning.data.sources import PromptSource
from specs_lightning.groups import Prompt
from specs_lightning.modules import GRPOModule, ScheduleSettings
from specs_lightning.policy.loading import PolicySettings
from specs_lightning.rollout import SamplingSettings

RIGHT, WRONG, PLAIN = "<think>so</think><answer>2</answer>", "<think>so</think><answer>1</answer>", "Answer: 2"


def say(prompt: Prompt, seed: str) -> list[str]:
    """Three answers that differ from prompt to prompt and from set to set."""
    number = int(prompt.id[1:]) + len(seed)
    return [(RIGHT, WRONG, PLAIN)[(number * (i + 1) + i) % 3 if number % 4 else 1] for i in range(3)]


def measure(model: Path, prompts: Path, folder: Path, ranks: int = 1) -> dict[str, float]:
    """Train for a step; what the callback measured at the end."""
    source = PromptSource(str(prompts))
    callback = GeneralizationFactorCallback(
        PromptSource(str(prompts), limit=7),
        {"ood": PromptSource(str(prompts), limit=4), "one": PromptSource(str(prompts), limit=1)},
        sampling=SamplingSettings(3, 8),
        engine=ScriptedEngine(say),
        batch_size=2,
        gain="raw",
        exploration=["pass_at_k", "stuck_rate", "entropy", "rollout_branching_factor"],
    )
    module = GRPOModule(PolicySettings(str(model)), optimizer=adam, schedule=ScheduleSettings("constant", 0.0))
    data = RolloutDataModule(
        source, rewards=[Letters()], sampling=SamplingSettings(2, 6), prompts_per_round=2, steps_per_round=1, rounds=1
    )
    trainer = small_trainer(folder, callback, devices=ranks, strategy="ddp" if ranks > 1 else "auto")
    trainer.fit(module, datamodule=data)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("gf/")}

"""Short training runs through a real Trainer: data files, an engine that says what it is told, and what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from specs_lightning.groups import Completion, EncodedPrompt, Prompt
from specs_lightning.modules import PolicyModule
from specs_lightning.policy.policy import Policy
from specs_lightning.prompts.messages import build_messages
from specs_lightning.records.pairs import PreferencePair, write_pairs
from specs_lightning.rewards import Reward
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.toy import scenes


class Letters(Reward):
    """Says how long a completion's text is: a random policy's completions differ in it."""

    name = "letters"

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        return torch.tensor([float(len(completion.text) % 7) for completion in completions])


class Failing(Letters):
    """Raises for the completions that a test names."""

    name = "failing"

    def __init__(self, fails: Callable[[Prompt, Completion], bool]) -> None:
        self.fails = fails

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        if any(map(self.fails, prompts, completions)):
            raise RuntimeError("no score for this one")
        return super().__call__(prompts, completions)


class ScriptedEngine(RolloutEngine):
    """Answers with given texts.

    Args:
        script: the texts of a prompt's completions, given the prompt and the call's seed.
        finished: whether they end by themselves.
    """

    def __init__(self, script: Callable[[Prompt, str], Sequence[str]], finished: bool = True) -> None:
        self.script, self.finished = script, finished
        self.calls: list[tuple[str, list[str]]] = []
        """The seed and the prompts' ids of each call."""
        self.synced: list[int] = []

    def sync(self, policy: Policy) -> None:
        self.policy = policy
        self.synced.append(policy.version)

    def generate(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingSettings, seed: str
    ) -> list[list[Completion]]:
        self.calls.append((seed, [prompt.id for prompt in prompts]))
        return [[self._completion(text) for text in self.script(p.question, seed)] for p in prompts]

    def _completion(self, text: str) -> Completion:
        ids = self.policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.finished:
            ids = [*ids, self.policy.tokenizer.eos_token_id]
        return Completion(tuple(ids), (-1.0,) * len(ids), text, self.finished, self.policy.version)


class Curve(Callback):
    """What each step logged, and the policy's version after it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.versions: list[int] = []

    def __getitem__(self, name: str) -> list[float]:
        return [step[f"train/{name}"] for step in self.steps]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *unused: Any) -> None:
        logged = trainer.callback_metrics
        self.steps.append({name: value.item() for name, value in logged.items() if name.startswith("train/")})
        self.versions.append(pl_module.policy.version)  # type: ignore[union-attr]


def small_trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    """On the CPU, without files or a progress bar unless asked for."""
    defaults: dict[str, Any] = {"max_epochs": 1, "devices": 1, "logger": False, "enable_checkpointing": False}
    defaults["enable_progress_bar"] = False
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **defaults | settings,
    )


def trained_weights(module: PolicyModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.policy.parameters() if p.requires_grad])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """At a rate of 1 the weights move by the gradient itself."""
    return torch.optim.SGD(parameters, lr=1.0)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)


def write_prompt_file(folder: Path, size: int = 8) -> Path:
    """Questions about scenes, every third without its image: `prompts.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for i, (image, question) in enumerate(scenes.examples(11, size)):
        row: dict[str, Any] = {"id": f"p{i}", "question": question.text, "answer": "2", "answer_type": "number"}
        if i % 3 != 2:
            (folder / f"{i}.png").write_bytes(scenes.png(image))
            row["image"] = f"{i}.png"
        rows.append(row)
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def scene_pairs(size: int = 8) -> list[PreferencePair]:
    """Pairs on scenes, of different lengths; every third has no image, every fourth two."""
    pictures = [scenes.png(image) for image, _ in scenes.examples(12, size + 1)]
    pairs = []
    for i, (_, question) in enumerate(scenes.examples(12, size)):
        images = () if i % 3 == 2 else (pictures[i], pictures[i + 1]) if i % 4 == 1 else (pictures[i],)
        prompt = Prompt(f"q{i}", build_messages(question.text, len(images)), images, question.answer)
        chosen = f"<think>{scenes.reasoning(question)}</think><answer>{question.answer}</answer>"
        pairs.append(PreferencePair(prompt, chosen, f"Answer: {question.answer}", {"corruption": "strip_all_tags"}))
    return pairs


def write_pair_file(folder: Path, size: int = 8) -> Path:
    file = folder / "pairs.parquet"
    write_pairs(scene_pairs(size), file)
    return file

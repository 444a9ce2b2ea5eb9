"""Trainings of a few steps, the same on one process and on several, and all that came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers.small_runs import Curve, Letters, small_trainer, write_pair_file, write_prompt_file
from helpers.tiny_policies import mixed_batch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.distributed.tensor import DTensor

from specs_lightning.callbacks import Checkpoints, ExportHF
from specs_lightning.data import PreferenceDataModule, RolloutDataModule
from specs_lightning.data.rounds import DynamicSampling
from specs_lightning.data.sources import PromptSource
from specs_lightning.modules import ColdStartModule, GRPOModule, PolicyModule, ScheduleSettings
from specs_lightning.objectives import DPO, GRPO, SFT, MismatchCorrection
from specs_lightning.policy.loading import LoRASettings, PolicySettings
from specs_lightning.policy.policy import Policy
from specs_lightning.records.metrics import is_timing
from specs_lightning.rollout import RolloutEngine, SamplingSettings
from specs_lightning.strategies import FSDP2 as FSDP2  # registers it

STEPS, STOP = 5, 3
STRATEGIES = ("ddp", "fsdp2")
RESUMED = ("cold start", "GRPO, LoRA")
WRITERS = (("ddp", "auto"), ("fsdp2", "fsdp2"), ("fsdp2", "auto"))
"""The strategy on two processes, and that of the process whose checkpoint it goes on from."""
READERS = (("auto", "ddp"), ("fsdp2", "fsdp2"))
"""The strategy on one process, and that of the two whose checkpoint it goes on from."""


@dataclass(frozen=True)
class Training:
    """Which one: what differs from the defaults of its kind."""

    kind: str
    """`cold_start` or `grpo`."""
    policy: dict[str, Any] = field(default_factory=dict)
    module: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


LORA: dict[str, Any] = {"lora": LoRASettings(rank=4, vision=True), "freeze_vision": False}
VISION: dict[str, Any] = {"freeze_vision": False}
# A step of three groups leaves the second process with one, and every third prompt has no image.
TRAININGS = {
    "cold start": Training("cold_start", VISION),
    "cold start, DoRA": Training("cold_start", LORA | {"lora": LoRASettings(rank=4, vision=True, dora=True)}),
    "GRPO": Training("grpo", VISION),
    "GRPO, LoRA": Training("grpo", LORA, {"objective": GRPO(kl_coefficient=0.1)}),  # its reference has them off
    # Of two pairs a step one may have an image and the other none; every other micro-batch has no pair at all.
    "frozen vision, frozen reference": Training(
        "cold_start", module={"reference": "frozen", "max_tokens_per_micro_batch": 120}, data={"batch_size": 2}
    ),
    "one pair a step": Training("cold_start", module={"objective": SFT()}, data={"batch_size": 1}),
    "KL term, recomputed activations": Training(
        "grpo", {"gradient_checkpointing": True}, {"objective": GRPO(kl_coefficient=0.1, aggregation="sequence")}
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What a training left, on one process."""

    steps: list[dict[str, float]]
    """What each step logged; times left out."""
    gradients: dict[str, Tensor]
    """Of the first step, after clipping."""
    weights: dict[str, Tensor]
    """Those that were trained."""
    held: int
    """How many numbers of all weights this process holds."""
    logprobs_NT: Tensor
    """What the trained policy gives some completions."""


class Recorder(Callback):
    """Gathers what an `Outcome` holds."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if not self.gradients:
            trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
            self.gradients = {name: whole(p.grad) for name, p in trained.items() if p.grad is not None}


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().clone()


def adam(parameters: Any) -> torch.optim.Optimizer:
    """An epsilon far above rounding: what has no gradient must not be moved by its noise."""
    return torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4, weight_decay=0.0)


def make(training: Training, model: Path, files: Path) -> tuple[PolicyModule, Any]:
    """The modules of a training, on the files that `write_files` wrote."""
    policy = PolicySettings(str(model), **training.policy)
    common: dict[str, Any] = {"optimizer": adam, "max_tokens_per_micro_batch": 300}
    if training.kind == "cold_start":
        schedule = ScheduleSettings("constant", 0.0)
        settings = common | {"objective": DPO(), "schedule": schedule} | training.module
        data = {"batch_size": 3} | training.data
        return ColdStartModule(policy, **settings), PreferenceDataModule(str(files / "pairs.parquet"), **data)
    objective = GRPO(mismatch=MismatchCorrection("truncated"))
    defaults: dict[str, Any] = {
        "rewards": [Letters()],
        "sampling": SamplingSettings(3, 8, temperature=1.2),
        "prompts_per_round": 6,
        "steps_per_round": 2,
        "rounds": 3,
        "dynamic_sampling": DynamicSampling(max_refills=1),
    }
    module = GRPOModule(policy, **common | {"objective": objective} | training.module)
    return module, RolloutDataModule(PromptSource(str(files / "prompts.jsonl")), **defaults | training.data)


def train(
    training: Training,
    model: Path,
    files: Path,
    folder: Path,
    *more: Callback,
    resume: Path | None = None,
    engine: RolloutEngine | None = None,
    **trainer: Any,
) -> Outcome:
    """Train, or go on from a checkpoint; `folder` gets `checkpoints/step=3.ckpt` and, at the end, the model."""
    seed_everything(0)
    module, data = make(training, model, files)
    data.engine = engine or data.engine
    curve, recorder = Curve(), Recorder()
    keeper = Checkpoints(every_n_steps=STOP)
    defaults = {"max_steps": STEPS, "max_epochs": STEPS if training.kind == "cold_start" else 1}
    callbacks = (curve, recorder, keeper, ExportHF(), *more)
    fitted = small_trainer(folder, *callbacks, enable_checkpointing=True, **defaults | trainer)
    fitted.fit(module, datamodule=data, ckpt_path=resume)
    steps = [{name: value for name, value in step.items() if not is_timing(name)} for step in curve.steps]
    weights = {name: whole(p) for name, p in module.named_parameters() if p.requires_grad}
    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in module.policy.parameters())
    return Outcome(steps, recorder.gradients, weights, held, some_logprobs(module.policy))


@torch.no_grad()
def some_logprobs(policy: Policy) -> Tensor:
    return policy.token_logprobs(mixed_batch(policy, 2)).logprobs


def differences(outcome: Outcome, expected: Outcome, after: int = 0) -> dict[str, float]:
    """How far two outcomes are apart at most: for each number |a - b| / (1 + |b|), relative for large ones.

    Args:
        outcome: of a training that went on after so many steps.
        expected: of a whole one.
        after: so many steps; none for a training that began with the first.
    """
    steps = list(zip(outcome.steps, expected.steps[after:], strict=True))
    if not after:  # what a round began with is not logged again by a run that goes on in the middle of it
        assert [set(step) for step in outcome.steps] == [set(step) for step in expected.steps]
    logged = [(name, value, other[name]) for step, other in steps for name, value in step.items()]

    def of(names: Any) -> float:
        return max(_apart(torch.tensor(a), torch.tensor(b)) for name, a, b in logged if names(name))

    found = {
        "loss": of(lambda name: name == "train/loss"),
        "other figures": of(lambda name: name != "train/loss"),
        "weights": _furthest(outcome.weights, expected.weights),
        "log-probabilities": _apart(outcome.logprobs_NT, expected.logprobs_NT),
    }
    return found if after else found | {"gradients": _furthest(outcome.gradients, expected.gradients)}


def _furthest(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert set(tensors) == set(expected)
    return max(_apart(tensor, expected[name]) for name, tensor in tensors.items())


def _apart(a: Tensor, b: Tensor) -> float:
    apart = (a.double() - b.double()).abs() / (1 + b.double().abs())
    apart[a.isnan() & b.isnan()] = 0  # no completion of that kind on either side
    return float("inf") if apart.isnan().any() else float(apart.max())


@dataclass(frozen=True)
class Room:
    """Where one process and two work on the same trainings."""

    model: Path
    folder: Path

    @classmethod
    def furnished(cls, model: Path, folder: Path) -> Room:
        """With the files that they train on."""
        write_pair_file(folder, 11)
        write_prompt_file(folder, 8)
        return cls(model, folder)

    def of(self, processes: int, label: str, name: str) -> Path:
        return self.folder / f"{processes}-{label}" / name

    def train(
        self, processes: int, strategy: Any, name: str, *callbacks: Callback, label: str = "", **settings: Any
    ) -> Outcome:
        folder = self.of(processes, label or strategy, name)
        settings = {"strategy": strategy, "devices": processes} | settings
        return train(TRAININGS[name], self.model, self.folder, folder, *callbacks, **settings)

    def resume(self, processes: int, strategy: str, writer: Path, name: str) -> Outcome:
        checkpoint = writer / "checkpoints" / f"step={STOP}.ckpt"
        return self.train(processes, strategy, name, label=f"{strategy}-from-{writer.parent.name}", resume=checkpoint)

    def train_alone(self) -> dict[str, Outcome]:
        """One process without a strategy; and with `fsdp2`, for its checkpoints."""
        for name in RESUMED:
            in_shards(self.train, 1, "fsdp2", name)
        return {name: self.train(1, "auto", name) for name in TRAININGS}

    def resume_alone(self) -> dict[tuple[str, str, str], Outcome]:
        """One process, from the checkpoints of two."""
        return {
            (strategy, writer, name): in_shards(self.resume, 1, strategy, self.of(2, writer, name), name)
            for strategy, writer in READERS
            for name in RESUMED
        }

    def train_all(self) -> dict[tuple[str, str], Outcome]:
        """Both of two processes."""
        return {(strategy, name): self.train(2, strategy, name) for strategy in STRATEGIES for name in TRAININGS}

    def resume_all(self) -> dict[tuple[str, str, str], Outcome]:
        """Both of two processes, from the checkpoints of one."""
        return {
            (strategy, writer, name): self.resume(2, strategy, self.of(1, writer, name), name)
            for strategy, writer in WRITERS
            for name in RESUMED
        }


def in_shards(function: Any, *args: Any) -> Any:
    """Leaves no process group behind for others."""
    try:
        return function(*args)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()

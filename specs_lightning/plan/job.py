"""A stage as far as its memory depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import PretrainedConfig

from specs_lightning.groups import GroupBatch
from specs_lightning.plan.lengths import Groups
from specs_lightning.plan.trace import Computing
from specs_lightning.policy.dealing import deal
from specs_lightning.policy.families import family_of
from specs_lightning.policy.loading import DTYPES, PolicySettings, shares_prefix
from specs_lightning.rollout import RolloutEngine, SamplingSettings


@dataclass(frozen=True)
class Devices:
    """What the processes compute on, one each, and how the model lies there."""

    memory: int
    """Bytes of each."""
    overhead: int = 0
    """Bytes that its libraries take (CUDA context, cuBLAS, NCCL)."""
    ranks: int = 1
    strategy: Literal["single", "ddp", "fsdp2"] = "single"
    shards: int = 1
    """Devices that share one copy of weights, gradients and optimizer state."""
    offload: bool = False
    """Shards lie in the CPU's memory between uses."""
    reshard: bool = True
    """A block is freed after its forward pass."""
    computing: Computing = field(default_factory=Computing)

    @property
    def on_gpu(self) -> bool:
        return self.computing.on_gpu


@dataclass(frozen=True)
class Sampling:
    """What a stage samples, and with what."""

    engine: RolloutEngine
    settings: SamplingSettings
    prompts: int
    """Asked of one engine at once."""
    longest: int
    """Tokens of the longest prompt with its completion."""


@dataclass(frozen=True)
class Training:
    """What a stage trains on."""

    groups: Groups
    groups_per_step: int
    """On all processes together."""
    max_tokens: int
    whole_groups: bool
    optimizer_bytes: float
    """Of the optimizer's state, for each trained weight."""
    second_model: bool = False


@dataclass(frozen=True)
class Job:
    """A stage: the model, where it runs, what it trains on and what it samples."""

    config: PretrainedConfig
    policy: PolicySettings
    devices: Devices
    training: Training | None = None
    sampling: Sampling | None = None

    @property
    def shared_prefix(self) -> bool:
        return shares_prefix(family_of(self.config), self.policy)

    @property
    def dtype(self) -> torch.dtype:
        """In which weights are used."""
        return self.devices.computing.weights or DTYPES[self.policy.dtype]

    def micro_batches(self) -> list[list[GroupBatch]]:
        """Those of one step, of each process."""
        assert self.training is not None
        training, step = self.training, self.training.groups.batch(self.training.groups_per_step)
        how = training.max_tokens, self.shared_prefix, training.whole_groups
        if self.devices.ranks == 1:
            return [step.micro_batches(*how)]
        return [[step.select(n) for n in parts] for parts in deal(step, self.devices.ranks, *how)]

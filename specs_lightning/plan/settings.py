"""What `specs plan` takes beside the settings of the run that it plans."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanSettings:
    """What is planned for, and what the configuration cannot say."""

    gpu_memory_gb: float | None = None
    """The memory of a device in GiB. This machine's if not given: its GPU's, 80 where it has none; for
    `trainer.accelerator: cpu` the machine's memory, shared by its processes."""
    world_size: int | None = None
    """How many processes train; `trainer.devices` times `trainer.num_nodes` if not given."""
    overhead_gb: float = 2.0
    """What a GPU's libraries take for themselves (context, workspaces, buffers of NCCL, fragmentation), in GiB."""
    shape: str | None = None
    """Where the model's shape is found if its folder does not exist yet: a folder with a config.json, a name on the
    hub, or one of Qwen2.5-VL-3B, -7B, -32B, -72B, Qwen3-VL-8B, SmolVLM-256M and SmolVLM2-2.2B."""
    rows: int | None = None
    """How many prompts or pairs the data has, where it does not exist yet."""
    prompt_tokens: int | None = None
    """Tokens of a prompt, its images included. Measured on a sample of the data if not given."""
    completion_tokens: int | None = None
    """Tokens of a completion. If not given, those of pairs are measured; for rollouts it is `sampling.max_tokens`, the
    most it can be."""
    sample: int = 256
    """How many prompts or pairs are measured."""

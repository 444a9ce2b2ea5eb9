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
    """How many prompts or pairs the data has, where it does not exist yet; 40,000 prompts and 9,000 pairs if nothing
    is said."""
    prompt_tokens: int | None = None
    """Tokens of a prompt, its images included. Measured on a sample of the data if not given, 1,024 where there is none
    yet."""
    completion_tokens: int | None = None
    """Tokens of a completion. If not given, those of pairs are measured, and the longest that are allowed where there
    are none yet; for rollouts it is `sampling.max_tokens`, the most it can be."""
    sampled_per_second: float | None = None
    """Tokens that a device samples in a second; 2,000 on a GPU if nothing is said, which was not measured."""
    trained_per_second: float | None = None
    """Tokens that a device trains on in a second (`speed/tokens_per_second` of a training); of a GPU, what a fifth of
    an H100's peak gives if nothing is said."""
    sample: int = 256
    """How many prompts or pairs are measured."""

"""What `specs plan` predicts of a GPU's memory, against what a training takes: a Qwen2.5-VL-3B-shaped model with random
weights, in bfloat16, updated by AdamW.

    python benchmarks/gpu/plan.py [--shape Qwen2.5-VL-3B] [--device cuda]

Both in MiB, without what the CUDA context takes. One JSON line a setting. On a CPU nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from step import batch_of, random_policy

from specs_lightning.groups import GroupBatch
from specs_lightning.plan.job import Devices, Job, Training
from specs_lightning.plan.lengths import Groups
from specs_lightning.plan.memory import memory_of, optimizer_bytes
from specs_lightning.plan.shapes import model_shape
from specs_lightning.plan.trace import Computing
from specs_lightning.policy.loading import LoRASettings
from specs_lightning.policy.policy import Policy

SETTINGS: dict[str, dict[str, Any]] = {
    "whole model": {},
    "activations recomputed": {"gradient_checkpointing": True},
    "LoRA": {"lora": LoRASettings()},
    "vision tower trained": {"freeze_vision": False},
}


def predicted(policy: Policy, batch: GroupBatch) -> int:
    """Bytes of a step that takes the batch as one micro-batch."""
    config = policy.model.config
    lengths = tuple(tuple(group.tolist()) for group in batch.lengths_N.split(batch.group_sizes))
    prompts = [prompt.to(torch.device("cpu")) for prompt in batch.prompts]
    groups = replace(Groups.of(len(prompts), prompts, config.image_token_id), completions=lengths)
    training = Training(groups, len(prompts), 2**31, True, optimizer_bytes(torch.optim.AdamW))
    devices = Devices(0, computing=Computing(on_gpu=policy.device.type == "cuda"))
    return memory_of(Job(config, policy.settings, devices, training)).peak


def measured(policy: Policy, batch: GroupBatch) -> int:
    """Bytes at the peak of the second step, when the optimizer's state is there."""
    optimizer = torch.optim.AdamW([weight for weight in policy.parameters() if weight.requires_grad])
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        optimizer.zero_grad()
        policy.token_logprobs(batch, with_entropy=True).logprobs.sum().backward()
        optimizer.step()
    return torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="Qwen2.5-VL-3B", help="a shape that `specs plan` knows, or a model folder")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=(256, 1024), help="tokens of a completion")
    arguments = parser.parse_args()
    for name, settings in SETTINGS.items():
        for length in arguments.lengths:
            with tempfile.TemporaryDirectory() as folder:
                policy = random_policy(model_shape(arguments.shape), Path(folder), arguments.device, **settings)
                batch = batch_of(policy, Path(folder), length, 1)
                found: dict[str, Any] = {"training": name, "length": length}
                found["predicted_mib"] = round(predicted(policy, batch) / 2**20)
                if policy.device.type == "cuda":
                    found["measured_mib"] = round(measured(policy, batch) / 2**20)
                    found["ratio"] = round(found["predicted_mib"] / found["measured_mib"], 3)
                print(json.dumps(found), flush=True)
                del policy, batch


if __name__ == "__main__":
    main()

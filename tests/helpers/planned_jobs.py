"""A training of the toy's model, as the planner sees it."""

from __future__ import annotations

from specs_lightning.plan.job import Devices, Job, Training
from specs_lightning.plan.lengths import made_up_prompts
from specs_lightning.plan.shapes import model_shape
from specs_lightning.plan.trace import Computing
from specs_lightning.policy.loading import PolicySettings

TOY = "toy:base"


def small_job(groups_per_step: int = 2, max_tokens: int = 280, memory: int = 2**40) -> Job:
    """On one process of a CPU: prompts of 40 tokens, each with four completions of 25."""
    groups = made_up_prompts(rows=100, tokens=40).answered(25, 4)
    training = Training(groups, groups_per_step, max_tokens, whole_groups=False, optimizer_bytes=8)
    return Job(model_shape(TOY), PolicySettings(TOY), Devices(memory, computing=Computing(False)), training)

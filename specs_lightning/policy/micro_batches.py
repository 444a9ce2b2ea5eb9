"""A step in micro-batches, the same number on every process, and in each the same modules.

Processes that share a model's weights or gradients wait for each other in every forward and backward pass: one with a
micro-batch less, or with text alone where the others run their vision tower, would leave them waiting forever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from specs_lightning.groups import Group, GroupBatch
from specs_lightning.policy.policy import Policy
from specs_lightning.system.ranks import gather, share, world_size


def default_tokens_per_micro_batch(device: str) -> int:
    """A GPU is idle under small products; a CPU core is busy with any, and few stay in its caches."""
    return 768 if device == "cpu" else 16384


def share_of_groups(groups: Sequence[Group], **tensors: Any) -> GroupBatch:
    """This process's share of groups, with what `GroupBatch.from_groups` takes; it may be empty."""
    mine = share(groups)
    batch = GroupBatch.from_groups(mine or groups[:1], **tensors)
    return batch if mine else batch.select([])


def micro_batches(policy: Policy, batch: GroupBatch, max_tokens: int, whole_groups: bool = False) -> list[GroupBatch]:
    """`GroupBatch.micro_batches` for each process's own batch, which may be empty. All processes must call it.

    Micro-batches without completions, which weigh nothing, make up for those that a process has less than others. A
    filler with an image goes with text alone where another process has images, or where the vision tower is trained:
    DDP waits for the gradient of every weight.
    """
    mine = batch.micro_batches(max_tokens, policy.shared_prefix, whole_groups)
    if world_size() == 1:
        return mine
    have_images = [any(prompt.vision for prompt in micro_batch.prompts) for micro_batch in mine]
    everyones = gather(have_images)
    mine += [batch.select([])] * (max(map(len, everyones)) - len(mine))
    for i, micro_batch in enumerate(mine):
        images = policy.trains_vision or any(flags[i] for flags in everyones if i < len(flags))
        if not len(micro_batch) or (images and not have_images[i]):
            mine[i] = replace(micro_batch, filler=policy.filler(images))
    return mine

"""Random batches of log-probabilities for objectives, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs_lightning.groups import EncodedPrompt, GroupBatch


def batch_of(lengths: Sequence[Sequence[int]], **tensors: Any) -> GroupBatch:
    """A batch whose completions have these lengths."""
    prompts = [EncodedPrompt(str(g), torch.tensor([1])) for g in range(len(lengths))]
    return GroupBatch.from_token_ids(prompts, [[[1] * length for length in group] for group in lengths], **tensors)


def random_logprobs(batch: GroupBatch, seed: int) -> Tensor:
    """As a policy gives them: not positive, zero on padding."""
    generator = torch.Generator().manual_seed(seed)
    return -2 * torch.rand(batch.mask_NT.shape, generator=generator, dtype=torch.float64) * batch.mask_NT


def near(logprobs_NT: Tensor, spread: float, seed: int) -> Tensor:
    """Another policy's, different by about `spread`, zero on padding."""
    generator = torch.Generator().manual_seed(seed)
    noise_NT = spread * torch.randn(logprobs_NT.shape, generator=generator, dtype=logprobs_NT.dtype)
    return (logprobs_NT.detach() + noise_NT) * (logprobs_NT != 0)

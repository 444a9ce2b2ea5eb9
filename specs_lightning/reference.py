"""Reference policies: what the policy is compared with, without paying for it at every step.

`cached`: its log-probabilities are computed once, before the first step, and kept with the checkpoint; no second
model stays in memory. `frozen`: a second model, for references on completions that are not known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.policy import Policy, PolicySettings


@torch.no_grad()
def sequence_logprobs(policy: Policy, batches: Iterable[GroupBatch], max_tokens: int) -> Tensor:
    """The summed log-probability of every completion of `batches`, in their order, on the CPU: (all N,)."""
    sums = [torch.empty(0)]
    for batch in batches:
        for micro_batch in batch.micro_batches(max_tokens, policy.shared_prefix):
            moved = micro_batch.to(policy.device)
            sums.append(policy.token_logprobs(moved).logprobs.sum(-1).cpu())
    return torch.cat(sums)


class FrozenReference:
    """A second model that never changes. Not an `nn.Module`, so that it stays out of checkpoints and optimizers."""

    def __init__(self, settings: PolicySettings, device: torch.device) -> None:
        self.policy = Policy(settings).to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def token_logprobs(self, batch: GroupBatch) -> Tensor:
        """(N, T), as the policy's."""
        return self.policy.token_logprobs(batch, batch.temperature).logprobs

"""Reference policies: what the policy is compared with, without paying for it at every step.

`cached`: its log-probabilities are computed once, before the first step, and kept with the checkpoint; no second
model stays in memory. `frozen`: a second model, for references on completions that are not known beforehand.
`adapter_off`: with LoRA, the policy itself without its adapters, which takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.policy.policy import Policy


@torch.no_grad()
def sequence_logprobs(policy: Policy, batches: Iterable[GroupBatch], max_tokens: int) -> Tensor:
    """The summed log-probability of every completion of `batches`, in their order, on the CPU: (all N,).

    Batches are the same on all processes, which share the work, and get all.
    """

    def measure(micro_batch: GroupBatch) -> list[float]:
        sums: list[float] = policy.token_logprobs(micro_batch).logprobs.sum(-1).tolist()
        return sums

    return torch.tensor([total for batch in batches for total in policy.of_each_completion(batch, max_tokens, measure)])


class Reference(Protocol):
    """What can be asked at every step."""

    def token_logprobs(self, batch: GroupBatch) -> Tensor:
        """(N, T), as the policy's, at the temperature of sampling; without gradient."""


class FrozenReference:
    """A second model that never changes. Not an `nn.Module`, so that it stays out of checkpoints and optimizers."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy.eval().requires_grad_(False)

    @torch.no_grad()
    def token_logprobs(self, batch: GroupBatch) -> Tensor:
        return self.policy.token_logprobs(batch, batch.temperature).logprobs


class AdapterOffReference:
    """The model that the adapters of the policy, which is trained with LoRA, stand beside."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    def token_logprobs(self, batch: GroupBatch) -> Tensor:
        with self.policy.adapters_off():
            return self.policy.token_logprobs(batch, batch.temperature).logprobs

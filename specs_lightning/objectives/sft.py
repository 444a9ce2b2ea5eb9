"""Supervised fine-tuning on the chosen completions: the control, and the second term of the hybrid loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives.base import ColdStartObjective, LossTerms, sample_share

Normalization = Literal["mean", "sum"]


def sft_losses(logprobs_NT: Tensor, mask_NT: Tensor, normalization: Normalization) -> Tensor:
    """Each completion's negative log-likelihood, (N,), in nats.

    It is a `mean` over the completion's tokens, as in the paper's training code, or their `sum`, as the paper prints.
    """
    loss_N = -(logprobs_NT * mask_NT).sum(-1)
    return loss_N / mask_NT.sum(-1).clamp(min=1) if normalization == "mean" else loss_N


@dataclass(frozen=True)
class SFT(ColdStartObjective):
    """Maximum likelihood of the chosen completions."""

    normalization: Normalization = "mean"
    """Within a completion: the mean over its tokens, or their sum. Then the mean over completions."""

    completions_per_prompt: ClassVar[int] = 1

    def __call__(self, logprobs_NT: Tensor, batch: GroupBatch, denominator: Tensor) -> LossTerms:
        loss_N = sft_losses(logprobs_NT, batch.mask_NT, self.normalization)
        return LossTerms(loss_N.sum() / denominator, {"sft_loss": sample_share(loss_N)})

"""RBF, the rollout branching factor (arXiv 2508.07534): among how many tokens a policy chooses while it generates.

A step's is the size of its nucleus: the smallest set of tokens that holds 95 % of the probability. A completion's is
the mean over its steps, the metric's the mean over completions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from specs_lightning.policy.token_logprobs import LOGITS_IN_MEMORY

ROUNDING = 1e-6
"""How far below `top_p` still reaches it: 19 of 20 equally likely tokens hold 95 %, though maybe not in float32."""
USUAL_NUCLEUS = 128
"""Nuclei of up to this size are found among the top tokens, 20 times as fast (on a CPU) as by sorting them all."""


@torch.no_grad()
def nucleus_sizes(logits_MV: Tensor, top_p: float = 0.95, logits_in_memory: int = LOGITS_IN_MEMORY) -> Tensor:
    """How many of the most likely tokens it takes to reach a probability of `top_p`: (M,) float32.

    NaN where logits are. The distribution is softmax(logits): whoever sampled at a temperature, or banned tokens,
    divides by it, or sets them to −∞, first.

    So many `logits_in_memory` are worked on at once. Each takes 8 bytes more, 30 in steps with a nucleus beyond
    `USUAL_NUCLEUS`.
    """
    if not 0 < top_p < 1:
        raise ValueError(f"top_p must lie between 0 and 1, not {top_p}")
    chunk = max(1, logits_in_memory // logits_MV.shape[1])
    return torch.cat([_sizes(part_MV, top_p) for part_MV in logits_MV.split(chunk)])


def rollout_branching_factor(sizes_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """The mean nucleus of each completion, (N,) float64; NaN for one without a step.

    The mask tells the tokens that the policy generated, the end token included.
    """
    return sizes_NT.double().where(mask_NT, 0.0).sum(-1) / mask_NT.sum(-1)


class RolloutBranchingFactor(MeanMetric):
    """The mean rollout branching factor over completions, from `nucleus_sizes`; completions without a step left out."""

    def __init__(self) -> None:
        super().__init__(nan_strategy="ignore")
        self.set_dtype(torch.float64)

    def update(self, sizes_NT: Tensor, mask_NT: Tensor) -> None:  # type: ignore[override]
        """Add completions, as `rollout_branching_factor` takes them."""
        super().update(rollout_branching_factor(sizes_NT, mask_NT))


def _sizes(logits_MV: Tensor, top_p: float) -> Tensor:
    probabilities_MV = logits_MV.float().softmax(-1)
    sizes_M = _reached(probabilities_MV.topk(min(USUAL_NUCLEUS, logits_MV.shape[1])).values, top_p)
    wide_M = sizes_M > USUAL_NUCLEUS
    if wide_M.any():
        sizes_M[wide_M] = _reached(probabilities_MV[wide_M].sort(descending=True).values, top_p)
    return sizes_M.float().masked_fill(probabilities_MV[:, 0].isnan(), torch.nan)


def _reached(sorted_MK: Tensor, top_p: float) -> Tensor:
    """How many of the first probabilities add up to `top_p`; K + 1 where all of them do not."""
    return (sorted_MK.cumsum(-1, dtype=torch.float64) < top_p - ROUNDING).sum(-1) + 1

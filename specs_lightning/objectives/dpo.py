"""The hybrid cold-start loss, L = L_DPO + λ·L_SFT(chosen) (paper section 3.2).

L_DPO = −log σ(β·[log π/π_ref(chosen) − log π/π_ref(rejected)]), on log-probabilities summed over a completion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives.base import ColdStartObjective, LossTerms, Part, sample_share
from specs_lightning.objectives.sft import Normalization, sft_losses


@dataclass(frozen=True)
class DPO(ColdStartObjective):
    """Direct preference optimisation with a supervised term on the chosen side."""

    beta: float = 0.1
    """How strongly the policy is held to the reference."""
    sft_weight: float = 1.0
    """λ. At 0 (plain DPO) the chosen completions, too, lose probability."""
    sft_normalization: Normalization = "mean"
    """Within a chosen completion: the mean over its tokens, or their sum."""

    completions_per_prompt: ClassVar[int] = 2
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.beta < math.inf and 0 <= self.sft_weight < math.inf):
            raise ValueError(f"beta must be positive ({self.beta}) and sft_weight not negative ({self.sft_weight})")

    def __call__(self, logprobs_NT: Tensor, batch: GroupBatch, denominator: Tensor) -> LossTerms:
        if batch.group_sizes != [2] * len(batch.prompts):
            raise ValueError(f"every group must be a pair (chosen, rejected), not of sizes {batch.group_sizes}")
        if batch.reference_logprobs_N is None:
            raise ValueError("DPO needs the reference's log-probabilities")
        reward_N = self.beta * ((logprobs_NT * batch.mask_NT).sum(-1) - batch.reference_logprobs_N)
        chosen_P, rejected_P = reward_N[0::2], reward_N[1::2]
        dpo_P = -F.logsigmoid(chosen_P - rejected_P)
        sft_P = sft_losses(logprobs_NT[0::2], batch.mask_NT[0::2], self.sft_normalization)
        loss = (dpo_P + self.sft_weight * sft_P).sum() / denominator
        metrics: dict[str, Part] = {
            "dpo_loss": sample_share(dpo_P),
            "sft_loss": sample_share(sft_P),
            "sft_weight": sample_share(sft_P.new_full(sft_P.shape, self.sft_weight)),
            "reward_chosen": sample_share(chosen_P),
            "reward_rejected": sample_share(rejected_P),
            "reward_margin": sample_share(chosen_P - rejected_P),
            "preference_accuracy": sample_share((chosen_P > rejected_P).float()),
        }
        return LossTerms(loss, metrics)

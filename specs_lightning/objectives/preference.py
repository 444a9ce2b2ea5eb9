"""What objectives on preference pairs share: L = L_preference + λ·L_SFT(chosen), the form of the paper's hybrid loss.

A subclass says what a completion's implicit reward is and what the loss of a pair is, given both rewards. With
`sft_weight` 0 it is the loss of its paper alone; with another and `sft_normalization: mean`, DPO's is RPO's (Iterative
RPO, arXiv 2404.19733, whose α is `sft_weight`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from specs_lightning.groups import GroupBatch
from specs_lightning.objectives.base import ColdStartObjective, LossTerms, Part, sample_share
from specs_lightning.objectives.sft import Normalization, sft_losses


@dataclass(frozen=True)
class PreferenceObjective(ColdStartObjective):
    """A loss on the implicit rewards of chosen and rejected, with a supervised term on the chosen side."""

    sft_weight: float = 1.0
    """λ. At 0 (the preference loss alone) the chosen completions, too, may lose probability."""
    sft_normalization: Normalization = "mean"
    """Within a chosen completion: the mean over its tokens, or their sum."""

    completions_per_prompt: ClassVar[int] = 2
    needs_reference: ClassVar[bool] = True
    may_be_zero: ClassVar[tuple[str, ...]] = ("sft_weight",)
    """Settings that need not be positive."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            usable = not isinstance(value, int | float) or 0 < value < math.inf
            if not usable and not (value == 0 and name in self.may_be_zero):
                allowed = "0 or more" if name in self.may_be_zero else "positive"
                raise ValueError(f"{name} must be {allowed}, not {value}")

    @abstractmethod
    def rewards(self, score_N: Tensor, lengths_N: Tensor) -> Tensor:
        """Each completion's implicit reward, (N,).

        Args:
            score_N: log π/π_ref summed over its tokens or, without a reference, log π.
            lengths_N: how many tokens these are, at least 1.
        """

    @abstractmethod
    def losses(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        """Each pair's loss, given the implicit rewards of its sides: (P,)."""

    def __call__(self, logprobs_NT: Tensor, batch: GroupBatch, denominator: Tensor) -> LossTerms:
        if batch.group_sizes != [2] * len(batch.prompts):
            raise ValueError(f"every group must be a pair (chosen, rejected), not of sizes {batch.group_sizes}")
        logprobs_N = (logprobs_NT * batch.mask_NT).sum(-1)
        reward_N = self.rewards(self._scores(logprobs_N, batch), batch.mask_NT.sum(-1).clamp(min=1))
        chosen_P, rejected_P = reward_N[0::2], reward_N[1::2]
        loss_P = self.losses(chosen_P, rejected_P)
        sft_P = sft_losses(logprobs_NT[0::2], batch.mask_NT[0::2], self.sft_normalization)
        loss = (loss_P + self.sft_weight * sft_P).sum() / denominator
        metrics: dict[str, Part] = {
            f"{type(self).__name__.lower()}_loss": sample_share(loss_P),
            "sft_loss": sample_share(sft_P),
            "sft_weight": sample_share(sft_P.new_full(sft_P.shape, self.sft_weight)),
            "rewards/chosen": sample_share(chosen_P),
            "rewards/rejected": sample_share(rejected_P),
            "rewards/margins": sample_share(chosen_P - rejected_P),
            "rewards/accuracies": sample_share((chosen_P > rejected_P).float()),
            "logps/chosen": sample_share(logprobs_N[0::2]),
            "logps/rejected": sample_share(logprobs_N[1::2]),
        }
        return LossTerms(loss, metrics)

    def _scores(self, logprobs_N: Tensor, batch: GroupBatch) -> Tensor:
        if not self.needs_reference:
            return logprobs_N
        if batch.reference_logprobs_N is None:
            raise ValueError(f"{type(self).__name__} needs the reference's log-probabilities")
        return logprobs_N - batch.reference_logprobs_N

"""Preference losses in place of DPO's, each with the supervised term on the chosen side that `sft_weight` weighs.

A scale that is not DPO's β has another name: on the command line, a class that takes another's place keeps the settings
of the same names. KTO is not among them: its reference point is how far the policy is from the reference on mismatched
prompts and completions of the whole batch, for which each step would need another forward pass before its first. With
a reference point of 0 it is APO-zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from specs_lightning.objectives.preference import PreferenceObjective

CERTAIN = -1e-7
"""A mean log-probability above it is taken for it: the odds of what is certain are infinite."""


@dataclass(frozen=True)
class LengthNormalizedDPO(PreferenceObjective):
    """DPO on means over tokens in place of sums: a longer completion is no stronger preference (Tülu 3, arXiv
    2411.15124; TRL's `sigmoid_norm`)."""

    reward_scale: float = 5.0
    """β of a mean over tokens, which is small: 5 as in Tülu 3."""

    def rewards(self, score_N: Tensor, lengths_N: Tensor) -> Tensor:
        return self.reward_scale * score_N / lengths_N

    def losses(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        return -F.logsigmoid(chosen_P - rejected_P)


@dataclass(frozen=True)
class IPO(PreferenceObjective):
    """(margin − 1/(2τ))², the margin of log π/π_ref as a mean over tokens: it is led to a finite value, where DPO's
    grows on (arXiv 2310.12036, equation 17, by token as its authors have confirmed to TRL)."""

    tau: float = 0.1
    """How strongly the policy is held to the reference (TRL's `beta`): the margin is led to 1/(2τ)."""

    def rewards(self, score_N: Tensor, lengths_N: Tensor) -> Tensor:
        return self.tau * score_N / lengths_N

    def losses(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        return ((chosen_P - rejected_P - 0.5) / self.tau).square()


@dataclass(frozen=True)
class SimPO(PreferenceObjective):
    """−log σ(β·[mean log π(chosen) − mean log π(rejected)] − margin), without a reference (arXiv 2405.14734)."""

    reward_scale: float = 2.0
    """β: what mean log-probabilities are multiplied by."""
    margin: float = 1.0
    """By how much the chosen reward should exceed the rejected one (γ)."""

    needs_reference: ClassVar[bool] = False
    may_be_zero: ClassVar[tuple[str, ...]] = ("sft_weight", "margin")

    def rewards(self, score_N: Tensor, lengths_N: Tensor) -> Tensor:
        return self.reward_scale * score_N / lengths_N

    def losses(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        return -F.logsigmoid(chosen_P - rejected_P - self.margin)


@dataclass(frozen=True)
class ORPO(PreferenceObjective):
    """−λ log σ(log odds(chosen) − log odds(rejected)), the odds of the geometric mean of a completion's token
    probabilities, without a reference (arXiv 2403.07691, which has `sft_weight` 1)."""

    odds_weight: float = 0.1
    """λ, the weight of the odds ratio beside the supervised term (TRL's `beta`)."""

    needs_reference: ClassVar[bool] = False

    def rewards(self, score_N: Tensor, lengths_N: Tensor) -> Tensor:
        mean_N = (score_N / lengths_N).clamp(max=CERTAIN)
        return mean_N - torch.log(-torch.expm1(mean_N))

    def losses(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        return -self.odds_weight * F.logsigmoid(chosen_P - rejected_P)


@dataclass(frozen=True)
class APOZero(PreferenceObjective):
    """1 − σ(r_chosen) + σ(r_rejected): each side by itself, chosen up and rejected down; for chosen completions that
    are better than the policy's own (arXiv 2408.06266, equation 7). It is KTO with a reference point of 0."""

    beta: float = 0.1
    """How strongly the policy is held to the reference."""

    def rewards(self, score_N: Tensor, lengths_N: Tensor) -> Tensor:
        return self.beta * score_N

    def losses(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        return 1 - torch.sigmoid(chosen_P) + torch.sigmoid(rejected_P)


@dataclass(frozen=True)
class APODown(PreferenceObjective):
    """σ(r_chosen) + 1 − σ(r_chosen − r_rejected): both sides down, the rejected further; for chosen completions that
    are worse than the policy's own (arXiv 2408.06266, equation 8)."""

    beta: float = 0.1
    """How strongly the policy is held to the reference."""

    def rewards(self, score_N: Tensor, lengths_N: Tensor) -> Tensor:
        return self.beta * score_N

    def losses(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        return torch.sigmoid(chosen_P) + 1 - torch.sigmoid(chosen_P - rejected_P)

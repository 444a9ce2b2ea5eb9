"""What of the policy gradient a token keeps, by how far its probability has moved: the menu of `GRPO.surrogate`.

Each takes the probability ratios ρ of new to old policy, the advantages A and the log-probabilities, all (N, T), and
gives each token's loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from specs_lightning.errors import check_positive


class Cut(NamedTuple):
    """Which tokens have no gradient, or a bounded one, because their probability has fallen or risen enough: (N, T)."""

    low_NT: Tensor
    high_NT: Tensor


class Surrogate(ABC):
    """A stand-in for the policy's expected advantage, that may be followed for more than one step."""

    @abstractmethod
    def loss(self, ratio_NT: Tensor, advantage_NT: Tensor, logprobs_NT: Tensor) -> Tensor:
        """(N, T) losses; the gradient goes through `ratio_NT` or `logprobs_NT`."""

    @abstractmethod
    def cut(self, ratio_NT: Tensor, advantage_NT: Tensor) -> Cut:
        """What is cut or bounded."""


@dataclass(frozen=True)
class Clipped(Surrogate):
    """−min(ρA, clip(ρ)A) (PPO, arXiv 1707.06347), with bounds of their own below and above (DAPO, 2503.14476)."""

    clip_low: float = 0.2
    """How far the probability ratio may fall below 1 before its gradient is cut."""
    clip_high: float = 0.28
    """How far it may rise above 1."""
    dual_clip: float | None = None
    """With negative advantage, a ratio above this has no gradient either (dual-clip PPO, arXiv 1912.09729, which takes
    3; TRL's `delta`): without it, one token that has become likely may outweigh all others."""

    def __post_init__(self) -> None:
        if not (0 <= self.clip_low < 1 and self.clip_high >= 0):
            raise ValueError(f"clip_low must be in [0, 1), clip_high not negative: {self}")
        if self.dual_clip is not None and not self.dual_clip > 1 + self.clip_high:
            raise ValueError(f"dual_clip must be above 1 + clip_high: {self}")

    def loss(self, ratio_NT: Tensor, advantage_NT: Tensor, logprobs_NT: Tensor) -> Tensor:
        clipped_NT = ratio_NT.clamp(1 - self.clip_low, 1 + self.clip_high)
        bounded_NT = ratio_NT if self.dual_clip is None else ratio_NT.clamp(max=self.dual_clip)
        return -torch.minimum(bounded_NT * advantage_NT, clipped_NT * advantage_NT)

    def cut(self, ratio_NT: Tensor, advantage_NT: Tensor) -> Cut:
        low_NT = (ratio_NT < 1 - self.clip_low) & (advantage_NT < 0)
        high_NT = (ratio_NT > 1 + self.clip_high) & (advantage_NT > 0)
        if self.dual_clip is not None:
            high_NT = high_NT | ((ratio_NT > self.dual_clip) & (advantage_NT < 0))
        return Cut(low_NT, high_NT)


@dataclass(frozen=True)
class CISPO(Surrogate):
    """−min(ρ, cap) A log π, without gradient through the weight min(ρ, cap) (MiniMax-M1, arXiv 2506.13585): every token
    keeps a gradient, also the rare ones at which reasoning turns."""

    cap: float = 5.0
    """The largest weight (TRL's `epsilon_high`; 5 as in ScaleRL, arXiv 2510.13786)."""

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ValueError(f"cap must be at least 1, the weight of a policy that has not moved: {self}")

    def loss(self, ratio_NT: Tensor, advantage_NT: Tensor, logprobs_NT: Tensor) -> Tensor:
        return -ratio_NT.detach().clamp(max=self.cap) * advantage_NT * logprobs_NT

    def cut(self, ratio_NT: Tensor, advantage_NT: Tensor) -> Cut:
        bounded_NT = ratio_NT > self.cap
        return Cut(torch.zeros_like(bounded_NT), bounded_NT)


@dataclass(frozen=True)
class SAPO(Surrogate):
    """−4/τ σ(τ(ρ − 1)) A: the gradient fades with the distance from 1 and never breaks off (soft adaptive policy
    optimisation, arXiv 2511.20347). Its paper aggregates by `sequence`."""

    temperature_positive: float = 1.0
    """τ where the advantage is positive: the higher, the sooner the gradient fades."""
    temperature_negative: float = 1.05
    """τ where it is not."""

    def __post_init__(self) -> None:
        check_positive(temperature_positive=self.temperature_positive, temperature_negative=self.temperature_negative)

    def loss(self, ratio_NT: Tensor, advantage_NT: Tensor, logprobs_NT: Tensor) -> Tensor:
        positive, negative = self.temperature_positive, self.temperature_negative
        tau_NT = torch.where(advantage_NT > 0, positive, negative).to(ratio_NT.dtype)
        return -torch.sigmoid(tau_NT * (ratio_NT - 1)) * 4 / tau_NT * advantage_NT

    def cut(self, ratio_NT: Tensor, advantage_NT: Tensor) -> Cut:
        nothing_NT = torch.zeros_like(ratio_NT, dtype=torch.bool)
        return Cut(nothing_NT, nothing_NT)

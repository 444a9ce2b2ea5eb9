"""The mismatch of rollout engine and trainer: with the same weights, two programs give a token two probabilities.

Completions are drawn from the engine's distribution, the clipped ratio takes them for the trainer's. The importance
weight w = π_old / π_sampler (both before any step of the round) makes up for it, and is kept within bounds, since a
single large one would outweigh the rest: truncated importance sampling (Yao et al. 2025, "Your efficient RL framework
secretly brings you off-policy RL training") or masked. Where sampling is truncated, what the engine draws from is the
trainer's distribution without its tail, and w is what was kept of it. The four kinds and levels are TRL 1.16's
`vllm_importance_sampling_mode`: token_truncate, token_mask, sequence_truncate and sequence_mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from specs_lightning.objectives.base import EffectiveSampleSize, Maximum, Part, Share, token_share

LOG_WEIGHT_LIMIT = 20.0
"""In the effective sample size, weights stay within e^±20: a long completion's square may exceed float32."""


@dataclass(frozen=True)
class MismatchCorrection:
    """What is done about tokens to which the rollout engine gives another probability than the trainer."""

    kind: Literal["none", "truncated", "masked"] = "none"
    """`truncated` multiplies a token's loss by its importance weight w = π_old / π_sampler, brought within `floor` and
    `cap`; `masked` multiplies by w, and by 0 where w lies outside them. In both, π_old is the trainer's own policy at
    the start of the round. `none` does not weigh, and π_old is what the engine reported."""
    level: Literal["token", "sequence"] = "token"
    """Each token's own w, or the whole completion's: the product over its tokens that count in the loss."""
    cap: float = 2.0
    """The largest w that is let through."""
    floor: float = 0.0
    """The smallest."""
    warn_above: float = 0.05
    """Warn where the log-probabilities of engine and trainer differ by more than this, in nats, in the mean over a
    step's tokens."""  # ln 1.05: NeMo RL investigates where the mean of e^|difference| is above 1.05

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1 <= self.cap:
            raise ValueError(f"floor and cap enclose 1, the weight where engine and trainer agree: {self}")
        if not self.warn_above > 0:
            raise ValueError(f"warn_above must be positive, not {self.warn_above}")

    def weights(self, old_NT: Tensor, sampler_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """What each token's loss is multiplied by: (N, T), or (N, 1) of whole completions."""
        weight = self._log_weights(old_NT, sampler_NT, mask_NT).exp()
        if self.kind == "none":
            return torch.ones_like(weight)
        if self.kind == "truncated":
            return weight.clamp(self.floor, self.cap)
        return weight.masked_fill(self._outside(weight), 0.0)

    def measure(self, old_NT: Tensor, sampler_NT: Tensor, mask_NT: Tensor) -> dict[str, Part]:
        """The worth of the step's samples, by their weights before any bounds."""
        log_weight = self._log_weights(old_NT, sampler_NT, mask_NT)
        counted = mask_NT if self.level == "token" else mask_NT.any(-1, keepdim=True)
        weight = log_weight.clamp(-LOG_WEIGHT_LIMIT, LOG_WEIGHT_LIMIT).exp() * counted
        measured: dict[str, Part] = {
            "mismatch/effective_sample_size": EffectiveSampleSize(weight.sum(), weight.square().sum(), counted.sum()),
        }
        if self.kind != "none":
            outside = self._outside(log_weight.exp()) & counted
            measured["mismatch/out_of_bounds"] = Share(outside.sum(), counted.sum())
        return measured

    def gap(
        self, old_NT: Tensor, sampler_NT: Tensor, mask_NT: Tensor, kept_logmass_NT: Tensor | None = None
    ) -> dict[str, Part]:
        """How far engine and trainer are apart, in nats.

        Where sampling was truncated, both are asked for the same: the log-probability in what the truncation keeps.

        Args:
            kept_logmass_NT: log of the probability that it keeps of the trainer's distribution; `None`: all.
        """
        expected_NT = old_NT if kept_logmass_NT is None else old_NT - kept_logmass_NT
        gap_NT = (expected_NT - sampler_NT).abs() * mask_NT
        measured: dict[str, Part] = {
            "mismatch/mean": token_share(gap_NT, mask_NT),
            "mismatch/max": Maximum(torch.nn.functional.pad(gap_NT.flatten(), (0, 1)).max()),  # there may be no token
        }
        if kept_logmass_NT is not None:
            measured["kept_probability"] = token_share(kept_logmass_NT.exp(), mask_NT)
        return measured

    def _log_weights(self, old_NT: Tensor, sampler_NT: Tensor, mask_NT: Tensor) -> Tensor:
        log_weight_NT = (old_NT - sampler_NT) * mask_NT
        return log_weight_NT if self.level == "token" else log_weight_NT.sum(-1, keepdim=True)

    def _outside(self, weight: Tensor) -> Tensor:
        return (weight < self.floor) | (weight > self.cap)

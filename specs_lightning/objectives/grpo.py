"""Group relative policy optimisation, with the variants in use (DeepSeekMath's, DAPO's, Dr. GRPO's, GSPO's).

What else may stand for its clipping and its advantages is in `surrogates.py` and `advantages.py`. The paper trains
without a KL term and with "clipping similar to DAPO", read here as 0.2 below and 0.28 above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from specs_lightning.errors import check_positive
from specs_lightning.groups import GroupBatch
from specs_lightning.objectives.advantages import Advantages, AdvantageScale, GroupRelative
from specs_lightning.objectives.base import LossTerms, Part, token_share
from specs_lightning.objectives.mismatch import MismatchCorrection
from specs_lightning.objectives.surrogates import Clipped, Surrogate


@dataclass(frozen=True)
class GRPO:
    """The clipped policy gradient on groups of completions."""

    clip_low: float = 0.2
    """How far the probability ratio may fall below 1 before its gradient is cut."""
    clip_high: float = 0.28
    """How far it may rise above 1."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """What the loss is a mean over: all tokens of the step (DAPO), each completion's own mean (GRPO), or the sum of
    tokens divided by `constant_length` for each completion (Dr. GRPO)."""
    constant_length: int | None = None
    """The divisor of `aggregation: constant`, usually the longest completion allowed."""
    ratio: Literal["token", "sequence"] = "token"
    """The probability ratio of each token, or of the whole completion as its geometric mean (GSPO)."""
    advantage_scale: AdvantageScale = "std"
    """`std` divides advantages by their group's standard deviation, `none` does not."""
    kl_coefficient: float = 0.0
    """Weight of the KL penalty to the reference (0: none, and no reference is loaded)."""
    mask_truncated: bool = False
    """Leave completions that hit the length limit out of the loss (DAPO's overlong filtering)."""
    mismatch: MismatchCorrection = MismatchCorrection()  # noqa: RUF009  frozen
    """What is done where rollout engine and trainer disagree about the probability of a token."""
    surrogate: Surrogate | None = None
    """What a token's probability ratio does to its gradient: Clipped (also with dual clip), CISPO or SAPO. `clip_low`
    and `clip_high` are short for Clipped, which is the default."""
    advantages: Advantages | None = None
    """What a reward is compared with: GroupRelative, LeaveOneOut, BatchScaled or PerReward. `advantage_scale` is short
    for GroupRelative, which is the default."""
    entropy_coefficient: float = 0.0
    """Weight of an entropy bonus, which is aggregated as the rest of the loss; 0 for none."""

    def __post_init__(self) -> None:
        if (self.aggregation == "constant") != (self.constant_length is not None):
            raise ValueError("constant_length goes with aggregation: constant, and only with it")
        check_positive(constant_length=self.constant_length)
        if not (0 <= self.kl_coefficient < math.inf and 0 <= self.entropy_coefficient < math.inf):
            raise ValueError(f"kl_coefficient and entropy_coefficient must not be negative: {self}")
        if self.surrogate is not None and (self.clip_low, self.clip_high) != (0.2, 0.28):
            raise ValueError("clip_low and clip_high are of the default surrogate: set them within surrogate (Clipped)")
        if self.advantages is not None and self.advantage_scale != "std":
            raise ValueError("advantage_scale is of the default advantages: set it within advantages (GroupRelative)")
        _ = self.clipping  # which checks the bounds

    @property
    def clipping(self) -> Surrogate:
        """The surrogate in use."""
        return self.surrogate or Clipped(self.clip_low, self.clip_high)

    def weigh(self, batch: GroupBatch) -> GroupBatch:
        """The batch with advantages, and with what must not count taken out of its mask: completions without a
        score and, if asked for, unfinished ones. Takes a whole step."""
        if batch.rewards_N is None or batch.finished_N is None:
            raise ValueError("GRPO needs rewards, and which completions are finished")
        counts_N = ~batch.rewards_N.isnan()
        if self.mask_truncated:
            counts_N = counts_N & batch.finished_N
        advantages = self.advantages or GroupRelative(self.advantage_scale)
        return replace(
            batch,
            advantages_N=advantages(batch, batch.rewards_N),
            mask_NT=batch.mask_NT & counts_N[:, None],
        )

    def denominator(self, batch: GroupBatch) -> Tensor:
        """What the whole step's loss is divided by: tokens, or completions with a token that counts.

        What `mismatch` weighs by 0 goes on counting: its weight is not known before the first forward pass.
        """
        if self.aggregation == "token":
            return batch.mask_NT.sum()
        completions = batch.mask_NT.any(-1).sum()
        return completions if self.constant_length is None else completions * self.constant_length

    def __call__(
        self, logprobs_NT: Tensor, batch: GroupBatch, denominator: Tensor, entropy_NT: Tensor | None = None
    ) -> LossTerms:
        """The share of the loss of these completions.

        Args:
            logprobs_NT: the policy's.
            batch: weighed; with `sampler_logprobs_NT`, and `old_logprobs_NT` where the mismatch is corrected, unless
                the sampling policy is still the current one; with `reference_logprobs_NT` where there is a KL term.
            denominator: `denominator` of the whole step.
            entropy_NT: of the policy at each token, with gradient; where there is a bonus for it.
        """
        if batch.advantages_N is None:
            raise ValueError("GRPO needs advantages: weigh the batch first")
        mask_NT = batch.mask_NT
        current_NT = logprobs_NT.detach()
        # The trainer's own policy at the start of the round: in its first step, that is the current one.
        start_NT = current_NT if batch.fresh and batch.old_logprobs_NT is None else batch.old_logprobs_NT
        old_NT = self._old_logprobs(start_NT, current_NT, batch)
        log_ratio_NT = (logprobs_NT - old_NT) * mask_NT
        if self.ratio == "sequence":
            log_ratio_NT = (log_ratio_NT.sum(-1) / mask_NT.sum(-1).clamp(min=1))[:, None].expand_as(mask_NT)
        ratio_NT = log_ratio_NT.exp()
        advantage_NT = batch.advantages_N[:, None].expand_as(ratio_NT)
        loss_NT = self.clipping.loss(ratio_NT, advantage_NT, logprobs_NT)
        low_NT, high_NT = self.clipping.cut(ratio_NT, advantage_NT)
        metrics: dict[str, Part] = {
            "clip_ratio/low_mean": token_share(low_NT.float(), mask_NT),
            "clip_ratio/high_mean": token_share(high_NT.float(), mask_NT),
            "clip_ratio/region_mean": token_share((low_NT | high_NT).float(), mask_NT),
            "approximate_kl": token_share(ratio_NT - 1 - log_ratio_NT, mask_NT),
        }
        if start_NT is not None and batch.sampler_logprobs_NT is not None:
            metrics |= self.mismatch.measure(start_NT, batch.sampler_logprobs_NT, mask_NT)
            if batch.truncation is None or batch.kept_logmass_NT is not None:
                kept_NT = batch.kept_logmass_NT
                metrics |= self.mismatch.gap(start_NT, batch.sampler_logprobs_NT, mask_NT, kept_NT)
            loss_NT = loss_NT * self.mismatch.weights(start_NT, batch.sampler_logprobs_NT, mask_NT)
        if self.kl_coefficient:
            if batch.reference_logprobs_NT is None:
                raise ValueError("a KL term needs the reference's log-probabilities")
            gap_NT = (batch.reference_logprobs_NT - logprobs_NT) * mask_NT
            kl_NT = gap_NT.exp() - gap_NT - 1  # k3: unbiased, never negative
            loss_NT = loss_NT + self.kl_coefficient * kl_NT
            metrics["kl"] = token_share(kl_NT, mask_NT)
        if self.entropy_coefficient:
            if entropy_NT is None:
                raise ValueError("an entropy bonus needs the entropies")
            loss_NT = loss_NT - self.entropy_coefficient * entropy_NT
        return LossTerms(self._aggregate(loss_NT, mask_NT) / denominator, metrics)

    def _old_logprobs(self, start_NT: Tensor | None, current_NT: Tensor, batch: GroupBatch) -> Tensor:
        """The denominator of the ratio: the trainer's own policy or, without a correction, what the engine reported."""
        if self.mismatch.kind == "none":
            known_NT = batch.sampler_logprobs_NT if batch.old_logprobs_NT is None else batch.old_logprobs_NT
            return current_NT if known_NT is None else known_NT
        if start_NT is None or batch.sampler_logprobs_NT is None:
            raise ValueError(
                f"mismatch.kind {self.mismatch.kind} needs log-probabilities of the engine and, after a round's first "
                "step, the policy's own from the start of the round"
            )
        return start_NT

    def _aggregate(self, loss_NT: Tensor, mask_NT: Tensor) -> Tensor:
        loss_N = (loss_NT * mask_NT).sum(-1)
        return (loss_N / mask_NT.sum(-1).clamp(min=1) if self.aggregation == "sequence" else loss_N).sum()

"""How much better than expected a completion is: the menu of `GRPO.advantages`.

Each takes a whole step, before it is dealt to ranks and micro-batches, and gives (N,) advantages. A completion without
a score (NaN) has advantage 0 and no part in any mean or deviation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from specs_lightning.groups import GroupBatch

AdvantageScale = Literal["std", "none"]
EPSILON = 1e-4
"""Keeps a deviation of 0 from being divided by, as in TRL."""


def group_sums(values_N: Tensor, group_N: Tensor) -> Tensor:
    """The sum over each completion's group, (N,)."""
    groups = int(group_N.max()) + 1 if len(group_N) else 0
    zero_G = torch.zeros(groups, dtype=values_N.dtype, device=values_N.device)
    return zero_G.index_add(0, group_N, values_N)[group_N]


def scored_in_group(rewards_N: Tensor, group_N: Tensor) -> Tensor:
    """How many completions of each one's group have a score, (N,)."""
    return group_sums((~rewards_N.isnan()).to(rewards_N.dtype), group_N)


def group_advantages(
    rewards_N: Tensor, group_N: Tensor, scale: AdvantageScale = "std", epsilon: float = EPSILON
) -> Tensor:
    """How much better each completion is than its group: (r − mean) / (std + ε), or r − mean.

    Args:
        rewards_N: NaN marks a completion that could not be scored: it has advantage 0 and no part in its group's
            mean and deviation.
        group_N: the group of each completion, 0 to G − 1.
        scale: `std` divides by the group's standard deviation (of the sample, over n − 1); `none` does not, which
            does not favour questions that are almost always or almost never answered right (Dr. GRPO).
    """
    value_N, count_N = rewards_N.nan_to_num(0.0), scored_in_group(rewards_N, group_N)
    advantage_N = (value_N - group_sums(value_N, group_N) / count_N.clamp(min=1)) * ~rewards_N.isnan()
    if scale == "none":
        return advantage_N
    variance_N = group_sums(advantage_N.square(), group_N) / (count_N - 1).clamp(min=1)
    return advantage_N / (variance_N.sqrt() + epsilon)


def step_moments(values_N: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation (over n − 1) of what is not NaN, over the step."""
    known_N = ~values_N.isnan()
    value_N, count = values_N.nan_to_num(0.0), known_N.sum()
    mean = value_N.sum() / count.clamp(min=1)
    squares = ((value_N - mean) * known_N).square().sum()
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def standardized(values_N: Tensor) -> Tensor:
    """(value − mean) / (std + ε) over the step; 0 for NaN."""
    mean, deviation = step_moments(values_N)
    return ((values_N - mean) / (deviation + EPSILON)).nan_to_num(0.0)


class Advantages(ABC):
    """What a completion's reward is compared with, and how the difference is scaled."""

    @abstractmethod
    def __call__(self, batch: GroupBatch, rewards_N: Tensor) -> Tensor:
        """(N,) advantages.

        Args:
            batch: the step.
            rewards_N: its rewards, NaN where a completion has no score.
        """


@dataclass(frozen=True)
class GroupRelative(Advantages):
    """r − the group's mean, divided by the group's deviation or not (GRPO, arXiv 2402.03300; Dr. GRPO, 2503.20783)."""

    scale: AdvantageScale = "std"
    """`std` divides by the group's standard deviation, `none` does not."""

    def __call__(self, batch: GroupBatch, rewards_N: Tensor) -> Tensor:
        return group_advantages(rewards_N, batch.group_N, self.scale)


@dataclass(frozen=True)
class LeaveOneOut(Advantages):
    """r − the mean of the group's other completions (RLOO, arXiv 2402.14740): n / (n − 1) times r − the group's mean.
    One without others has advantage 0."""

    def __call__(self, batch: GroupBatch, rewards_N: Tensor) -> Tensor:
        count_N = scored_in_group(rewards_N, batch.group_N)
        return group_advantages(rewards_N, batch.group_N, "none") * count_N / (count_N - 1).clamp(min=1)


@dataclass(frozen=True)
class BatchScaled(Advantages):
    """Divided by a deviation over the whole step, not the group: a single lucky completion weighs no more in a group
    where all others fail than elsewhere.

    `baseline: group` is REINFORCE++-baseline, `baseline: batch` REINFORCE++ (arXiv 2501.03262), without its KL penalty
    in the reward; `deviation: rewards` is that of "Tricks or traps?" (arXiv 2508.08221) and of TRL's `scale_rewards:
    batch`. The step is what these call a batch, and with `steps_per_round: 1` it is the whole round.
    """

    baseline: Literal["group", "batch"] = "group"
    """What is subtracted from a reward: its group's mean, or the step's."""
    deviation: Literal["advantages", "rewards"] = "advantages"
    """What the standard deviation is taken of: what is left after the baseline, or the rewards themselves."""

    def __call__(self, batch: GroupBatch, rewards_N: Tensor) -> Tensor:
        if self.baseline == "batch":
            return standardized(rewards_N)
        centred_N = group_advantages(rewards_N, batch.group_N, "none")
        measured_N = rewards_N if self.deviation == "rewards" else centred_N.masked_fill(rewards_N.isnan(), torch.nan)
        return centred_N / (step_moments(measured_N)[1] + EPSILON)


@dataclass(frozen=True)
class PerReward(Advantages):
    """Each reward is compared within its group by itself, the weighted sum is standardised over the step (GDPO,
    arXiv 2601.05242): a reward of small range is not drowned by one of large range. TRL's `normalize_then_sum`."""

    def __call__(self, batch: GroupBatch, rewards_N: Tensor) -> Tensor:
        if batch.rewards_NK is None or len(batch.reward_weights) != batch.rewards_NK.shape[1]:
            raise ValueError("PerReward needs each reward's own values and weight (rewards_NK, reward_weights)")
        summed_N = torch.zeros_like(rewards_N).masked_fill(rewards_N.isnan(), torch.nan)
        for values_N, weight in zip(batch.rewards_NK.unbind(1), batch.reward_weights, strict=True):
            scored_N = values_N.masked_fill(rewards_N.isnan(), torch.nan)
            summed_N = summed_N + weight * group_advantages(scored_N, batch.group_N)
        return standardized(summed_N)

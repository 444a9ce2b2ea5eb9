"""What every objective returns, and how a mean over a whole step is taken piece by piece.

A step's loss is a sum over units (tokens, completions or pairs) divided by their number in the whole step, on all
ranks. The number is known before the first forward pass (`count`), so that each micro-batch contributes its share
exactly, however the step is split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from specs_lightning.groups import GroupBatch


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a mean: shares are added up, then divided."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class LossTerms:
    """A micro-batch's share of the step's loss, and of the means that are logged beside it."""

    loss: Tensor
    metrics: dict[str, Share] = field(default_factory=dict)


class ColdStartObjective(ABC):
    """An objective on preference groups: the chosen completion first, the rejected second if it is used at all."""

    completions_per_prompt: ClassVar[int]
    """1 where the chosen completion alone is used."""
    needs_reference: ClassVar[bool] = False

    def count(self, batch: GroupBatch) -> Tensor:
        """How many samples the loss is averaged over: the groups."""
        return batch.lengths_N.new_tensor(len(batch.prompts))

    @abstractmethod
    def __call__(self, logprobs_NT: Tensor, batch: GroupBatch, count: Tensor) -> LossTerms:
        """The share of the loss of these completions.

        Args:
            logprobs_NT: the policy's, zero outside the batch's mask.
            batch: the completions; with `reference_logprobs_N` where the objective needs a reference.
            count: `count` of the whole step.
        """


def token_share(values_NT: Tensor, mask_NT: Tensor) -> Share:
    """A mean over the masked tokens, without gradient."""
    return Share((values_NT.detach() * mask_NT).sum(), mask_NT.sum())


def sample_share(values: Tensor) -> Share:
    """A mean over samples, without gradient."""
    return Share(values.detach().sum(), values.new_tensor(len(values)))

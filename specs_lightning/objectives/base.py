"""What every objective returns, and how a mean over a whole step is taken piece by piece.

A step's loss is a sum over units (tokens, completions or pairs) divided by their number in the whole step, on all
ranks. The number is known before the first forward pass (`count`), so that each micro-batch contributes its share
exactly, however the step is split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from specs_lightning.groups import GroupBatch

JoinedBy = Literal["sum", "max"]


@dataclass(frozen=True)
class Part(ABC):
    """A micro-batch's part of something measured over the whole step. Parts are joined, then the value is read.

    Subclasses are dataclasses of scalar tensors.
    """

    joined_by: ClassVar[JoinedBy] = "sum"

    @property
    @abstractmethod
    def value(self) -> Tensor:
        """What is measured, once all parts are joined."""

    def join(self, other: Self) -> Self:
        """The part of both."""
        combine = torch.add if self.joined_by == "sum" else torch.maximum
        return type(self)(*combine(self._stacked(), other._stacked()))

    def over_ranks(self, reduce: Callable[[Tensor, JoinedBy], Tensor]) -> Self:
        """The part of all ranks, given what reduces a tensor over them."""
        return type(self)(*reduce(self._stacked(), self.joined_by))

    def _stacked(self) -> Tensor:
        return torch.stack([getattr(self, f.name).float() for f in fields(self)])


@dataclass(frozen=True)
class Share(Part):
    """Of a mean."""

    total: Tensor
    count: Tensor

    @property
    def value(self) -> Tensor:
        return self.total / self.count.clamp(min=1)


@dataclass(frozen=True)
class Maximum(Part):
    """Of a maximum of values that are not negative."""

    joined_by: ClassVar[JoinedBy] = "max"
    largest: Tensor

    @property
    def value(self) -> Tensor:
        return self.largest


@dataclass(frozen=True)
class EffectiveSampleSize(Part):
    """Of (Σw)² / (n Σw²): which share of n samples would tell as much if all had the same weight (Kish)."""

    total: Tensor
    squares: Tensor
    count: Tensor

    @property
    def value(self) -> Tensor:
        return self.total.square() / (self.count * self.squares).clamp(min=torch.finfo(self.total.dtype).tiny)


@dataclass(frozen=True)
class LossTerms:
    """A micro-batch's share of the step's loss, and its parts of what is logged beside it."""

    loss: Tensor
    metrics: dict[str, Part] = field(default_factory=dict)


class ColdStartObjective(ABC):
    """An objective on preference groups: the chosen completion first, the rejected second if it is used at all."""

    completions_per_prompt: ClassVar[int]
    """1 where the chosen completion alone is used."""
    needs_reference: ClassVar[bool] = False

    def denominator(self, batch: GroupBatch) -> Tensor:
        """How many samples the loss is averaged over: the groups."""
        return batch.lengths_N.new_tensor(len(batch.prompts))

    @abstractmethod
    def __call__(self, logprobs_NT: Tensor, batch: GroupBatch, denominator: Tensor) -> LossTerms:
        """The share of the loss of these completions.

        Args:
            logprobs_NT: the policy's, zero outside the batch's mask.
            batch: the completions; with `reference_logprobs_N` where the objective needs a reference.
            denominator: `denominator` of the whole step.
        """


def token_share(values_NT: Tensor, mask_NT: Tensor) -> Share:
    """A mean over the masked tokens, without gradient."""
    return Share((values_NT.detach() * mask_NT).sum(), mask_NT.sum())


def sample_share(values: Tensor) -> Share:
    """A mean over samples, without gradient."""
    return Share(values.detach().sum(), values.new_tensor(len(values)))

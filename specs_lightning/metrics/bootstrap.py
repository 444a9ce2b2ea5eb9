"""Percentile intervals by the bootstrap (Efron 1979): prompts are drawn again, and what was measured is computed anew.

A prompt is drawn with everything known of it, the base model's answers and those in other sets included, so that what
varies together goes on varying together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DRAWS_IN_MEMORY = 2**22
"""How many draws may exist at once (32 MiB each of indices and of weights)."""


class Interval(NamedTuple):
    """The ends of a confidence interval; both NaN where there is nothing to tell."""

    low: float
    high: float


def resampled_sums(values_PX: Tensor, strata_P: Tensor, resamples: int, seed: int) -> Tensor:
    """The sums over P prompts drawn with replacement, (resamples, X), float64.

    Each stratum (`strata_P` tells the prompts', as integers) is drawn from by itself, as many as it has.
    """
    generator = torch.Generator().manual_seed(seed)
    values_PX = values_PX.double()
    sums_RX = values_PX.new_zeros(resamples, values_PX.shape[1])
    for stratum in strata_P.unique():
        members_PX = values_PX[strata_P == stratum]
        size = len(members_PX)
        for chunk_RX in sums_RX.split(max(1, DRAWS_IN_MEMORY // size)):
            drawn_RP = torch.randint(size, (len(chunk_RX), size), generator=generator)
            times_RP = torch.zeros(drawn_RP.shape, dtype=torch.float64)
            times_RP.scatter_add_(1, drawn_RP, times_RP.new_ones(()).expand(drawn_RP.shape))
            chunk_RX += times_RP @ members_PX
    return sums_RX


def mean_intervals(values_PX: Tensor, resamples: int = 2000, seed: int = 0) -> list[Interval]:
    """The 95 % interval of the mean over P prompts of each of X measures.

    Values that are NaN have no part; a measure that a resample knows nothing of has the interval NaN.
    """
    known_PX = ~values_PX.isnan()
    summed_PX = torch.cat([values_PX.where(known_PX, 0.0), known_PX], dim=1)
    strata_P = torch.zeros(len(values_PX), dtype=torch.long)
    totals_RX, counts_RX = resampled_sums(summed_PX, strata_P, resamples, seed).chunk(2, dim=1)
    return [percentile_interval(means_R) for means_R in (totals_RX / counts_RX).T]


def mean_of_strata(values_P: Tensor, strata_P: Tensor, resamples: int = 2000, seed: int = 0) -> tuple[float, Interval]:
    """The mean over strata of the mean in each, and its 95 % interval: of a benchmark's tasks, or of a single stratum.

    Takes at least one prompt, and its stratum as an integer.
    """
    _, stratum_P, size_S = strata_P.unique(return_inverse=True, return_counts=True)
    parts_P = values_P.double() / (size_S[stratum_P] * len(size_S))
    sums_R = resampled_sums(parts_P[:, None], stratum_P, resamples, seed)[:, 0]
    return parts_P.sum().item(), percentile_interval(sums_R)


def percentile_interval(values_R: Tensor, level: float = 0.95) -> Interval:
    """What the middle `level` of the values lies between.

    NaN if any of the values is: an interval without the resamples that have no value would be too narrow.
    """
    tail = (1 - level) / 2
    return Interval(*torch.quantile(values_R, values_R.new_tensor([tail, 1 - tail])).tolist())

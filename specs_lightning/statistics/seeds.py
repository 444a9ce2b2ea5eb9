"""What a few seeds tell: a mean with its interval, and whether two ways of training differ, by paired tests.

Two sources of chance are kept apart. A training turns out a little differently with each seed: `paired_by_seed` asks
whether another few seeds would show the same. An evaluation asks a few prompts of many: `paired_by_prompt` asks whether
these very models would differ on other prompts, and says nothing of other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from specs_lightning.statistics.intervals import Estimate

ROUNDING = 1e-12
"""What is closer together is the same."""


@dataclass(frozen=True)
class Difference:
    """A mean difference over pairs, its 95 % interval and two-sided p; None where pairs cannot tell."""

    value: float
    n: int
    interval: tuple[float, float] | None
    p: float | None


def mean_over_seeds(values: Sequence[float]) -> Estimate | None:
    """The mean and its 95 % interval by Student's t; no interval from a single value, None from none."""
    if not values:
        return None
    mean, n = math.fsum(values) / len(values), len(values)
    if n < 2:
        return Estimate(mean, n, None)
    half = stats.t.ppf(0.975, n - 1) * _deviation(values, mean) / math.sqrt(n)
    return Estimate(mean, n, (float(mean - half), float(mean + half)))


def paired_by_seed(values: Sequence[float], others: Sequence[float]) -> Difference | None:
    """How much higher `values` are than `others`, pair by pair: the paired t-test.

    Args:
        values: of one way of training, a value a seed.
        others: of the other way, in the same order of seeds.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    mean = mean_over_seeds(differences)
    if mean is None:
        return None
    if mean.interval is None or mean.interval[1] - mean.interval[0] < ROUNDING:
        return Difference(mean.value, mean.n, None, None)
    p = stats.ttest_1samp(differences, 0.0).pvalue
    return Difference(mean.value, mean.n, mean.interval, float(p))


def paired_by_prompt(differences_P: Tensor, resamples: int = 9999, seed: int = 0) -> float | None:
    """Two-sided p of a mean difference over prompts, by a permutation test; None without prompts.

    If two models were alike, each prompt's difference might as well have had the other sign: p is the share of random
    signs (of these and `resamples` more) that give a sum as far from 0.

    Args:
        differences_P: of each prompt, what it adds to the difference.
        resamples: how many random signs are tried.
        seed: of the signs.
    """
    if not len(differences_P):
        return None
    differences_P = differences_P.double()
    generator = torch.Generator().manual_seed(seed)
    found = differences_P.sum().abs()
    as_far = 1
    for start in range(0, resamples, 1000):
        size = (min(1000, resamples - start), len(differences_P))
        signs_RP = torch.randint(2, size, generator=generator).double() * 2 - 1
        as_far += int(((signs_RP @ differences_P).abs() >= found - ROUNDING).sum())
    return as_far / (resamples + 1)


def _deviation(values: Sequence[float], mean: float) -> float:
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))

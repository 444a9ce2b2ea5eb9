"""What a few seeds tell: a mean with its interval, and whether two ways of training differ, by paired tests.

Two sources of chance are kept apart. A training turns out a little differently with each seed: `paired_by_seed` asks
whether another few seeds would show the same. An evaluation asks a few prompts of many: `paired_by_prompt` asks whether
these very models would differ on other prompts, and says nothing of other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from specs_lightning.statistics.intervals import Estimate

ROUNDING = 1e-12
"""An interval that is narrower is none: its values are the same."""


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
    from scipy import stats  # costs a second, and a page may have one seed

    error = stats.sem(values)
    low, high = stats.t.interval(0.95, n - 1, loc=mean, scale=error) if error else (mean, mean)
    return Estimate(mean, n, (float(low), float(high)))


def paired_by_seed(values: Sequence[float], others: Sequence[float]) -> Difference | None:
    """How much higher `values` of one way of training are than `others`, seed by seed: the paired t-test."""
    differences = [value - other for value, other in zip(values, others, strict=True)]
    mean = mean_over_seeds(differences)
    if mean is None:
        return None
    if mean.interval is None or mean.interval[1] - mean.interval[0] < ROUNDING:
        return Difference(mean.value, mean.n, None, None)
    from scipy import stats  # as above

    p = stats.ttest_1samp(differences, 0.0).pvalue
    return Difference(mean.value, mean.n, mean.interval, float(p))


def paired_by_prompt(differences: Sequence[float], resamples: int = 9999, seed: int = 0) -> float | None:
    """Two-sided p of a mean difference over prompts, by a permutation test; None without prompts.

    If two models were alike, each prompt's difference might as well have had the other sign: p is the share of signs
    that give a sum as far from 0.

    So many `resamples` are tried; all signs that there are, where these are fewer.
    """
    if not len(differences):
        return None
    import numpy as np
    from scipy import stats  # as above

    test = stats.permutation_test(
        (np.asarray(differences, dtype=float),),
        lambda signed, axis: np.abs(signed.sum(axis)),
        permutation_type="samples",  # of a single sample: the signs
        n_resamples=resamples,
        batch=1000,
        alternative="greater",
        random_state=seed,
    )
    return float(test.pvalue)

"""95 % intervals of shares: a difference of three points on 200 prompts is mostly chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A share between 0 and 1, the number of prompts it rests on, and its 95 % interval (None without prompts)."""

    value: float
    n: int
    interval: tuple[float, float] | None


def wilson(share: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's interval for a share of `n` trials, which stays within 0 and 1 and holds at shares of 0 and 1 too."""
    if n <= 0 or not 0.0 <= share <= 1.0:
        raise ValueError(f"need a share between 0 and 1 and at least one trial, got share={share}, n={n}")
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_known(values: Iterable[float]) -> float:
    """The mean of those that are not NaN; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def estimate(share: float, n: int) -> Estimate:
    return Estimate(share, n, wilson(share, n) if n > 0 and 0.0 <= share <= 1.0 else None)


def clustered(groups: Sequence[Sequence[float]]) -> Estimate | None:
    """The share of ones among values in groups that vary together: the answers to one prompt.

    Wilson's interval for as many independent trials as would vary as much (Kish's design effect): as many as there are
    groups where the values of each are alike, and as there are values where those of a group are no more alike than
    others. With one value a group it is Wilson's own. Values that are NaN have no part; n is the number of groups.
    """
    known = [values for group in groups if (values := [value for value in group if not math.isnan(value)])]
    total = sum(map(len, known))
    if not total:
        return None
    share = sum(map(sum, known)) / total
    variance = sum((sum(values) - len(values) * share) ** 2 for values in known) / total**2
    if variance > 0:
        trials = min(share * (1 - share) / variance, total)
    else:  # all groups have the same share: those of 0 or 1 say nothing of how alike their values are
        trials = len(known) if share in (0.0, 1.0) else total
    return Estimate(share, len(known), wilson(share, trials))


def mean_estimate(parts: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate | None:
    """The mean of shares, for example over the OOD sets, by weights with a sum of 1 or all alike; None without any.

    Its interval joins the parts' own, taken as independent: the distances from the mean add as squares (MOVER). With
    one part it is Wilson's.
    """
    if not parts:
        return None
    weights = weights or [1 / len(parts)] * len(parts)
    value = sum(weight * part.value for weight, part in zip(weights, parts, strict=True))
    n = sum(part.n for part in parts)
    if any(part.interval is None for part in parts):
        return Estimate(value, n, None)
    ends = [(weight, part.value, part.interval) for weight, part in zip(weights, parts, strict=True) if part.interval]
    below = math.hypot(*(weight * (share - low) for weight, share, (low, _) in ends))
    above = math.hypot(*(weight * (high - share) for weight, share, (_, high) in ends))
    return Estimate(value, n, (value - below, value + above))

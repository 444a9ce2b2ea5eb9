"""95 % intervals for the shares on the page: a difference of three points on 200 prompts is mostly chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A share between 0 and 1, the number of prompts it rests on, and its 95 % interval (None without prompts)."""

    value: float
    n: int
    interval: tuple[float, float] | None


def wilson(share: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's interval for a share of `n` trials, which stays within 0 and 1 and holds at shares of 0 and 1 too.

    Raises:
        ValueError: `n` is not positive, or `share` does not lie between 0 and 1.
    """
    if n <= 0 or not 0.0 <= share <= 1.0:
        raise ValueError(f"need a share between 0 and 1 and at least one trial, got share={share}, n={n}")
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def estimate(share: float, n: int) -> Estimate:
    return Estimate(share, n, wilson(share, n) if n > 0 and 0.0 <= share <= 1.0 else None)


def mean_estimate(parts: list[Estimate]) -> Estimate | None:
    """The unweighted mean of shares, for example over the OOD sets; None without any.

    Its interval joins the parts' own, taken as independent: the distances from the mean add as squares (MOVER). With
    one part it is Wilson's.
    """
    if not parts:
        return None
    value = sum(part.value for part in parts) / len(parts)
    n = sum(part.n for part in parts)
    if any(part.interval is None for part in parts):
        return Estimate(value, n, None)
    below = [part.value - part.interval[0] for part in parts if part.interval]
    above = [part.interval[1] - part.value for part in parts if part.interval]
    return Estimate(value, n, (value - math.hypot(*below) / len(parts), value + math.hypot(*above) / len(parts)))

"""Pass@k: how probable it is that of k answers to a prompt at least one is right (Chen et al. 2021, arXiv 2107.03374).

Of n answers to a prompt c are right; drawing k of them without replacement gives the unbiased 1 − C(n−c, k) / C(n, k).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def pass_at_k(answers_P: Tensor, correct_P: Tensor, k: int) -> Tensor:
    """1 − C(n−c, k) / C(n, k) of each prompt, (P,) float64; NaN where there are fewer than k answers.

    The ratio is the product of (n−c−j) / (n−j) over j < k, summed as logarithms: no binomial is ever computed, and a
    small probability keeps its digits.

    Of n answers (`answers_P`), c (`correct_P`) are right; k is at least 1.
    """
    remaining_Pk = answers_P.double()[:, None] - torch.arange(k, device=answers_P.device)
    right_Pk = (correct_P.double()[:, None] / remaining_Pk).clamp(max=1.0)  # beyond 1: no wrong answer is left to draw
    return (-torch.expm1(torch.log1p(-right_Pk).sum(-1))).where(answers_P >= k, torch.nan)


class PassAtK(Metric):
    """The mean pass@k over prompts, for several k (at least one, each at least 1) at once.

    A prompt with fewer than k answers is left out of that k: it says nothing of it.
    """

    full_state_update = False
    totals: Tensor
    counts: Tensor

    def __init__(self, ks: Sequence[int] = (1, 8)) -> None:
        super().__init__()
        if not ks or min(ks) < 1:
            raise ValueError(f"k must be at least 1, and there be at least one: {list(ks)}")
        self.ks = tuple(ks)
        self.add_state("totals", torch.zeros(len(self.ks), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(self.ks), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, correct_PG: Tensor) -> None:
        """Add prompts with all their answers, a row each.

        1 is a right answer, NaN one that could not be judged and is left out (also padding, where prompts differ in
        their number of answers), anything else a wrong one.
        """
        answers_P, correct_P = (~correct_PG.isnan()).sum(-1), (correct_PG == 1).sum(-1)
        for i, k in enumerate(self.ks):
            values_P = pass_at_k(answers_P, correct_P, k)
            self.totals[i] += values_P.nansum()
            self.counts[i] += (~values_P.isnan()).sum()

    def compute(self) -> dict[str, float]:
        """`pass_at_1`, …, by k; NaN where no prompt has k answers."""
        means = (self.totals / self.counts).tolist()
        return {f"pass_at_{k}": mean for k, mean in zip(self.ks, means, strict=True)}

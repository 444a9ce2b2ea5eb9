"""The Generalization Factor (paper section 4): how much of what is gained in distribution is gained out of it, too.

Γ(n) = (1 + β²)·G_ID·G_OOD / (β²·G_ID + G_OOD), with gains over the base model. The paper leaves open what holds where
a gain is not positive: nothing was generalised then, so Γ = 0 here, and both gains are logged beside it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

GainKind = Literal["difference", "relative", "raw"]


def generalization_factor(gain_id: float, gain_ood: float, beta: float = 2.0) -> float:
    """The weighted harmonic mean of both gains; 0 if either is not positive, NaN if one is unknown (NaN).

    Args:
        gain_id: in distribution.
        gain_ood: out of distribution.
        beta: above 1 it weighs the gain out of distribution more.
    """
    if math.isnan(gain_id) or math.isnan(gain_ood):
        return math.nan
    if gain_id <= 0 or gain_ood <= 0:
        return 0.0
    return (1 + beta**2) * gain_id * gain_ood / (beta**2 * gain_id + gain_ood)


def gain(score: float, baseline: float, kind: GainKind) -> float:
    """What was gained over the baseline: `difference`, `relative` to it, or the `raw` score (the paper's figure).

    Relative to a baseline of 0 there is no telling: NaN, rather than the end of a run.
    """
    if kind == "raw":
        return score
    if kind == "difference":
        return score - baseline
    return (score - baseline) / baseline if baseline else math.nan


class GeneralizationFactor(Metric):
    """Γ over one in-distribution set and several others, from the score (0 to 1) of each answer.

    Args:
        ood_weights: the sets out of distribution, with their weights α (normalised to a sum of 1).
        id_name: the set in distribution.
        beta: above 1 it weighs the gain out of distribution more.
        kind: what a gain is.

    Raises:
        ValueError: no sets, or weights that are not positive.
    """

    full_state_update = False
    totals: Tensor
    counts: Tensor

    def __init__(
        self, ood_weights: dict[str, float], id_name: str = "id", beta: float = 2.0, kind: GainKind = "difference"
    ) -> None:
        super().__init__()
        if not ood_weights or min(ood_weights.values()) <= 0 or beta <= 0:
            raise ValueError(f"weights and beta must be positive, and there be at least one: {ood_weights}, {beta}")
        self.names = [id_name, *ood_weights]
        total = sum(ood_weights.values())
        self.weights = [weight / total for weight in ood_weights.values()]
        self.beta, self.kind = beta, kind
        self.baseline: dict[str, float] | None = None
        self.add_state("totals", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, name: str, scores: Tensor) -> None:
        """Add the scores of answers to prompts of one set; NaN (not judged) is left out."""
        index = self.names.index(name)
        known = scores[~scores.isnan()].double()
        self.totals[index] += known.sum()
        self.counts[index] += len(known)

    def scores(self) -> dict[str, float]:
        """The mean score of each set; NaN where nothing was judged."""
        return dict(zip(self.names, (self.totals / self.counts).tolist(), strict=True))

    def compute(self) -> dict[str, float]:
        """`gain_id`, `gain_ood`, `generalization_factor`, over the baseline (itself 0 until one is set)."""
        scores = self.scores()
        baseline = self.baseline or dict.fromkeys(self.names, 0.0)
        id_name, *ood_names = self.names

        def weighted(values: dict[str, float]) -> float:
            return sum(w * values[name] for w, name in zip(self.weights, ood_names, strict=True))

        gain_id = gain(scores[id_name], baseline[id_name], self.kind)
        gain_ood = gain(weighted(scores), weighted(baseline), self.kind)
        return {
            "gain_id": gain_id,
            "gain_ood": gain_ood,
            "generalization_factor": generalization_factor(gain_id, gain_ood, self.beta),
        }

"""The Generalization Factor (paper section 4): how much of what is gained in distribution is gained out of it, too.

Γ(n) = (1 + β²)·G_ID·G_OOD / (β²·G_ID + G_OOD), with gains over the base model. The paper leaves open what holds where
a gain is not positive: nothing was generalised then, so Γ = 0 here, and both gains are logged beside it. Nor has it
intervals; here they come from a bootstrap over prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from specs_lightning.metrics.bootstrap import Interval, percentile_interval, resampled_sums
from specs_lightning.statistics.set_kinds import by_kind

GainKind = Literal["difference", "relative", "raw"]


def generalization_factor(gain_id: float, gain_ood: float, beta: float = 2.0) -> float:
    """The harmonic mean of both gains, 0 if either is not positive, NaN if one is unknown (NaN).

    A `beta` above 1 weighs the gain out of distribution more.
    """
    return _factor(_float64(gain_id), _float64(gain_ood), beta).item()


def gain(score: float, baseline: float, kind: GainKind) -> float:
    """What was gained over the baseline: `difference`, `relative` to it, or the `raw` score (the paper's figure).

    Relative to a baseline of 0 there is no telling: NaN, rather than the end of a run.
    """
    return _gain(_float64(score), _float64(baseline), kind).item()


class GeneralizationFactor(Metric):
    """Γ over one in-distribution set and several others, from the score (0 to 1) of each answer.

    The mean of a set is over its answers. Gains are over `baseline`, the mean scores of the base model, 0 until they
    are set; `keep_as_baseline` sets them from answers, which also lets the intervals pair by prompt. Whoever sets
    `baseline` after that sets `baseline_answers` to None.

    Each kind of sets (`set_kinds`) has its gain and Γ too, of the weighted mean of its sets: `gain_ood/KIND` and
    `generalization_factor/KIND`.

    Args:
        ood_weights: the sets out of distribution, with their weights α (normalised to a sum of 1).
        id_name: the set in distribution.
        beta: above 1 it weighs the gain out of distribution more.
        kind: what a gain is.
    """

    full_state_update = False
    answers: list[Tensor]
    """Set, prompt and score of each answer, one after the other and flat: torchmetrics gathers a rank that has nothing
    as an empty tensor of one axis and the metric's dtype."""

    def __init__(
        self, ood_weights: dict[str, float], id_name: str = "id", beta: float = 2.0, kind: GainKind = "difference"
    ) -> None:
        super().__init__(compute_with_cache=False)  # the baseline may change between two calls
        if not ood_weights or min(ood_weights.values()) <= 0 or beta <= 0:
            raise ValueError(f"weights and beta must be positive, and there be at least one: {ood_weights}, {beta}")
        self.names = [id_name, *ood_weights]
        self.kinds = {kind: names for kind, names in by_kind(ood_weights).items() if kind}
        self.ood_weights = dict(ood_weights)
        self.beta, self.kind = beta, kind
        self.baseline: dict[str, float] | None = None
        self.baseline_answers: Tensor | None = None
        self.add_state("answers", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    def update(self, name: str, scores: Tensor, prompt_ids: Sequence[str] | None = None) -> None:
        """Add the scores of answers to prompts of one set, in any shape; NaN (not judged) has no part in any mean.

        The prompt ids are for the intervals: what has the same id is drawn together, be it several answers, the base
        model's, or those in another set. Without ids each score counts as a prompt of its own.
        """
        score_A = scores.detach().flatten().to(self.device, torch.float64)
        set_A = torch.full_like(score_A, self.names.index(name))
        prompt_A = torch.full_like(score_A, -1.0)
        if prompt_ids is not None:
            if len(prompt_ids) != len(score_A):
                raise ValueError(f"{len(score_A)} scores, but {len(prompt_ids)} prompt ids")
            prompt_A = score_A.new_tensor([_prompt_number(prompt_id) for prompt_id in prompt_ids])
        self.answers.append(torch.stack([set_A, prompt_A, score_A], dim=1).flatten())

    def scores(self) -> dict[str, float]:
        """The mean score of each set, over all ranks (each must ask); NaN where nothing was judged."""
        return self._by_name(self._answers_of_all_ranks())

    def keep_as_baseline(self) -> None:
        """Take what all ranks have added so far for the base model's answers (each rank must do so)."""
        self.baseline_answers = self._answers_of_all_ranks()
        self.baseline = self._by_name(self.baseline_answers)

    def compute(self) -> dict[str, float]:
        """`gain_id`, `gain_ood`, `generalization_factor`, the latter two of each kind, too.

        Gains are over the baseline (itself 0 until one is set).
        """
        found = self._gains_and_factor(self._mean_scores(self._answers()), self._baseline_scores())
        return {name: value.item() for name, value in found.items()}

    def intervals(self, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> dict[str, Interval]:
        """Bootstrap intervals of what `compute` gives, over all ranks (each must ask).

        Prompts are drawn among those that were asked in the same sets. The base model's answers are drawn with the
        policy's to the same prompts where they are known one by one; as mean scores they count as certain.
        """
        answers_A3, n = self._answers_of_all_ranks(), len(self.names)
        if self.baseline_answers is not None:
            paired_A3 = self.baseline_answers + self.baseline_answers.new_tensor([n, 0, 0])  # in columns of their own
            answers_A3 = torch.cat([answers_A3, paired_A3])
        totals_PX, counts_PX, strata_P = _by_prompt(answers_A3, 2 * n)
        sums_RX = resampled_sums(torch.cat([totals_PX, counts_PX], dim=1), strata_P, resamples, seed)
        totals_RX, counts_RX = sums_RX.chunk(2, dim=1)
        scores_RS, baseline_RS = (totals_RX / counts_RX).chunk(2, dim=1)
        if self.baseline_answers is None:
            baseline_RS = self._baseline_scores().expand_as(scores_RS)
        found = self._gains_and_factor(scores_RS, baseline_RS)
        return {name: percentile_interval(values_R, level) for name, values_R in found.items()}

    def _answers(self) -> Tensor:
        """(A, 3): set, prompt and score of each answer; of all ranks, in a synchronised state."""
        state = self.answers if isinstance(self.answers, list) else [self.answers]
        return torch.cat([torch.empty(0, dtype=torch.float64), *(part.cpu() for part in state)]).view(-1, 3)

    def _answers_of_all_ranks(self) -> Tensor:
        with self.sync_context():
            return self._answers()

    def _mean_scores(self, answers_A3: Tensor) -> Tensor:
        set_A, _, score_A = answers_A3[~answers_A3[:, 2].isnan()].T
        zeros_S = score_A.new_zeros(len(self.names))
        totals_S = zeros_S.index_add(0, set_A.long(), score_A)
        means_S: Tensor = totals_S / zeros_S.index_add(0, set_A.long(), torch.ones_like(score_A))
        return means_S

    def _by_name(self, answers_A3: Tensor) -> dict[str, float]:
        return dict(zip(self.names, self._mean_scores(answers_A3).tolist(), strict=True))

    def _baseline_scores(self) -> Tensor:
        baseline = self.baseline or dict.fromkeys(self.names, 0.0)
        return torch.tensor([baseline[name] for name in self.names], dtype=torch.float64)

    def _gains_and_factor(self, scores_S: Tensor, baseline_S: Tensor) -> dict[str, Tensor]:
        """From scores of the S sets on the last axis."""
        gain_id = _gain(scores_S[..., 0], baseline_S[..., 0], self.kind)
        found = {"gain_id": gain_id}
        for end, names in {"": self.names[1:], **{f"/{kind}": names for kind, names in self.kinds.items()}}.items():
            columns = [self.names.index(name) for name in names]
            alpha = scores_S.new_tensor([self.ood_weights[name] for name in names])
            alpha /= alpha.sum()
            gain_ood = _gain(scores_S[..., columns] @ alpha, baseline_S[..., columns] @ alpha, self.kind)
            found |= {f"gain_ood{end}": gain_ood, f"generalization_factor{end}": _factor(gain_id, gain_ood, self.beta)}
        return found


def _factor(gain_id: Tensor, gain_ood: Tensor, beta: float) -> Tensor:
    factor = (1 + beta**2) * gain_id * gain_ood / (beta**2 * gain_id + gain_ood)
    factor = factor.where((gain_id > 0) & (gain_ood > 0), 0.0)
    return factor.where(~(gain_id.isnan() | gain_ood.isnan()), torch.nan)


def _gain(score: Tensor, baseline: Tensor, kind: GainKind) -> Tensor:
    if kind == "raw":
        return score
    if kind == "difference":
        return score - baseline
    return ((score - baseline) / baseline).where(baseline != 0, torch.nan)


def _by_prompt(answers_A3: Tensor, n_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """The total and the number of each prompt's scores, (P, X) by column, and its stratum: the columns it was asked in.

    In an order that does not depend on that of the answers, so that the same draws meet the same prompts on any number
    of ranks.
    """
    column_A, prompt_A, score_A = answers_A3.T.clone()
    own = (prompt_A < 0).nonzero()[:, 0]
    own = own[score_A[own].argsort(stable=True)]
    own = own[column_A[own].argsort(stable=True)]
    prompt_A[own] = -1.0 - torch.arange(len(own), dtype=torch.float64)
    ids_P, index_A = prompt_A.unique(return_inverse=True)
    where = (index_A, column_A.long())
    zeros_PX = prompt_A.new_zeros(len(ids_P), n_columns)
    totals_PX = zeros_PX.index_put(where, score_A.nan_to_num(), accumulate=True)
    counts_PX = zeros_PX.index_put(where, (~score_A.isnan()).double(), accumulate=True)
    asked_PX = zeros_PX.index_put(where, torch.ones_like(score_A))
    return totals_PX, counts_PX, asked_PX.unique(dim=0, return_inverse=True)[1]


def _prompt_number(prompt_id: str) -> int:
    """48 bits of a hash: few enough for float64 to hold, the same on every rank and machine."""
    return int.from_bytes(hashlib.blake2b(prompt_id.encode(), digest_size=6).digest(), "little")


def _float64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)

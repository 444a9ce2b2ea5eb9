"""The stuck rate: to how many prompts a policy gives one and the same wrong answer, however often it is asked.

Such a prompt teaches no answer in GRPO: all its accuracy rewards are 0. More samples do not help, unlike with one whose
wrong answers differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torchmetrics import MeanMetric


def is_stuck(answers: Sequence[str | None], correct: Sequence[float]) -> float:
    """1 if the answers to a prompt are all the same and wrong, else 0; NaN where that is unknown.

    It is unknown of a single answer, and of equal ones none of which could be judged. Where no answer was found
    (`None`), there is nothing to be the same: with one of those a prompt is not stuck, so that broken formats and
    completions cut short do not pass for a settled opinion. The format rate shows them.

    Answers are compared as they are, so normalised before, for example by `scoring.text.plain`; of each, `correct` is 0
    if it is wrong, NaN if it could not be judged.
    """
    if len(answers) != len(correct):
        raise ValueError(f"{len(answers)} answers, but {len(correct)} judgements")
    if len(answers) < 2:
        return math.nan
    if None in answers or len(set(answers)) > 1:
        return 0.0
    judged = [value for value in correct if not math.isnan(value)]
    return float(not any(judged)) if judged else math.nan


class StuckRate(MeanMetric):
    """The share of prompts that are stuck, among those where it is known."""

    def __init__(self) -> None:
        super().__init__(nan_strategy="ignore")
        self.set_dtype(torch.float64)

    def update(  # type: ignore[override]
        self, answers: Sequence[Sequence[str | None]], correct: Sequence[Sequence[float]]
    ) -> None:
        """Add prompts, each with all its answers, as `is_stuck` takes them."""
        stuck_P = [is_stuck(*prompt) for prompt in zip(answers, correct, strict=True)]
        super().update(torch.tensor(stuck_P, dtype=torch.float64, device=self.device))

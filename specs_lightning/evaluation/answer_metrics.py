"""Metrics of judged answers, each exact over any number of ranks: what callbacks log and results list."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, get_args

import torch
from torchmetrics import MeanMetric, Metric

from specs_lightning.metrics import PassAtK, StuckRate
from specs_lightning.records.answers import MEASURES, Answer, by_prompt

Exploration = Literal["pass_at_k", "stuck_rate", "entropy", "rollout_branching_factor"]
"""What tells how much a policy still explores; the last two take a forward pass of the policy."""
EXPLORATION: tuple[Exploration, ...] = get_args(Exploration)
OF_THE_CHOICE: tuple[Exploration, ...] = ("entropy", "rollout_branching_factor")


def mean_of(values: Iterable[float]) -> MeanMetric:
    """The mean over all ranks' values, those that are NaN left out."""
    mean = MeanMetric(nan_strategy="ignore")
    mean.set_dtype(torch.float64)
    mean.update(torch.tensor(list(values), dtype=torch.float64))
    return mean


def rate_metrics(answers: Sequence[Answer]) -> dict[str, Metric]:
    """What every evaluation tells of a set: three rates, and the mean length of an answer."""
    return {name: mean_of(getattr(answer, name) for answer in answers) for name in (*MEASURES, "tokens")}


def exploration_metrics(
    answers: Sequence[Answer], wanted: Collection[Exploration], completions_per_prompt: int
) -> dict[str, Metric]:
    """The metrics that are wanted; pass@k (of correct answers) for each power of two up to the number of answers."""
    groups = list(by_prompt(answers).values())
    correct = [[answer.correct for answer in group] for group in groups]
    metrics: dict[str, Metric] = {}
    if "pass_at_k" in wanted:
        metrics["pass_at_k"] = PassAtK(powers_of_two(completions_per_prompt))
        metrics["pass_at_k"].update(_padded(correct))
    if "stuck_rate" in wanted:
        metrics["stuck_rate"] = StuckRate()
        metrics["stuck_rate"].update([[answer.answer for answer in group] for group in groups], correct)
    if "entropy" in wanted:
        metrics["entropy"] = mean_of(answer.entropy for answer in answers)
    if "rollout_branching_factor" in wanted:
        metrics["rollout_branching_factor"] = mean_of(answer.branching_factor for answer in answers)
    return metrics


def powers_of_two(largest: int) -> tuple[int, ...]:
    return tuple(2**i for i in range(largest.bit_length()))


def _padded(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    longest = max(map(len, rows), default=0)
    padded = [[*row, *[math.nan] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.float64).view(len(rows), longest)

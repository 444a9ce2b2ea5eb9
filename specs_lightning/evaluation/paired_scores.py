"""How two models differ on the same prompts: each prompt is compared with itself, so its difficulty cancels out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from specs_lightning.metrics.bootstrap import Interval, mean_of_strata
from specs_lightning.records.answers import MEASURES, Answer, by_prompt
from specs_lightning.statistics.intervals import mean_known


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference over the `n` prompts that both models have a score on, with its 95 % interval."""

    value: float
    n: int
    interval: Interval


def paired_differences(answers: Sequence[Answer], others: Sequence[Answer]) -> dict[str, PairedDifference]:
    """How much higher each measure is in one model's answers to a set than in another's.

    Of a benchmark with tasks also the `macro_mean` of what is correct, over tasks. Intervals by the bootstrap, over
    prompts (within tasks for the macro mean). A measure without a prompt that both have a score on is left out.
    """
    mine, theirs = by_prompt(answers), by_prompt(others)
    shared = [prompt for prompt in mine if prompt in theirs]
    found = {}
    for measure in MEASURES:
        apart = {prompt: _mean(mine[prompt], measure) - _mean(theirs[prompt], measure) for prompt in shared}
        known = {prompt: value for prompt, value in apart.items() if not math.isnan(value)}
        found[measure] = _estimate(known, dict.fromkeys(known, ""))
        if measure == "correct" and any(mine[prompt][0].task is not None for prompt in known):
            found["macro_mean"] = _estimate(known, {prompt: str(mine[prompt][0].task) for prompt in known})
    return {name: difference for name, difference in found.items() if difference is not None}


def _mean(answers: Sequence[Answer], measure: str) -> float:
    return mean_known(getattr(answer, measure) for answer in answers)


def _estimate(apart: Mapping[str, float], tasks: Mapping[str, str]) -> PairedDifference | None:
    if not apart:
        return None
    numbers = {task: number for number, task in enumerate(dict.fromkeys(tasks.values()))}
    values_P = torch.tensor(list(apart.values()))
    strata_P = torch.tensor([numbers[tasks[prompt]] for prompt in apart])
    value, interval = mean_of_strata(values_P, strata_P)
    return PairedDifference(value, len(apart), interval)

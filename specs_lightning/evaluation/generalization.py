"""How far what a model gained in distribution was gained out of it, too, from answers to evaluation sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from specs_lightning.metrics import GainKind, GeneralizationFactor
from specs_lightning.metrics.bootstrap import Interval
from specs_lightning.records.answers import Answer

IN_DISTRIBUTION = "id"
"""The set of this name has prompts like those that are trained on; all others ask otherwise."""


@dataclass(frozen=True)
class Generalization:
    """The Generalization Factor and both gains, of what counts as a success, with their 95 % intervals by name."""

    measure: str
    beta: float
    gain: GainKind
    gain_id: float
    gain_ood: float
    generalization_factor: float
    intervals: dict[str, Interval]

    def __str__(self) -> str:
        def told(name: str, scale: float, form: str) -> str:
            numbers = (scale * number for number in (getattr(self, name), *self.intervals[name]))
            value, low, high = (f"{number:{form}}" for number in numbers)
            return f"{value} ({low} to {high})"

        of = {"raw": "scores, for want of a base (--base MODEL)", "difference": "gains over the base"}
        of_what = of.get(self.gain, f"{self.gain} gains over the base")
        form = ".1f" if self.gain == "raw" else "+.1f"
        return (
            f"Generalization Factor {told('generalization_factor', 1, '.3f')}, of {of_what}: {self.measure}, "
            f"ID {told('gain_id', 100, form)}, OOD {told('gain_ood', 100, form)}, in points"
        )


def generalization(
    answers: Mapping[str, Sequence[Answer]],
    of_base: Mapping[str, Sequence[Answer]] | None,
    measure: str = "solved",
    beta: float = 2.0,
    gain: GainKind = "difference",
) -> Generalization | None:
    """Γ of a model's answers by set; None without a set in distribution, or without any other.

    Of scores themselves (`raw`) where no answers of a base are given. Sets out of distribution weigh alike.
    """
    others = [name for name in answers if name != IN_DISTRIBUTION]
    if IN_DISTRIBUTION not in answers or not others:
        return None
    gain = gain if of_base is not None else "raw"
    metric = GeneralizationFactor(dict.fromkeys(others, 1.0), IN_DISTRIBUTION, beta, gain)
    if of_base is not None:
        _add(metric, of_base, measure)
        metric.keep_as_baseline()
        metric.reset()
    _add(metric, answers, measure)
    return Generalization(measure, beta, gain, **metric.compute(), intervals=metric.intervals())


def _add(metric: GeneralizationFactor, answers: Mapping[str, Sequence[Answer]], measure: str) -> None:
    for name, of_set in answers.items():
        scores = torch.tensor([getattr(answer, measure) for answer in of_set], dtype=torch.float64)
        metric.update(name, scores, [answer.prompt_id for answer in of_set])

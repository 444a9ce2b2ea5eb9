"""How far what a model gained in distribution was gained out of it, too, from answers to evaluation sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from specs_lightning.metrics import GainKind, GeneralizationFactor
from specs_lightning.metrics.bootstrap import Interval
from specs_lightning.records.answers import Answer
from specs_lightning.records.results import KindGain
from specs_lightning.statistics.set_kinds import kind_weights

IN_DISTRIBUTION = "id"
"""The set of this name has prompts like those that are trained on; all others ask otherwise."""


@dataclass(frozen=True)
class Generalization:
    """The Generalization Factor and both gains, of what counts as a success, with their 95 % intervals by name.

    `kinds` has those of each kind of sets, if there are kinds.
    """

    measure: str
    beta: float
    gain: GainKind
    gain_id: float
    gain_ood: float
    generalization_factor: float
    intervals: dict[str, Interval]
    kinds: dict[str, KindGain]

    def __str__(self) -> str:
        def told(one: Generalization | KindGain, name: str, scale: float, form: str) -> str:
            numbers = (scale * number for number in (getattr(one, name), *(one.intervals[name] or ())))
            value, low, high = (f"{number:{form}}" for number in numbers)
            return f"{value} ({low} to {high})"

        of = {"raw": "scores, for want of a base (--base MODEL)", "difference": "gains over the base"}
        of_what = of.get(self.gain, f"{self.gain} gains over the base")
        form = ".1f" if self.gain == "raw" else "+.1f"
        by_kind = (
            f"\n  {kind}: {told(one, 'generalization_factor', 1, '.3f')}, OOD {told(one, 'gain_ood', 100, form)}"
            for kind, one in self.kinds.items()
        )
        return (
            f"Generalization Factor {told(self, 'generalization_factor', 1, '.3f')}, of {of_what}: {self.measure}, "
            f"ID {told(self, 'gain_id', 100, form)}, OOD {told(self, 'gain_ood', 100, form)}, in points"
            f"{''.join(by_kind)}"
        )


def generalization(
    answers: Mapping[str, Sequence[Answer]],
    of_base: Mapping[str, Sequence[Answer]] | None,
    measure: str = "solved",
    beta: float = 2.0,
    gain: GainKind = "difference",
) -> Generalization | None:
    """Γ of a model's answers by set; None without a set in distribution, or without any other.

    Of scores themselves (`raw`) where no answers of a base are given. Kinds of sets weigh alike, and sets within each.
    """
    others = [name for name in answers if name != IN_DISTRIBUTION]
    if IN_DISTRIBUTION not in answers or not others:
        return None
    gain = gain if of_base is not None else "raw"
    metric = GeneralizationFactor(kind_weights(others), IN_DISTRIBUTION, beta, gain)
    if of_base is not None:
        _add(metric, of_base, measure)
        metric.keep_as_baseline()
        metric.reset()
    _add(metric, answers, measure)
    values, intervals = metric.compute(), metric.intervals()

    def of_kind(kind: str) -> KindGain:
        own = {name: f"{name}/{kind}" for name in ("gain_ood", "generalization_factor")}
        found = {name: values.pop(key) for name, key in own.items()}
        return KindGain(**found, intervals={name: intervals.pop(key) for name, key in own.items()})

    kinds = {kind: of_kind(kind) for kind in metric.kinds}
    return Generalization(measure, beta, gain, **values, intervals=intervals, kinds=kinds)


def _add(metric: GeneralizationFactor, answers: Mapping[str, Sequence[Answer]], measure: str) -> None:
    for name, of_set in answers.items():
        scores = torch.tensor([getattr(answer, measure) for answer in of_set], dtype=torch.float64)
        metric.update(name, scores, [answer.prompt_id for answer in of_set])

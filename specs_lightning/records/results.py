"""`results.json`: how each model of a run did on each evaluation set, and what it gained over the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from specs_lightning.records.record import RUN_AGAIN, RecordFile, finite
from specs_lightning.records.run import read_run

Number = Annotated[float | None, AfterValidator(finite)]
"""None where there is nothing to tell."""
Intervals = dict[str, tuple[Number, Number] | None]
"""The 95 % intervals of figures, by their names."""


class _WithIntervals:
    intervals: Intervals

    def interval(self, figure: str) -> tuple[float, float] | None:
        """None where it, or one of its ends, is not known."""
        low, high = self.intervals.get(figure) or (None, None)
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True)
class SetScores(_WithIntervals):
    """How one model did on the `n` prompts of a set: the fields are those of `evaluation.scores.Scores`."""

    n: int
    answers: int | None = None
    format_kept: Number = None
    correct: Number = None
    solved: Number = None
    intervals: Intervals = field(default_factory=dict)
    tasks: dict[str, Number] | None = None
    macro_mean: Number = None
    cut_off: int | None = None
    unscored: dict[str, int] | None = None
    tokens: Number = None
    pass_at_k: dict[str, Number] | None = None
    stuck_rate: Number = None
    entropy: Number = None
    rollout_branching_factor: Number = None


@dataclass(frozen=True)
class KindGain(_WithIntervals):
    """What a model gained on the sets of one kind, and the Generalization Factor of it and the gain in distribution."""

    gain_ood: Number = None
    generalization_factor: Number = None
    intervals: Intervals = field(default_factory=dict)


@dataclass(frozen=True)
class ModelScores(_WithIntervals):
    """A model's scores by set, and its gains over the first model; its name is that of its stage."""

    name: str
    stage: str = ""
    sets: dict[str, SetScores] = field(default_factory=dict)
    gain_id: Number = None
    gain_ood: Number = None
    generalization_factor: Number = None
    intervals: Intervals = field(default_factory=dict)
    kinds: dict[str, KindGain] = field(default_factory=dict)
    """The gains by kind of sets (`statistics.set_kinds`); empty without kinds, and in files of earlier versions."""


@dataclass(frozen=True)
class EvaluationSet:
    """A set of prompts, and whether these are like the training's."""

    name: str
    in_distribution: bool


@dataclass(frozen=True, kw_only=True)
class Results:
    """The evaluation of every model of a run, and how the Generalization Factor was computed."""

    measure: str = "solved"
    beta: float = 2.0
    gain: str = "difference"
    sets: tuple[EvaluationSet, ...]
    models: tuple[ModelScores, ...]

    @property
    def set_names(self) -> tuple[str, ...]:
        return self.id_sets + self.ood_sets

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of sets that gains are told of."""
        return tuple(dict.fromkeys(kind for model in self.models for kind in model.kinds))

    @property
    def id_sets(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.sets if one.in_distribution)

    @property
    def ood_sets(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.sets if not one.in_distribution)


RESULTS = RecordFile("results.json", Results, RUN_AGAIN)


def read_results(folder: Path) -> Results | None:
    """The results of a run's finished stages, None before a model is among them; `NoRunError` where it is no run's."""
    read_run(folder)
    results = RESULTS.read(folder)
    return results if results and results.models else None

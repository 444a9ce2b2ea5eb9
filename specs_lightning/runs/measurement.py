"""How every model of a run is measured, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from specs_lightning.data.sources import PromptSource
from specs_lightning.errors import check_positive
from specs_lightning.evaluation.generalization import generalization
from specs_lightning.evaluation.scores import score_sets
from specs_lightning.judge import JudgeSettings
from specs_lightning.metrics import GainKind
from specs_lightning.records.answers import Answer, grouped
from specs_lightning.records.results import EvaluationSet, ModelScores, Results, SetScores
from specs_lightning.rollout import SamplingSettings


@dataclass(frozen=True)
class EvaluationSettings:
    """How every model of a run is measured."""

    in_distribution: PromptSource
    """Held-out prompts like those that are trained on."""
    out_of_distribution: dict[str, PromptSource]
    """Sets that ask otherwise, by name; one of a kind as `KIND/NAME`, such as `formats/boxed`."""
    sampling: SamplingSettings = SamplingSettings(completions_per_prompt=1)  # noqa: RUF009  frozen
    """How answers are drawn."""
    measure: Literal["solved", "correct", "format_kept"] = "solved"
    """What the generalization factor is computed of: `solved` is right and in the asked format."""
    beta: float = 2.0
    """Above 1, the generalization factor weighs the gain out of distribution more."""
    gain: GainKind = "difference"
    """What a gain over the base is: the difference, relative to it, or the raw score."""
    judge: JudgeSettings | None = None
    """A language model for answers that rules cannot compare; without one, other words than the gold's are wrong."""

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        if "id" in self.out_of_distribution:
            raise ValueError("`id` is the name of the set in distribution: give the other set another name")

    @property
    def sets(self) -> dict[str, PromptSource]:
        return {"id": self.in_distribution, **self.out_of_distribution}

    @property
    def data(self) -> dict[str, Any]:
        """The settings of the `EvaluationDataModule` that says the same."""
        return {
            "evaluation": {name: asdict(source) for name, source in self.sets.items()},
            "evaluation_sampling": self.sampling.decisive,
            "judge": None if self.judge is None else asdict(self.judge),
        }

    @property
    def decisive(self) -> dict[str, Any]:
        """What answers and verdicts depend on."""
        found = {"sets": self.data["evaluation"], "sampling": self.data["evaluation_sampling"]}
        return found if self.judge is None else {**found, "judge": self.judge.decisive}


def results_of(answers: Mapping[str, Sequence[Answer] | None], evaluation: EvaluationSettings) -> Results:
    """The scores of each model that has answers on each set, and its gains over the first, with 95 % intervals."""
    models: list[ModelScores] = []
    base: dict[str, list[Answer]] | None = None
    for name, of_model in answers.items():
        if of_model is None:
            continue
        by_set = grouped(of_model, lambda answer: answer.set)
        of_sets = {of_set: by_set.get(of_set, []) for of_set in evaluation.sets}
        base, is_base = of_sets if base is None else base, base is None
        sets = {of_set: SetScores(**scores) for of_set, scores in score_sets(of_model).items()}
        model = ModelScores(name, name, sets)
        found = generalization(of_sets, base, evaluation.measure, evaluation.beta, evaluation.gain)
        if found is not None:
            model = replace(model, gain_id=found.gain_id, gain_ood=found.gain_ood)
        if found is not None and not is_base:  # which gained nothing that could generalise
            factor = found.generalization_factor
            model = replace(model, generalization_factor=factor, intervals={**found.intervals}, kinds=found.kinds)
        models.append(model)
    asked = tuple(EvaluationSet(name, name == "id") for name in evaluation.sets)
    return Results(
        measure=evaluation.measure, beta=evaluation.beta, gain=evaluation.gain, sets=asked, models=tuple(models)
    )

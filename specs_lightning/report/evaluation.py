"""The page of `specs test`: one model on its evaluation sets, and the base beside it where it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs_lightning.evaluation.generalization import Generalization
from specs_lightning.evaluation.paired_scores import PairedDifference
from specs_lightning.evaluation.scores import Scores, score
from specs_lightning.groups import Prompt
from specs_lightning.prompts.images import preview
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.answers import Answer, by_prompt
from specs_lightning.records.results import ModelScores
from specs_lightning.report.loading import spread
from specs_lightning.report.page import write_page
from specs_lightning.report.sentences import gains_sentence
from specs_lightning.statistics.intervals import Estimate, clustered

FIGURES = {
    "correct": "Correct",
    "macro_mean": "Correct, mean over tasks",
    "solved": "Solved",
    "format_kept": "Format kept",
}
SAMPLES_OF_A_KIND = 6


@dataclass(frozen=True)
class EvaluatedModel:
    """A model's folder or name, and its judged answers by set."""

    name: str
    answers: Mapping[str, Sequence[Answer]]


@dataclass(frozen=True)
class Figure:
    """One figure of a set: of each model, and how the first differs from the base."""

    title: str
    cells: tuple[Estimate | None, ...]
    difference: PairedDifference | None


@dataclass(frozen=True)
class Task:
    """The share of right answers in a part of a benchmark."""

    name: str
    n: int
    cells: tuple[Estimate | None, ...]

    @property
    def difference(self) -> float | None:
        first, *base = self.cells
        return first.value - base[0].value if first and base and base[0] else None


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt with the first answer of each model."""

    prompt: str
    images: tuple[str, ...]
    answer: str
    answer_format: str
    answers: tuple[tuple[str, Answer], ...]


@dataclass(frozen=True)
class EvaluatedSet:
    name: str
    scores: tuple[Scores, ...]
    figures: tuple[Figure, ...]
    tasks: tuple[Task, ...]
    samples: dict[str, tuple[AnsweredPrompt, ...]]
    """By what their answers have in common."""


def write_evaluation(
    file: Path,
    models: Sequence[EvaluatedModel],
    differences: Mapping[str, Mapping[str, PairedDifference]],
    prompts: Mapping[str, Sequence[Prompt]],
    settings: Mapping[str, Any],
    set_aside: SetAside,
    found: Generalization | None = None,
) -> None:
    """Write the page of a model, and of the base if there is one.

    `differences` are what the model has over the base, by set and measure; `prompts` all that was asked, by set;
    `settings` what the answers depend on; `found` the Generalization Factor, where the sets have one.
    """
    names = ["model", "base"][: len(models)]
    sets = []
    for name, asked in prompts.items():
        answers = [model.answers[name] for model in models]
        scores, apart = tuple(map(score, answers)), differences.get(name, {})
        figures = tuple(
            Figure(title, tuple(_estimate(of_model, measure) for of_model in scores), apart.get(measure))
            for measure, title in FIGURES.items()
            if measure in scores[0]
        )
        sets.append(EvaluatedSet(name, scores, figures, _tasks(answers), _samples(asked, answers, names)))
    write_page(
        file,
        "evaluation",
        title=" beside ".join(model.name for model in models),
        lead=_gains(found) if found else "",
        found=found,
        models=models,
        names=names,
        sets=sets,
        settings=settings,
        set_aside=set_aside,
    )


def _gains(found: Generalization) -> str:
    model = ModelScores(
        "The model",
        gain_id=found.gain_id,
        gain_ood=found.gain_ood,
        generalization_factor=found.generalization_factor,
        intervals={**found.intervals},
        kinds=found.kinds,
    )
    return gains_sentence(model, found.gain)


def _estimate(scores: Scores, measure: str) -> Estimate | None:
    if measure not in scores:
        return None
    return Estimate(scores[measure], scores["n"], scores["intervals"].get(measure))


def _tasks(answers: Sequence[Sequence[Answer]]) -> tuple[Task, ...]:
    names = sorted({answer.task for answer in answers[0] if answer.task is not None})
    tasks = []
    for name in names:
        groups = [by_prompt(a for a in of_model if a.task == name).values() for of_model in answers]
        cells = tuple(clustered([[answer.correct for answer in group] for group in of_model]) for of_model in groups)
        tasks.append(Task(name, len(groups[0]), cells))
    return tuple(tasks)


def _samples(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]], names: Sequence[str]
) -> dict[str, tuple[AnsweredPrompt, ...]]:
    """Prompts to look at, by how the models did: those on which they differ first."""
    by_id = {prompt.id: prompt for prompt in prompts}
    firsts = [{prompt: group[0] for prompt, group in by_prompt(of_model).items()} for of_model in answers]
    kinds: dict[str, list[str]] = {}
    for prompt in firsts[0]:
        if all(prompt in of_model for of_model in firsts):
            verdicts = [_verdict(of_model[prompt]) for of_model in firsts]
            kinds.setdefault("; ".join(map(" ".join, zip(names, verdicts, strict=True))), []).append(prompt)

    def sample(prompt: Prompt) -> AnsweredPrompt:
        images = tuple(preview(image) for image in prompt.images)
        said = tuple((name, of_model[prompt.id]) for name, of_model in zip(names, firsts, strict=True))
        return AnsweredPrompt(prompt.text, images, prompt.answer or "", prompt.answer_format, said)

    return {
        f"{kind}: {len(kinds[kind])}": tuple(sample(by_id[one]) for one in spread(kinds[kind], SAMPLES_OF_A_KIND))
        for kind in sorted(kinds)
    }


def _verdict(answer: Answer) -> str:
    if answer.correct != answer.correct:
        return "unscored"
    return "right" if answer.correct == 1 else "wrong" if answer.correct == 0 else "right in part"

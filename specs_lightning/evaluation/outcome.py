"""What an evaluation came to, and the files that it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from specs_lightning.evaluation.scores import Scores, score_sets
from specs_lightning.groups import Prompt
from specs_lightning.prompts.images import preview
from specs_lightning.records.answers import Answer, by_prompt, write_answers
from specs_lightning.records.samples import SAMPLES, Sample, SampledText
from specs_lightning.system.files import write_atomically

SAMPLES_OF_A_SET = 3
PREDICTIONS = "predictions.jsonl"
"""What `predict` writes."""


@dataclass(frozen=True)
class EvaluationOutcome:
    """The judged answers to some sets, of `validate`, `test` or `predict`, and whose weights the model had."""

    command: str
    model: str
    checkpoint: str | Path | None
    answers: Mapping[str, Sequence[Answer]]

    @cached_property
    def scores(self) -> dict[str, Scores]:
        return score_sets(answer for of_set in self.answers.values() for answer in of_set)

    def write(self, folder: Path, prompts: Mapping[str, Sequence[Prompt]]) -> None:
        """Write the answers and, but for `predict`, the scores and samples, given what was asked by set."""
        folder.mkdir(parents=True, exist_ok=True)
        answers = [answer for of_set in self.answers.values() for answer in of_set]
        if self.command == "predict":
            write_answers(answers, folder / PREDICTIONS)
            return
        origin = {"model": self.model, "checkpoint": self.checkpoint}
        write_answers(answers, folder / f"{self.command}_answers.jsonl")
        scores = json.dumps({**origin, "sets": self.scores}, indent=1, default=str)
        write_atomically(folder / f"{self.command}.json", scores)
        samples = [sample for name, of_set in prompts.items() for sample in self._samples(name, of_set)]
        replace(SAMPLES, name=f"{self.command}_{SAMPLES.name}").write(folder, samples)

    def _samples(self, name: str, prompts: Sequence[Prompt]) -> list[Sample]:
        """The first prompts of a set that have answers, as a training's samples."""
        groups = by_prompt(self.answers[name])
        answered = [prompt for prompt in prompts if prompt.id in groups]
        return [_sample(name, prompt, groups[prompt.id]) for prompt in answered[:SAMPLES_OF_A_SET]]


def _sample(name: str, prompt: Prompt, answers: Sequence[Answer]) -> Sample:
    completions = [
        SampledText(
            text=answer.text,
            finished=answer.finished,
            tokens=answer.tokens,
            logprob=answer.logprob,
            reward=answer.solved,
            rewards={"correct": answer.correct, "format_kept": answer.format_kept},
        )
        for answer in answers
    ]
    return Sample.of(prompt, [preview(image) for image in prompt.images], completions, set=name)

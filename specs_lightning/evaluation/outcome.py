"""What an evaluation came to, and the files that it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from specs_lightning.evaluation.scores import Scores, score_sets
from specs_lightning.groups import Prompt
from specs_lightning.prompts.images import preview
from specs_lightning.records.answers import Answer, by_prompt, write_answers
from specs_lightning.system.files import write_whole

SAMPLES_OF_A_SET = 3


@dataclass(frozen=True)
class EvaluationOutcome:
    """The judged answers to some sets.

    Args:
        command: `validate`, `test` or `predict`.
        model: the folder or name of what answered.
        checkpoint: whose weights it had, if not its own.
        answers: by set.
    """

    command: str
    model: str
    checkpoint: str | Path | None
    answers: Mapping[str, Sequence[Answer]]

    @cached_property
    def scores(self) -> dict[str, Scores]:
        return score_sets(answer for of_set in self.answers.values() for answer in of_set)

    def write(self, folder: Path, prompts: Mapping[str, Sequence[Prompt]]) -> None:
        """Write the answers and, but for `predict`, samples of them and the scores.

        Args:
            folder: where.
            prompts: what was asked, by set.
        """
        folder.mkdir(parents=True, exist_ok=True)
        answers = [answer for of_set in self.answers.values() for answer in of_set]
        if self.command == "predict":
            write_answers(answers, folder / "predictions.jsonl")
            return
        origin = {"model": self.model, "checkpoint": self.checkpoint}
        write_answers(answers, folder / f"{self.command}_answers.jsonl")
        scores = json.dumps({**origin, "sets": self.scores}, indent=1, default=str)
        write_whole(folder / f"{self.command}.json", scores)
        rows = [row for name, of_set in prompts.items() for row in self._samples(name, of_set)]
        write_whole(folder / f"{self.command}_samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def _samples(self, name: str, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """The first prompts of a set that have answers, as a training's samples."""
        groups = by_prompt(self.answers[name])
        answered = [prompt for prompt in prompts if prompt.id in groups]
        return [_sample(prompt, groups[prompt.id]) for prompt in answered[:SAMPLES_OF_A_SET]]


def _sample(prompt: Prompt, answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "step": 0,
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "images": [preview(image) for image in prompt.images],
        "answer": prompt.answer,
        "answer_format": prompt.answer_format,
        "completions": [_completion(answer.as_row()) for answer in answers],
    }


def _completion(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("text", "finished", "tokens", "logprob")}
    return {**kept, "reward": row["solved"], "rewards": {name: row[name] for name in ("correct", "format_kept")}}

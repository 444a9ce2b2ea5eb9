"""Evaluation: a policy answers prompts, and each answer is judged by whether it is right and in the asked format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specs_lightning.answer_formats import answer_format
from specs_lightning.groups import EncodedPrompt
from specs_lightning.policy import Policy
from specs_lightning.rewards import AccuracyReward
from specs_lightning.rollout.engine import RolloutEngine, SamplingSettings

MEASURES = ("format_kept", "correct", "solved")


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion of an evaluation prompt, judged.

    Args:
        set: the evaluation set.
        prompt_id: the prompt's id in it.
        text: the completion.
        tokens: its length.
        finished: whether the policy ended it, rather than the length limit.
        format_kept: 1 if it is finished and in the asked format, else 0.
        correct: 1 if its answer is right in whatever form it stands, 0 if not, NaN if it could not be judged.
        solved: both at once: what a strict harness counts.
    """

    set: str
    prompt_id: str
    text: str
    tokens: int
    finished: bool
    format_kept: float
    correct: float
    solved: float

    def as_row(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Answer:
        known: dict[str, Any] = {name: math.nan if value is None else value for name, value in row.items()}
        return cls(**known)


class Evaluator:
    """Answers prompts with an engine and judges the answers.

    Args:
        engine: what samples.
        sampling: how; each prompt may be answered several times.
        seed: with a prompt's id it determines the sampling, so that two policies meet the same luck.
    """

    def __init__(self, engine: RolloutEngine, sampling: SamplingSettings, seed: int = 0) -> None:
        self.engine, self.sampling, self.seed = engine, sampling, seed
        self.accuracy = AccuracyReward()

    def answer(self, policy: Policy, prompts: Sequence[EncodedPrompt], set_name: str) -> list[Answer]:
        """Judged answers, those to one prompt next to each other."""
        self.engine.sync(policy)
        drawn = self.engine.generate(prompts, self.sampling, seed=f"evaluation-{self.seed}-{set_name}")
        questions = [encoded.question for encoded, group in zip(prompts, drawn, strict=True) for _ in group]
        completions = [completion for group in drawn for completion in group]
        correct_N = self.accuracy(questions, completions).tolist()
        answers = []
        for prompt, completion, correct in zip(questions, completions, correct_N, strict=True):
            kept = completion.finished and answer_format(prompt.answer_format).read(completion.text) is not None
            answers.append(
                Answer(
                    set=set_name,
                    prompt_id=prompt.id,
                    text=completion.text,
                    tokens=len(completion.token_ids),
                    finished=completion.finished,
                    format_kept=float(kept),
                    correct=correct,
                    solved=correct * kept,
                )
            )
        return answers

    def close(self) -> None:
        """End the processes that judge. The engine is its owner's to close."""
        self.accuracy.close()


def write_answers(answers: Iterable[Answer], file: Path) -> None:
    """Write answers as JSONL; the file appears whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text("".join(json.dumps(answer.as_row()) + "\n" for answer in answers))
    partial.replace(file)


def read_answers(file: Path) -> list[Answer]:
    """The answers that `write_answers` wrote."""
    return [Answer.from_row(json.loads(line)) for line in file.read_text().splitlines()]


def rates(answers: Iterable[Answer]) -> dict[str, float]:
    """The mean of each measure, over the answers that could be judged; NaN where there are none."""
    answers = list(answers)
    means = {}
    for measure in MEASURES:
        values = [v for v in (getattr(answer, measure) for answer in answers) if not math.isnan(v)]
        means[measure] = sum(values) / len(values) if values else math.nan
    return means

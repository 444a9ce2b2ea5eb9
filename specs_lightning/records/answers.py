"""`answers.jsonl`: judged answers, one a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specs_lightning.system.files import write_whole

MEASURES = ("format_kept", "correct", "solved")


NOT_NUMBERS = ("answer", "task", "cause")
"""What of an answer may be None; None for anything else in a file stands for NaN."""


@dataclass(frozen=True)
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
        answer: the answer alone, without its dressing; None where none was found.
        entropy: the mean over its tokens, in nats; NaN where it was not measured.
        branching_factor: among how many tokens each was chosen, in the mean; NaN where it was not measured.
        task: the part of a benchmark that the prompt belongs to; None where there are no parts.
        cause: why it could not be judged; None where it was.
        logprob: the sum over its tokens, by the policy that sampled it, in nats; NaN in files that do not have it.
    """

    set: str
    prompt_id: str
    text: str
    tokens: int
    finished: bool
    format_kept: float
    correct: float
    solved: float
    answer: str | None = None
    entropy: float = math.nan
    branching_factor: float = math.nan
    task: str | None = None
    cause: str | None = None
    logprob: float = math.nan

    def as_row(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Answer:
        known: dict[str, Any] = {
            name: math.nan if value is None and name not in NOT_NUMBERS else value for name, value in row.items()
        }
        return cls(**known)


def write_answers(answers: Iterable[Answer], file: Path) -> None:
    """Write answers as JSONL; the file appears whole or not at all."""
    write_whole(file, "".join(json.dumps(answer.as_row()) + "\n" for answer in answers))


def read_answers(file: Path) -> list[Answer]:
    """The answers that `write_answers` wrote."""
    return [Answer.from_row(json.loads(line)) for line in file.read_text().splitlines()]


def by_prompt(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """The answers to each prompt of one set."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.prompt_id, []).append(answer)
    return groups

"""`answers.jsonl`: judged answers, one a line. Also the files of `specs validate`, `test` and `predict`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from specs_lightning.records.record import REDO_STAGE, DamagedRecord, RowFile, as_json, read_bytes
from specs_lightning.records.run import STAGE, Seal

FILE = "answers.jsonl"
"""Of a stage."""
MEASURES = ("format_kept", "correct", "solved")
Score = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""NaN, and null in the file, where it is not known."""


@dataclass(frozen=True)
class Answer:
    """One completion of an evaluation prompt, judged.

    Args:
        set: the evaluation set.
        prompt_id: the prompt's id in it.
        text: the completion's, from what the prompt `opened` on.
        tokens: its length; None of one that another harness recorded without it.
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
        opened: the reasoning tag that the chat template opened for the model; mostly none.
    """

    set: str
    prompt_id: str
    text: str
    tokens: int | None
    finished: bool
    format_kept: Score
    correct: Score
    solved: Score
    answer: str | None = None
    entropy: Score = math.nan
    branching_factor: Score = math.nan
    task: str | None = None
    cause: str | None = None
    logprob: Score = math.nan
    opened: str = ""

    def as_row(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        return dict(as_json(self))


def write_answers(answers: Iterable[Answer], file: Path) -> None:
    """Write answers as JSONL; the file appears whole or not at all."""
    RowFile(file.name, Answer, REDO_STAGE).write(file.parent, answers)


def read_answers(file: Path) -> list[Answer]:
    """The answers that `write_answers` wrote; `DamagedRecord` if not all: of a stage's, its record keeps the seal."""
    found = _seal(file)
    if found is None:
        raise DamagedRecord(file, "it is not there", REDO_STAGE)
    stage = STAGE.read(file.parent) if file.name == FILE else None
    written = stage.answers if stage else None
    if written and written.lines != found.lines:
        raise DamagedRecord(file, f"it has {found.lines} answers of {written.lines}", REDO_STAGE)
    if written and written != found:
        raise DamagedRecord(file, "its content is not what the evaluation wrote", REDO_STAGE)
    return RowFile(file.name, Answer, REDO_STAGE).read(file.parent)


def seal_answers(folder: Path) -> Seal | None:
    """What a stage's record keeps of its answers; None without any."""
    return _seal(folder / FILE)


def by_prompt(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """The answers to each prompt of one set."""
    return grouped(answers, lambda answer: answer.prompt_id)


def grouped(answers: Iterable[Answer], key: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return groups


def _seal(file: Path) -> Seal | None:
    content = read_bytes(file, REDO_STAGE)
    return None if content is None else Seal(content.count(b"\n"), hashlib.sha256(content).hexdigest())

"""`run.json` and `stage.json`: what a run is, and how far each of its stages has come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from specs_lightning.errors import SpecsError
from specs_lightning.records.record import REDO_STAGE, RUN_AGAIN, RecordFile
from specs_lightning.system.files import checked_name


class NoRunError(SpecsError, FileNotFoundError):
    """The folder is not the folder of a run."""


def _checked_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Time = Annotated[str, AfterValidator(_checked_time)]
"""In ISO 8601."""
FolderName = Annotated[str, AfterValidator(checked_name)]
"""Below the run's, and nowhere else."""


@dataclass(frozen=True)
class RunRecord:
    """A run as a whole: `stages` in order; `finished` and `seconds` are None while it goes on.

    `started` is the first start, however often it was stopped; `seconds` what its stages took (`StageRecord.seconds`).
    """

    name: str
    seed: int | None = None
    version: str = ""
    stages: tuple[FolderName, ...] = ()
    started: Time | None = None
    finished: Time | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Seal:
    """What tells whether a file is as it was written: its number of lines, and the SHA-256 of its bytes."""

    lines: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """A stage of a run.

    Args:
        kind: `fit`, `distill`, or `evaluate` of a model that is taken as it is.
        status: `running`; `trained`, of which only the evaluation is left to do; `finished`.
        seconds: of the attempt that finished it.
        cpu_seconds: likewise, of all its processes.
        fingerprint: of `settings`.
        settings: all that what it makes depends on.
        evaluation: what its evaluation depends on besides; None where there is none, and in files from before it was
            kept apart from the settings.
        model: the folder or name of its model, if it has one.
        answers: of its `answers.jsonl`, if its model was evaluated.
        version: of the package that made it; empty in files from before it was noted.
    """

    stage: str = ""
    kind: str = ""
    status: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    attempts: int = 0
    fingerprint: str
    settings: dict[str, Any]
    evaluation: dict[str, Any] | None = None
    model: str | None = None
    answers: Seal | None = None
    version: str = ""


RUN = RecordFile("run.json", RunRecord, RUN_AGAIN)
STAGE = RecordFile("stage.json", StageRecord, REDO_STAGE)


def read_run(folder: Path) -> RunRecord:
    """The record of a run; `NoRunError` where the folder holds none."""
    if (found := RUN.read(folder)) is not None:
        return found
    raise NoRunError(
        f"{folder / RUN.name} is missing, so {folder} is not the folder of a run: "
        f"give the folder that `specs run` wrote (the one with {RUN.name} in it)"
    )

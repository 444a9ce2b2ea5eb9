"""What stages do, stood in for: notes what they were asked, and leaves what the next stage takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from specs_lightning.records.answers import Answer, write_answers
from specs_lightning.runs import pipeline
from specs_lightning.runs.jobs import Job


class Stopped(Exception):
    """As if the process had been killed."""


def _job_of(work: Callable[..., float]) -> Callable[..., Job[float]]:
    """A job without commands."""

    def job(*args: Any) -> Job[float]:
        yield from ()
        return work(*args)

    return job


class Work:
    """Stands in for what stages do, and notes what they were asked."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.overrides: dict[str, list[str]] = {}
        self.stop_in: str | None = None
        self.solved = {"base": 0.0, "zero": 0.5, "cold_start": 0.5, "final": 1.0}

    def fit(self, title: str, config: str, overrides: Sequence[str], folder: Path) -> float:
        self._note("fit", folder, overrides)
        (folder / "model").mkdir()
        return 1.0

    def distill(self, title: str, config: str, overrides: Sequence[str], folder: Path) -> float:
        self._note("distill", folder, overrides)
        (folder / "pairs.parquet").write_text("pairs")
        return 1.0

    def evaluate(
        self, title: str, model: str, data: Mapping[str, Any], overrides: Sequence[str], folder: Path, seed: int
    ) -> float:
        self._note("evaluate", folder, [model, str(data.get("engine", {}).get("class_path", "")).rpartition(".")[2]])
        solved = self.solved[folder.name.partition("-")[0]]
        answers = [Answer(s, "p", "", 1, True, solved, solved, solved) for s in data["evaluation"]]
        write_answers(answers, folder / "answers.jsonl")
        return 1.0

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For what the pipeline's stages do, until the test ends."""
        for name in ("fit", "distill", "evaluate"):
            monkeypatch.setattr(pipeline, f"{name}_stage", _job_of(getattr(self, name)))

    def _note(self, what: str, folder: Path, overrides: Sequence[str]) -> None:
        trained = what == "evaluate" and (folder / "model").exists()
        assert json.loads((folder / "stage.json").read_text())["status"] == ("trained" if trained else "running")
        name = f"{what} {folder.name.partition('-')[0]}"  # in a store, its fingerprint follows
        if self.stop_in == name:
            raise Stopped(name)
        self.done.append(name)
        self.overrides[name] = list(overrides)

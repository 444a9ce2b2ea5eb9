"""What stages do, stood in for: notes what they were asked, and leaves what the next stage takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specs_lightning.records.answers import Answer, write_answers


class Stopped(Exception):
    """As if the process had been killed."""


class Work:
    """Stands in for what stages do, and notes what they were asked."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.overrides: dict[str, list[str]] = {}
        self.stop_in: str | None = None
        self.solved = {"base": 0.0, "zero": 0.5, "cold_start": 0.5, "final": 1.0}

    def fit(self, title: str, config: str, overrides: Sequence[str], folder: Path) -> None:
        self._note("fit", folder, overrides)
        (folder / "model").mkdir()

    def distill(self, config: str, overrides: Sequence[str], folder: Path) -> None:
        self._note("distill", folder, overrides)
        (folder / "pairs.parquet").write_text("pairs")

    def evaluate(
        self, title: str, model: str, sets: Any, sampling: Any, engine: Any, folder: Path, seed: int, judge: Any
    ) -> None:
        self._note("evaluate", folder, [model, type(engine).__name__])
        solved = self.solved[folder.name]
        write_answers([Answer(s, "p", "", 1, True, solved, solved, solved) for s in sets], folder / "answers.jsonl")

    def _note(self, what: str, folder: Path, overrides: Sequence[str]) -> None:
        trained = what == "evaluate" and (folder / "model").exists()
        assert json.loads((folder / "stage.json").read_text())["status"] == ("trained" if trained else "running")
        name = f"{what} {folder.name}"
        if self.stop_in == name:
            raise Stopped(name)
        self.done.append(name)
        self.overrides[name] = list(overrides)

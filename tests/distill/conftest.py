"""Questions, and distillation by scripted models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.distilling import Script, engine
from helpers.small_runs import write_prompt_file

from specs_lightning.data.pairs import load_pairs
from specs_lightning.data.sources import PromptSource
from specs_lightning.distill.pairs import PairSettings, distill
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.records.pairs import PreferencePair
from specs_lightning.rewards import JudgeSettings
from specs_lightning.rollout import SamplingSettings


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight questions whose answer is 2."""
    return str(write_prompt_file(tmp_path_factory.mktemp("questions")))


@pytest.fixture
def make(tiny_model_path: Path, questions: str, tmp_path: Path) -> Callable[..., tuple[list[PreferencePair], Any]]:
    def run(
        zero: Script | Sequence[str],
        base: Script | Sequence[str],
        output: str = "out",
        seed: int = 0,
        finished: bool = True,
        judge: JudgeSettings | None = None,
        **settings: Any,
    ) -> tuple[list[PreferencePair], Any]:
        drawn = engine(zero, base)
        drawn.finished = finished
        model, folder = str(tiny_model_path), tmp_path / output
        source, sampling = PromptSource(questions), SamplingSettings(3, 64)
        file = distill(source, model, model, str(folder), PairSettings(**settings), sampling, drawn, seed, judge)
        assert file == folder / "pairs.parquet"
        return load_pairs(str(file), SetAside()), json.loads((folder / "statistics.json").read_text())

    return run

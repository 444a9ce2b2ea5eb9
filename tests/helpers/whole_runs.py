"""The smoke run with fewer prompts, steps and tokens, done once for all tests that read what a whole run writes."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from helpers.command_line import ROOT

from benchmarks.kill_anywhere import left_alone

SMALL_GRPO = {
    "data.prompts_per_round": 4,
    "data.sampling.completions_per_prompt": 4,
    "data.sampling.max_tokens": 24,
}
SMALL_COLD_START = {"data.batch_size": 2, "trainer.max_steps": 3}
FEW: dict[str, Any] = {
    "zero": SMALL_GRPO,
    "distill": {"prompts.limit": 24},
    "cold_start": SMALL_COLD_START,
    "sft": SMALL_COLD_START,
    "final": SMALL_GRPO,
}
STEPS = {"zero": 4, "cold_start": 3, "sft": 3, "final": 4}
"""Of each stage that trains."""


@dataclass(frozen=True)
class WholeRun:
    """A run that nobody disturbed."""

    config: Path
    folder: Path
    """Its `run_dir`."""
    seconds: float
    """How long it took, imports left out."""


def write_config(file: Path) -> Path:
    """The smoke run's settings, and less of everything."""
    settings = yaml.safe_load((ROOT / "configs" / "toy" / "smoke.yaml").read_text())
    evaluation, stages = settings["evaluation"], settings["stages"]
    evaluation["in_distribution"]["limit"] = 4
    evaluation["out_of_distribution"] = {"formats/json": {"path": "toy:ood_json", "limit": 4}}
    evaluation["sampling"]["max_tokens"] = 24
    for name, overrides in FEW.items():
        stages[name]["overrides"] = stages[name]["overrides"] | overrides
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def finished_run(folder: Path) -> WholeRun:
    """The run in `folder/whole_run`, which whoever comes first does while others wait."""
    place = folder / "whole_run"
    place.mkdir(exist_ok=True)
    took = place / "seconds"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not took.exists():
            took.write_text(str(left_alone(write_config(place / "few.yaml"), place)))
    return WholeRun(place / "few.yaml", place / "run", float(took.read_text()))

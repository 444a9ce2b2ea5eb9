"""A stage's overrides from the command line: merged into the file's, as settings of another parser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from specs_lightning.errors import SettingsError
from specs_lightning.runs.planned_stages import Stage
from specs_lightning.settings.functions import function_settings

FILE = """
stages:
  base: {kind: model, model: toy:base}
  zero:
    kind: fit
    config: zero.yaml
    overrides:
      data.rounds: 2
      data.train: here
      pairs: {verify: true, more: 1}
"""


def run(stages: dict[str, Stage], name: str = "x") -> None:
    """Runs."""


def overrides(tmp_path: Path, args: Sequence[str]) -> dict[str, Any]:
    (tmp_path / "run.yaml").write_text(FILE)
    stages = function_settings(run, [f"--config={tmp_path / 'run.yaml'}", *args])["stages"]
    assert stages["base"] == Stage("model", model="toy:base")
    return stages["zero"].overrides


@pytest.mark.parametrize(
    ("args", "changed"),
    [
        ([], {}),
        (["--stages.zero.overrides.data.rounds=3"], {"data.rounds": 3}),
        (["--stages.zero.overrides.data.rounds", "3", "--name=y"], {"data.rounds": 3}),
        (["--stages.zero.overrides={data.rounds: 3}"], {"data.rounds": 3}),
        (["--stages.zero.overrides.model.policy.model=${base.model}"], {"model.policy.model": "${base.model}"}),
        (["--stages.zero.overrides={pairs: {verify: false}}"], {"pairs": {"verify": False, "more": 1}}),
        (["--stages.zero.overrides.pairs.verify=false"], {"pairs.verify": False}),  # parsed after `pairs`
        (["--stages.zero.overrides.a=[1, 2]", "--stages.zero.overrides.a=3"], {"a": 3}),
    ],
)
def test_they_are_on_top_of_the_files(tmp_path: Path, args: list[str], changed: dict[str, Any]) -> None:
    of_file = {"data.rounds": 2, "data.train": "here", "pairs": {"verify": True, "more": 1}}
    assert overrides(tmp_path, args) == {**of_file, **changed}


def test_a_stage_that_has_none_is_given_some(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("stages: {zero: {kind: fit, config: zero.yaml}}\n")
    args = [f"--config={tmp_path / 'run.yaml'}", "--stages.zero.overrides.data.rounds=3"]
    assert function_settings(run, args)["stages"]["zero"].overrides == {"data.rounds": 3}


def test_null_removes_one(tmp_path: Path) -> None:
    assert set(overrides(tmp_path, ["--stages.zero.overrides.data.rounds=null"])) == {"data.train", "pairs"}


@pytest.mark.parametrize(
    ("arg", "problem"),
    [
        ("--stages.zeroo.overrides.data.rounds=3", "stages that there are not: zeroo; there are: base, zero"),
        ("--stages.zero.overrides=3", r"stages\.zero\.overrides: expected settings by name, got 3"),
        ("--stages.zero.overrides.a", r"stages\.zero\.overrides\.a: expected a value"),
        ("--stages.zero.overrides.a=[1", r"stages\.zero\.overrides\.a: not YAML: \[1"),
    ],
)
@pytest.mark.bad_input("command lines")
def test_wrong_ones_are_named(tmp_path: Path, arg: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        overrides(tmp_path, [arg])

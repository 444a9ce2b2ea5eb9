"""The guide's own class, in a folder outside the repository, through the command line."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
import yaml
from helpers.command_line import ROOT, specs
from helpers.small_runs import write_prompt_file

GUIDE = (ROOT / "docs" / "custom_evaluation.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_evaluations.py").write_text(blocks("python")[0])
    write_prompt_file(tmp_path, 6)
    return tmp_path


def fit(folder: Path, model: Path, *arguments: str) -> dict[str, list[float]]:
    """Two rounds; what was logged below `overthinking/`."""
    specs(
        "fit",
        f"--config={ROOT / 'configs/toy/grpo.yaml'}",
        "--trainer.callbacks=[]",
        *arguments,
        f"--model.policy.model={model}",
        f"--trainer.default_root_dir={folder / 'run'}",
        "--data.train.path=prompts.jsonl",
        "--data.rounds=2",
        "--data.prompts_per_round=2",
        "--data.sampling={completions_per_prompt: 2, max_tokens: 6}",
        cwd=folder,
    )
    with (folder / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("overthinking/over_the_limit")]
    names = [name for name in rows[0] if name.startswith("overthinking/")]
    return {name.removeprefix("overthinking/"): [float(row[name] or "nan") for row in rows] for name in names}


def test_named_on_the_command_line(tiny_model_path: Path, folder: Path) -> None:
    command = next(block for block in blocks("bash") if "my_evaluations" in block)
    arguments = shlex.split(command.replace("\\\n", " "))[4:]
    arguments = [re.sub("toy:id", "prompts.jsonl", argument) for argument in arguments]
    more = ["--trainer.callbacks.sampling.max_tokens=6", "--trainer.callbacks.limit=5"]
    found = fit(folder, tiny_model_path, *arguments, *more)
    assert found["over_the_limit"] == [1.0, 1.0]  # a random model does not end by itself; before and after
    assert found["tokens_if_wrong"] == [6.0, 6.0]


def test_named_in_a_file(tiny_model_path: Path, folder: Path) -> None:
    callbacks = yaml.safe_load(blocks("yaml")[0].replace("toy:id", "prompts.jsonl"))
    callbacks[0]["init_args"] |= {"every_n_steps": 1, "sampling": {"completions_per_prompt": 1, "max_tokens": 4}}
    (folder / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    found = fit(folder, tiny_model_path, "--config=mine.yaml")
    assert found["over_the_limit"] == [0.0, 0.0, 0.0]


def test_its_monitors_are_what_the_package_takes(tiny_model_path: Path, folder: Path) -> None:
    callbacks = yaml.safe_load(blocks("yaml")[0].replace("toy:id", "prompts.jsonl")) + yaml.safe_load(blocks("yaml")[1])
    callbacks[0]["init_args"]["sampling"] = {"completions_per_prompt": 1, "max_tokens": 4}
    for callback in callbacks[1:]:
        callback["init_args"]["monitor"] = "overthinking/tokens_if_wrong"
    (folder / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    fit(folder, tiny_model_path, "--config=mine.yaml")
    assert (folder / "run" / "checkpoints" / "best.ckpt").exists()


def test_every_example_that_it_names_is_there() -> None:
    named = re.findall(r"`callbacks\.(\w+)\.(\w+)`", GUIDE)
    assert len(named) == 3
    for module, name in named:
        assert f"class {name}(EvaluationCallback)" in (ROOT / "callbacks" / f"{module}.py").read_text()

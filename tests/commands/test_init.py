"""`specs init` writes a project that trains at once."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers.command_line import refused, specs

from specs_lightning.data.sources import PromptSource, load_prompts
from specs_lightning.prompts.set_aside import SetAside
from specs_lightning.runs.pipeline import run
from specs_lightning.settings.functions import function_settings


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "mine"
    specs("init", folder)
    return folder


def test_every_row_of_its_data_can_be_used(project: Path) -> None:
    for name, size in (("train", 200), ("held_out", 60)):
        set_aside = SetAside()
        prompts = load_prompts(PromptSource(str(project / "data" / f"{name}.jsonl")), set_aside, thorough=True)
        assert len(prompts) == size and not set_aside.rows
        assert all(len(prompt.images) == 1 for prompt in prompts)


def test_its_settings_are_those_of_a_run_and_name_its_own_classes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    settings = function_settings(run, ["--config=specs.yaml"], name="run")
    assert list(settings["stages"]) == ["base", "zero", "distill", "cold_start", "sft", "final"]
    assert "my_rewards.Brevity" in json.dumps(settings["stages"]["zero"].overrides)


def test_a_stage_trains_by_its_own_reward_and_evaluation(project: Path) -> None:
    specs(
        "fit",
        "--config=toy/grpo.yaml",
        "--data.train={path: data/train.jsonl, limit: 4}",
        "--data.prompts_per_round=2",
        "--data.rounds=1",
        "--data.sampling.completions_per_prompt=2",
        "--data.sampling.max_tokens=16",
        "--data.rewards=[{class_path: my_rewards.Brevity, init_args: {limit: 8}}]",
        "--trainer.callbacks=[{class_path: my_evaluations.Overthinking, init_args: "
        "{prompts: {path: data/held_out.jsonl, limit: 2}}}]",
        "--trainer.default_root_dir=run",
        cwd=project,
    )
    assert (project / "run" / "model" / "config.json").is_file()
    columns = (project / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/rewards/brevity/mean", "overthinking/tokens_if_wrong"} <= {*columns}


def test_the_commands_that_its_readme_tells_are_there(project: Path) -> None:
    told = re.findall(r"^specs ([^#\n]+)", (project / "README.md").read_text(), re.MULTILINE)
    check, whole, stage = map(shlex.split, told)
    specs(*check, cwd=project)
    found = json.loads((project / "runs" / "data-check" / "check.json").read_text())["sources"]
    assert {one["rows"] for one in found.values()} == {200, 60, 20} and not list(project.rglob("set_aside.jsonl"))
    for command in (whole, stage):
        with pytest.raises(SystemExit) as exit:
            specs(*command, "--print_config", cwd=project)
        assert exit.value.code in (0, None)


@pytest.mark.long
def test_it_goes_through_the_whole_method(project: Path) -> None:
    specs("run", "--config=specs.yaml", cwd=project)
    assert (project / "runs" / "first" / "report.html").is_file()


def test_what_it_says_to_do_next_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "it's [/mine] $(touch owned)"
    specs("init", place)
    told = capsys.readouterr().out.splitlines()
    assert shlex.split(told[1]) == ["cd", str(place)]


def test_a_folder_with_content_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    assert "is not empty" in refused(capsys, "init", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]

"""A stage is the command that a person would type: with which settings, and what is left in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.command_line import ROOT, specs
from helpers.whole_runs import WholeRun, write_config

from specs_lightning.records.metrics import read_metrics
from specs_lightning.records.results import ModelScores, read_results
from specs_lightning.records.run import STAGE
from specs_lightning.runs.jobs import Job
from specs_lightning.runs.stages import COMPUTING, EVALUATION_FILE, distill_stage, evaluate_stage, fit_stage

DATA = {"evaluation": {"id": {"path": "toy:id", "limit": 4}}, "evaluation_sampling": {"max_tokens": 9}}
TRAINED = (
    "--trainer.devices=2",
    "--trainer.strategy=fsdp2",
    "--trainer.accelerator=cpu",
    "--trainer.precision=bf16-mixed",
    "--model.policy.dtype=bfloat16",
    "--model.policy.attention=eager",
    "--model.policy.lora={rank: 4}",
    "--model.policy.quantization=4bit",
)


def command_of(job: Job[float]) -> list[str]:
    """The one that a stage runs, which leaves what `specs test` would; the time that it took comes back."""
    command = next(job)
    args = command.args
    assert command.folder is not None
    if args[0] == "test":
        folder = Path(args[1].removeprefix("--config=")).parent
        (folder / "test_answers.jsonl").write_text("answers")
        (folder / "test_samples.jsonl").write_text("of the evaluation")
    with pytest.raises(StopIteration) as ended:
        job.send(2.5)
    assert ended.value.value == 2.5
    return list(args)


def parsed(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """The settings that a command would run with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        specs(*args, "--print_config")
    assert exit.value.code == 0
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


def test_what_the_pipeline_says_wins_over_a_stages_overrides(tmp_path: Path) -> None:
    """The last of several values is taken."""
    fit = command_of(fit_stage("zero", "a.yaml", ["--data.rounds=3"], tmp_path))
    distill = command_of(distill_stage("distill", "b.yaml", ["--pairs=[]"], tmp_path))
    own = [f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"]
    assert fit == ["fit", "--config=a.yaml", "--data.rounds=3", *own]
    assert distill == ["distill", "--config=b.yaml", "--pairs=[]", f"--output={tmp_path}"]


def test_a_trained_model_is_evaluated_in_its_type_on_as_many_devices_without_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And `specs test` takes the settings that are written."""
    trained = parsed(capsys, "fit", "--config=configs/toy/grpo.yaml", *TRAINED)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained))
    command = command_of(evaluate_stage("zero", "r/zero/model", DATA, [], tmp_path, seed=3))
    found = parsed(capsys, *command)
    trainer, policy = found["trainer"], found["model"]["init_args"]["policy"]
    assert (int(trainer["devices"]), trainer["strategy"], trainer["accelerator"]) == (2, "fsdp2", "cpu")
    assert trainer["precision"] == "bf16-mixed" and trainer["default_root_dir"] == str(tmp_path)
    assert (policy["model"], policy["dtype"], policy["attention"]) == ("r/zero/model", "bfloat16", "eager")
    assert policy["lora"] is policy["quantization"] is None
    data = found["data"]["init_args"]
    assert (found["seed_everything"], data["seed"]) == (3, 3)
    assert data["evaluation"]["id"]["limit"] == 4 and data["evaluation_sampling"]["max_tokens"] == 9


def test_of_a_training_only_what_it_computes_by_is_taken_over(tmp_path: Path) -> None:
    computing = {"accelerator": "cpu", "strategy": "ddp", "devices": 2, "num_nodes": 1, "precision": None}
    trained = {
        "trainer": computing | {"max_steps": 9, "callbacks": ["one"], "limit_test_batches": 1},
        "model": {"init_args": {"policy": {"model": "base", "dtype": "bfloat16"}}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained))
    command_of(evaluate_stage("zero", "r/zero/model", DATA, [], tmp_path, seed=0))
    written = yaml.safe_load((tmp_path / EVALUATION_FILE).read_text())
    own = {"default_root_dir": str(tmp_path), "logger": False, "enable_model_summary": False}
    assert written["trainer"] == computing | own


def test_a_model_that_was_not_trained_here_is_evaluated_as_it_is_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--model.policy.dtype=bfloat16"]
    command = command_of(evaluate_stage("base", "toy:base", DATA, own, tmp_path / "new", seed=0))
    assert command == ["test", f"--config={tmp_path / 'new' / EVALUATION_FILE}", "--model.policy.dtype=bfloat16"]
    written = yaml.safe_load((tmp_path / "new" / EVALUATION_FILE).read_text())
    assert "devices" not in written["trainer"] and "strategy" not in written["trainer"]
    assert parsed(capsys, *command)["model"]["init_args"]["policy"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("kept", [None, "of the training"])
def test_answers_and_samples_of_them_are_the_stages_beside_what_a_training_has_kept(
    tmp_path: Path, kept: str | None
) -> None:
    files = {"answers.jsonl", "answer_samples.jsonl", EVALUATION_FILE}
    if kept is not None:
        (tmp_path / "samples.jsonl").write_text(kept)
        trained = {"trainer": dict.fromkeys(COMPUTING, "auto"), "model": {"init_args": {"policy": {}}}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained))
        files |= {"config.yaml", "samples.jsonl"}
    command_of(evaluate_stage("base", "toy:base", DATA, [], tmp_path, seed=0))
    assert {file.name for file in tmp_path.iterdir()} == files
    assert (tmp_path / "answers.jsonl").read_text() == "answers"
    assert (tmp_path / "answer_samples.jsonl").read_text() == "of the evaluation"
    assert kept is None or (tmp_path / "samples.jsonl").read_text() == kept


@pytest.mark.slow
def test_a_stage_on_two_processes_comes_to_what_it_comes_to_on_one(whole_run: WholeRun, tmp_path: Path) -> None:
    """Training and evaluation; up to the rounding of sums in another order."""
    two = {"trainer.devices": 2, "trainer.strategy": "fsdp2", "trainer.accelerator": "cpu"}
    overrides = [f"--stages.zero.overrides.{name}={value}" for name, value in two.items()]
    specs("run", f"--config={whole_run.config}", *overrides, "--until=zero", f"--run_dir={tmp_path / 'run'}", cwd=ROOT)
    (shares,) = (tmp_path / "run" / "zero" / "answers").iterdir()
    assert {"0.jsonl", "1.jsonl"} <= {file.name for file in shares.iterdir()}
    for found, expected in zip(models(tmp_path / "run"), models(whole_run.folder)[:2], strict=True):
        assert found.name == expected.name
        assert figures(found) == pytest.approx(figures(expected), rel=1e-5, nan_ok=True)
    second_imports = 3  # seconds at the least, twice
    assert cpu_seconds(tmp_path / "run") > cpu_seconds(whole_run.folder) + second_imports


@pytest.mark.slow
def test_a_run_trains_on_two_processes_with_a_vllm_in_each(tmp_path: Path) -> None:
    two = {"trainer.devices": 2, "trainer.strategy": "fsdp2", "trainer.accelerator": "cpu"}
    overrides = [f"--stages.zero.overrides.{name}={value}" for name, value in two.items()]
    vllm = (
        "{class_path: specs_lightning.rollout.VLLMEngine, init_args: {vllm: {max_model_len: 512, kv_cache_gib: 0.1}}}"
    )
    places = [f"--config={write_config(tmp_path / 'few.yaml')}", f"--run_dir={tmp_path / 'run'}"]
    specs("run", *places, *overrides, f"--engine={vllm}", "--until=zero", cwd=ROOT)
    assert [model.name for model in models(tmp_path / "run")] == ["base", "zero"]
    gaps = read_metrics(tmp_path / "run" / "zero")["train/mismatch/max"].values
    assert len(gaps) == 2 and max(gaps) <= 1e-4  # of each round


def cpu_seconds(run: Path) -> float:
    record = STAGE.read(run / "zero")
    assert record is not None and record.cpu_seconds is not None
    return record.cpu_seconds


def models(run: Path) -> tuple[ModelScores, ...]:
    results = read_results(run)
    assert results is not None
    return results.models


def figures(model: ModelScores) -> dict[str, float]:
    """What the table has of a model."""
    row = {name: getattr(model, name) for name in ("gain_id", "gain_ood", "generalization_factor")}
    for name, scores in model.sets.items():
        row |= {f"{name}/{measure}": getattr(scores, measure) for measure in ("format_kept", "correct", "solved")}
        row[f"{name}/tokens"] = scores.tokens
    return {name: float("nan") if value is None else value for name, value in row.items()}

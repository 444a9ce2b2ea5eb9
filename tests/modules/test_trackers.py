"""Trackers get what a training logs, its settings and its samples, and go on with it; their packages stood in for."""

from __future__ import annotations

import base64
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import specs
from helpers.fake_trackers import PACKAGES, Notes, stand_in
from helpers.small_runs import write_prompt_file
from helpers.synthetic_run import picture

from specs_lightning.modules.trackers import COLUMNS, make_trackers, side_by_side
from specs_lightning.prompts.images import png
from specs_lightning.records.samples import SAMPLES
from specs_lightning.records.trackers import TRACKERS

STEPS = 2
CALLBACKS = [
    {"class_path": "specs_lightning.callbacks.SampleTable", "init_args": {"groups": 2, "completions": 2}},
    {"class_path": "specs_lightning.callbacks.Checkpoints", "init_args": {"every_n_steps": 1}},
]


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", "")  # for it to be put back as it was
    monkeypatch.delenv("TRACKIO_DIR")
    return stand_in(monkeypatch)


def train(tiny_model_path: Path, run: Path, *more: str) -> None:
    """Two steps of GRPO as the stage `zero` of a run, with all four trackers and samples of the first."""
    specs(
        "fit",
        "--config=configs/toy/grpo.yaml",
        f"--model.policy.model={tiny_model_path}",
        f"--data.train.path={write_prompt_file(run / 'data')}",
        f"--data.rounds={STEPS}",
        "--data.prompts_per_round=2",
        "--data.sampling={completions_per_prompt: 2, max_tokens: 4}",
        f"--trainer.default_root_dir={run / 'zero'}",
        f"--trainer.callbacks={json.dumps(CALLBACKS)}",
        f"--logger=[{', '.join(PACKAGES)}]",
        f"--run_dir={run}",
        *more,
    )


def test_each_gets_every_figure_the_settings_and_samples_with_images(
    tiny_model_path: Path, tmp_path: Path, notes: Notes
) -> None:
    run = tmp_path / "toy"
    train(tiny_model_path, run)
    with (run / "zero" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [(int(row["step"]), float(row["train/loss"])) for row in rows if row["train/loss"]]
    assert len(losses) == STEPS
    assert [
        (v["trainer/global_step"], v["train/loss"]) for v in notes.of("wandb", "log") if "train/loss" in v
    ] == losses
    assert [(step, v["train/loss"]) for v, step in notes.of("trackio", "log") if "train/loss" in v] == losses
    scalars = [call for call in notes.of("tensorboard", "add_scalar") if call[0] == "train/loss"]
    assert [(step, value) for _, value, step in scalars] == losses
    sent = [one for given in notes.of("mlflow", "log_batch") for one in given.get("metrics", ())]
    assert [(one.step, one.value) for one in sent if one.key == "train/loss"] == losses

    _settings_of_all(notes, tiny_model_path)
    _samples_of_all(notes, SAMPLES.read(run / "zero"))
    assert notes.of("wandb", "finish") == ["w1"] and notes.of("trackio", "finish") == ["zero"]


def _settings_of_all(notes: Notes, model: Path) -> None:
    (config,) = notes.of("wandb", "config")
    assert config["model"]["init_args"]["policy"]["model"] == str(model)
    name = "model.init_args.policy.model"
    assert notes.of("trackio", "init")[0]["config"][name] == str(model)
    assert notes.of("tensorboard", "hparams")[0][name.replace(".", "/")] == str(model)
    params = [one for given in notes.of("mlflow", "log_batch") for one in given.get("params", ())]
    assert {one.key: one.value for one in params}[name.replace(".", "/")] == str(model)


def _samples_of_all(notes: Notes, samples: list[Any]) -> None:
    """A row a completion, in the order of `samples.jsonl`, and an image where the prompt has one."""
    texts = [text.text for one in samples for text in one.completions]
    with_image = [bool(one.images) for one in samples for _ in one.completions]
    assert len(texts) == 4 and any(with_image)
    (table,) = [values["samples"].content for values in notes.of("wandb", "log") if "samples" in values]
    assert table["columns"] == list(COLUMNS)
    assert [row[COLUMNS.index("completion")] for row in table["data"]] == texts
    assert [row[COLUMNS.index("image")] is not None for row in table["data"]] == with_image
    (frame,) = [v["samples"].content["dataframe"] for v, _ in notes.of("trackio", "log") if "samples" in v]
    assert list(frame["completion"]) == texts and [one is not None for one in frame["image"]] == with_image
    pictures = notes.of("tensorboard", "add_image")
    assert len(pictures) == sum(bool(one.images) for one in samples) and pictures[0][1].shape == (84, 84, 3)
    assert all(
        text.text in said
        for one, (_, said, _) in zip(samples, notes.of("tensorboard", "add_text"), strict=True)
        for text in one.completions
    )
    (_, columns, file) = notes.of("mlflow", "log_table")[0]
    images = {name: picture for _, picture, name in notes.of("mlflow", "log_image")}
    assert file == "samples.json" and columns["completion"] == texts
    assert [name is not None for name in columns["image"]] == with_image
    assert {name for name in columns["image"] if name} == set(images)


def test_stages_are_one_group_and_all_files_are_in_the_runs_folder(
    tiny_model_path: Path, tmp_path: Path, notes: Notes
) -> None:
    run = tmp_path / "toy"
    train(tiny_model_path, run)
    (begun,) = notes.of("wandb", "init")
    assert {name: begun[name] for name in ("project", "group", "name", "dir")} == {
        "project": "specs-lightning",
        "group": "toy",
        "name": "zero",
        "dir": str(run),
    }
    (begun,) = notes.of("trackio", "init")
    assert (begun["project"], begun["name"]) == ("toy", "zero")
    assert notes.of("tensorboard", "writer") == [str(run / "tensorboard" / "zero")]
    assert notes.of("mlflow", "uri") == [f"sqlite:///{run}/mlflow.db"]
    assert notes.of("mlflow", "create_experiment") == [{"name": "toy", "artifact_location": f"file://{run}/mlflow"}]
    assert notes.of("mlflow", "create_run") == [{"mlflow.runName": "zero"}]


def test_a_training_that_goes_on_does_so_in_the_same_runs_and_a_new_one_in_new_ones(
    tiny_model_path: Path, tmp_path: Path, notes: Notes
) -> None:
    run = tmp_path / "toy"
    train(tiny_model_path, run)
    first = TRACKERS.read(run / "zero")
    assert first == {"mlflow": "m1", "tensorboard": "zero", "trackio": "zero", "wandb": "w1"}
    settings_sent = len(notes.of("wandb", "config")), len(notes.of("tensorboard", "hparams"))
    (run / "tensorboard" / "zero").mkdir(parents=True)  # as the package would have it
    train(tiny_model_path, run, "--ckpt_path=last", "--data.rounds=3")
    assert TRACKERS.read(run / "zero") == first
    assert notes.of("wandb", "init")[-1]["id"] == "w1" and notes.of("wandb", "init")[-1]["resume"] == "allow"
    assert notes.of("trackio", "init")[-1]["resume"] == "allow" and notes.of("mlflow", "get_run")[-1] == "m1"
    assert (len(notes.of("wandb", "config")), len(notes.of("tensorboard", "hparams"))) == settings_sent
    train(tiny_model_path, run)
    assert TRACKERS.read(run / "zero") == {
        "mlflow": "m2",
        "tensorboard": "zero-1",
        "trackio": "zero-new",
        "wandb": "w2",
    }


def test_what_the_environment_says_of_places_is_heeded(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.lab")
    monkeypatch.setenv("TRACKIO_DIR", "/elsewhere")
    found: Any = make_trackers(["mlflow", "wandb", "trackio"], tmp_path / "zero", None, goes_on=False)
    assert found["wandb"]._wandb_init["project"] == "mine" and found["wandb"]._wandb_init["group"] == "zero"
    assert notes.of("mlflow", "uri") == ["https://mlflow.lab"] and found["mlflow"]._artifact_location is None
    assert os.environ["TRACKIO_DIR"] == "/elsewhere"


def test_images_of_a_prompt_are_laid_side_by_side() -> None:
    small = png(side_by_side([picture(0)]).resize((10, 30)))  # type: ignore[union-attr]  # there is one
    joined = side_by_side([picture(0), base64.b64encode(small).decode()])
    assert joined is not None and joined.size == (94, 84)
    assert np.array_equal(np.asarray(joined)[:, :84], np.asarray(side_by_side([picture(0)])))
    assert not np.asarray(joined)[30:, 84:].any() and side_by_side([]) is None
